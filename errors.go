package pgpooled

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// Sentinels for errors.Is. The typed errors below carry the facts.
var (
	// ErrPoolTimeout is matched by the error of a call that got no session
	// within pool_timeout; errors.As with *PoolTimeoutError gives the numbers.
	ErrPoolTimeout = errors.New("pgpooled: pool timeout")

	// ErrClosed is returned by everything that is asked of a pool after
	// db.Close or Connector.Close.
	ErrClosed = errors.New("pgpooled: pool is closed")
)

// PoolTimeoutError says why a call got no session: it waited as long as
// pool_timeout allows, or its context ended first, or the server has been away
// for longer than pool_timeout.
//
// errors.Is(err, ErrPoolTimeout) holds unless the context ended first;
// errors.Is with the context's error holds if it did. It never matches
// driver.ErrBadConn: database/sql would wait two more times.
type PoolTimeoutError struct {
	Waited  time.Duration // how long this call waited
	Timeout time.Duration // pool_timeout, 0 = no limit

	Limit   int // max_open_conns, 0 = no limit
	InUse   int // sessions leased to callers
	Idle    int // sessions nobody uses
	Opening int // sessions being dialled
	Closing int // sessions whose server end is not closed yet; they count against the limit
	Waiting int // callers in line, this one included

	OutageFor time.Duration // how long the server has been unreachable, 0 = it is not
	Connect   error         // the last failed attempt to connect, nil = none since the last success
	Ctx       error         // the context's error if that ended the wait, else nil
}

func (e *PoolTimeoutError) Error() string {
	var b strings.Builder
	switch {
	case e.Ctx != nil:
		fmt.Fprintf(&b, "pgpooled: %v while waiting %s for a session", e.Ctx, round(e.Waited))
	case e.OutageFor > 0 && e.Waited < e.Timeout:
		fmt.Fprintf(&b, "pgpooled: pool timeout: the server has been unreachable for %s, longer than pool_timeout (%s)",
			round(e.OutageFor), e.Timeout)
	default:
		fmt.Fprintf(&b, "pgpooled: pool timeout: no session within pool_timeout (%s)", e.Timeout)
	}
	limit := "none"
	if e.Limit > 0 {
		limit = fmt.Sprint(e.Limit)
	}
	fmt.Fprintf(&b, " (limit %s, in use %d, idle %d, opening %d, closing %d, waiting %d)",
		limit, e.InUse, e.Idle, e.Opening, e.Closing, e.Waiting)
	switch {
	case e.Connect != nil:
		fmt.Fprintf(&b, "; last connect error: %v", e.Connect)
	case e.Limit > 0 && e.InUse >= e.Limit:
		b.WriteString("; all sessions are in use: the usual cause is rows or a transaction left open while the same goroutine asks for another connection; " +
			"else raise max_open_conns, or find the holder with leak_detection_threshold")
	}
	return b.String()
}

// Unwrap gives what the wait ended on: the context's error or the last connect
// error.
func (e *PoolTimeoutError) Unwrap() []error {
	var errs []error
	if e.Ctx != nil {
		errs = append(errs, e.Ctx)
	}
	if e.Connect != nil {
		errs = append(errs, e.Connect)
	}
	return errs
}

// Is makes errors.Is(err, ErrPoolTimeout) hold.
func (e *PoolTimeoutError) Is(target error) bool { return target == ErrPoolTimeout && e.Ctx == nil }

// OutcomeUnknownError says that a statement was sent, in part or whole, and the
// connection failed before its answer came: it may have been executed or not.
// pgpooled does not repeat it. The caller can look for the effect, or repeat
// what is safe to repeat.
//
// Where the caller allowed it ([WithIdempotent], retry_mode=all) the statement was
// repeated before the caller sees this error: then no repetition came through. If a context's
// end led to it, errors.Is(err, context.DeadlineExceeded) (or Canceled) holds too.
type OutcomeUnknownError struct {
	Op    string // "exec", "query", "commit", ...
	Sent  int64  // bytes of it that left this process; -1 = not known
	Cause error  // why the connection failed
	Ctx   error  // the context's error if its end led here, else nil
	Check error  // why commit_check could not find out, nil = it was off

	repeatable bool    // database/sql may repeat it
	ticket     *ticket // to find out with, nil = there is no way
}

func (e *OutcomeUnknownError) Error() string {
	check := ""
	if e.Check != nil {
		check = fmt.Sprintf("; commit_check could not find out: %v", e.Check)
	}
	if e.Cause == errCancelled || e.Cause == errUnreplicated {
		return fmt.Sprintf("pgpooled: outcome unknown: %s: %s; check for its effect before trying again", e.Op, because(e.Ctx, e.Cause))
	}
	return fmt.Sprintf("pgpooled: outcome unknown: the connection failed after the %s was sent (%s); "+
		"it may have been executed and was not repeated: check for its effect before trying again%s", e.Op, because(e.Ctx, e.Cause), check)
}

// because joins the context's error and the cause, in the order of events.
func because(ctx, cause error) string {
	switch {
	case ctx == nil:
		return fmt.Sprint(cause)
	case cause == nil, errors.Is(cause, ctx):
		return ctx.Error()
	}
	return fmt.Sprintf("%v, then %v", ctx, cause)
}

// Is matches driver.ErrBadConn where the caller allowed the repetition.
func (e *OutcomeUnknownError) Is(target error) bool {
	return target == driver.ErrBadConn && e.repeatable
}

// Unwrap gives the cause and the context's error.
func (e *OutcomeUnknownError) Unwrap() []error { return causes(e.Cause, e.Ctx) }

// ConnLostError says that the connection failed and that no harm was done: the
// call had not been sent, or a pooler had it and no server, or the server has
// rolled back the transaction that it belonged to, or it only asked for an answer,
// as far as its text can tell (a view or an operator may write all the same).
//
// errors.Is(err, driver.ErrBadConn) holds where database/sql may safely repeat
// the call on another connection, and only there.
type ConnLostError struct {
	Op    string // "exec", "query", "begin", "ping", ...
	InTx  bool   // the call belonged to a transaction, which is gone
	Sent  int64  // bytes of the call that left this process; -1 = not known
	Cause error  // why the connection failed
	Ctx   error  // the context's error if its end led here, else nil

	repeatable bool // database/sql may repeat it
	read       bool // the lease may repeat it, if it was its first call
}

func (e *ConnLostError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pgpooled: connection lost during %s", e.Op)
	switch {
	case e.InTx && e.Op == "commit" && e.Sent == 0:
		b.WriteString(": the transaction was not committed: COMMIT was not sent")
	case e.InTx && e.Op == "commit":
		b.WriteString(": the transaction was not committed, as commit_check found out: run it again from BEGIN")
	case e.InTx:
		b.WriteString(": the transaction is gone, nothing of it was done: run it again from BEGIN")
	case e.Sent == 0:
		b.WriteString(": nothing was sent")
	}
	fmt.Fprintf(&b, " (%s)", because(e.Ctx, e.Cause))
	return b.String()
}

// Unwrap gives the cause and the context's error.
func (e *ConnLostError) Unwrap() []error { return causes(e.Cause, e.Ctx) }

// Is matches driver.ErrBadConn where the call may be repeated.
func (e *ConnLostError) Is(target error) bool { return target == driver.ErrBadConn && e.repeatable }

// contextError is the context's error together with what the server answered
// when the statement was cancelled.
type contextError struct {
	ctx, answer error
}

func (e *contextError) Error() string   { return fmt.Sprintf("%v (%v)", e.ctx, e.answer) }
func (e *contextError) Unwrap() []error { return []error{e.ctx, e.answer} }

// connectError is a failure to open a connection that is not the server's own
// answer (those pass as *pq.Error). It never matches driver.ErrBadConn.
type connectError struct {
	cause   error
	took    time.Duration
	timeout time.Duration // connect_timeout if it was what ended the attempt, else 0

	turnedAway  bool // the server answered before anything was asked, with an error
	wrongServer bool // there is a server, but without the target_session_attrs
}

func (e *connectError) Error() string {
	if e.timeout > 0 {
		return fmt.Sprintf("pgpooled: connecting took longer than connect_timeout (%s): %v", e.timeout, e.cause)
	}
	return fmt.Sprintf("pgpooled: connecting failed after %s: %v", round(e.took), e.cause)
}

func (e *connectError) Unwrap() error { return plain(e.cause) }

// causes lists what an error wraps, without driver.ErrBadConn: database/sql
// repeats whatever matches it.
func causes(errs ...error) []error {
	var out []error
	for _, err := range errs {
		if err = plain(err); err != nil {
			out = append(out, err)
		}
	}
	return out
}

func plain(err error) error {
	if err == nil || errors.Is(err, driver.ErrBadConn) {
		return nil
	}
	return err
}

// explain turns what a socket says into what happened to it.
func explain(err error) error {
	var last *farewell
	switch {
	case err == nil:
		return errors.New("the server reported a fatal error or broke the protocol")
	case errors.As(err, &last):
		return &causeError{"the server closed the connection", last}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &causeError{"the server closed the connection", err}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return &causeError{"the connection was reset", err}
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return &causeError{"the network did not answer in time", err}
	case errors.Is(err, net.ErrClosed):
		return &causeError{"the connection was closed by this process", err}
	}
	return err
}

type causeError struct {
	what  string
	cause error
}

func (e *causeError) Error() string { return fmt.Sprintf("%s: %v", e.what, e.cause) }
func (e *causeError) Unwrap() error { return e.cause }

func round(d time.Duration) time.Duration {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second)
	case d >= time.Second:
		return d.Round(10 * time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond)
	}
	return d
}
