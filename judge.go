package pgpooled

import (
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"os"
	"strings"

	"github.com/lib/pq"
)

// The text is lib/pq's own; its check is lost once a statement is prepared
// while rows are open.
var (
	errRowsOpen   = errors.New("pq: there is already a query being processed on this connection")
	errCancelled  = errors.New("success was answered after a cancel request: it need not be durable")
	errCopyOpen   = errors.New("a COPY was not ended: the connection was closed, which rolls back")
	errLateCancel = errors.New("a cancel request may still be on its way to it")
	errGivenUp    = errors.New("the connection was given up")
	errStaleStmt  = errors.New("pgpooled: statement used after its connection was returned to the pool")
	errStaleTx    = errors.New("pgpooled: transaction used after its connection was returned to the pool")
	errStaleRows  = errors.New("pgpooled: rows read after their connection was returned to the pool")
)

// end closes a call and judges its error.
func (i *interceptor) end(c call, err error) error {
	i.guard.end()
	if err == nil {
		return i.trust(c)
	}
	return i.judge(c, err)
}

// trust decides whether success may be believed. A cancel request that meets a
// commit waiting for synchronous replication makes the server answer success
// with a warning, though no standby has the data; that may be the commit of a
// single statement too.
func (i *interceptor) trust(c call) error {
	ended := c.ended()
	if i.s.unreplicated.Swap(false) {
		return i.s.outcomeUnknown(c.ctx, &OutcomeUnknownError{Op: c.op, Sent: i.sent(c), Cause: errUnreplicated, Ctx: ended})
	}
	if ended == nil || !i.s.cancelled.Load() || c.tx != nil && !c.commits() || c.query == "" || c.op == "prepare" || onlyReads(c.query) {
		return nil
	}
	return i.s.outcomeUnknown(c.ctx, &OutcomeUnknownError{Op: c.op, Sent: i.sent(c), Cause: errCancelled, Ctx: ended})
}

func (i *interceptor) sent(c call) int64 {
	if i.s.wire == nil {
		return -1
	}
	return i.s.wire.sent.Load() - c.before
}

// judge decides what the caller learns of an error that lib/pq reported.
func (i *interceptor) judge(c call, err error) error {
	if err == nil {
		return nil
	}
	var answer *pq.Error
	if errors.As(err, &answer) && !errors.Is(err, driver.ErrBadConn) {
		if c.op == "commit" && answer.Code.Class() == "08" { // a pooler's, that has lost the server
			return i.lost(c, err)
		}
		if first := i.s.replayOf; first != nil && answer.Code == "25006" { // the first run may have written
			return i.s.outcomeUnknown(c.ctx, &OutcomeUnknownError{Op: first.Op, Sent: first.Sent, Cause: first.Cause})
		}
		i.noteRefusal(c, answer)
		if ended := c.ended(); ended != nil {
			return &contextError{ctx: ended, answer: err}
		}
		return err
	}
	if !i.connectionFailed(err) {
		return err
	}
	cause := i.failure()
	switch {
	case cause != nil:
	case !errors.Is(err, driver.ErrBadConn):
		cause = err
	case i.s.wire != nil && !i.s.wire.copying.Load() && !startsWithCopy(c.query): // nobody reads
		cause = i.s.wire.answer.farewell(nil)
	}
	return i.lost(c, cause)
}

func (i *interceptor) failure() error {
	if i.s.wire == nil {
		return nil
	}
	return i.s.wire.failure()
}

// connectionFailed tells a failure of the connection from what lib/pq refuses
// by itself, as arguments that it cannot encode.
func (i *interceptor) connectionFailed(err error) bool {
	var ne net.Error
	return i.failure() != nil || errors.Is(err, driver.ErrBadConn) || i.s.valid() != nil ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &ne) ||
		strings.HasPrefix(err.Error(), notUnderstood)
}

// notUnderstood begins the one untyped error with which lib/pq stops reading
// rows, as for COPY among several statements, and keeps the rest of the answer
// for whoever calls next.
const notUnderstood = "pq: unexpected message after execute"

// lost is the error for a call whose connection failed: the table in
// docs/retry.md.
func (i *interceptor) lost(c call, cause error) error {
	i.s.doomed.Store(true)
	sent := i.sent(c)
	ended := c.ended()
	if cause == nil && ended != nil {
		cause = errGivenUp
	}
	cause = explain(cause)
	lost := &ConnLostError{Op: c.op, InTx: c.tx != nil && !c.loose, Sent: sent, Cause: cause, Ctx: ended}
	if c.rows {
		lost.Op = "rows"
	}
	unknown := &OutcomeUnknownError{Op: c.op, Sent: sent, Cause: cause, Ctx: ended, ticket: c.ticket}
	if i.s.unreplicated.Load() {
		unknown.ticket, unknown.Check = nil, errUnreplicated
	}
	switch {
	case c.op == "commit" && sent != 0:
		return i.s.outcomeUnknown(c.ctx, unknown)
	case c.tx != nil && sent != 0 && c.commits():
		return i.s.outcomeUnknown(c.ctx, unknown)
	case c.tx != nil:
		return lost
	case sent == 0 && ended != nil:
		return ended
	case sent == 0, c.op == "ping", c.op == "prepare", c.op == "begin", c.op == "close":
		lost.repeatable = ended == nil && i.repeats()
		return lost
	case sent > 0 && onlyReads(c.query):
		lost.read = !c.rows && ended == nil && i.repeats() && !waitedTooLong(cause)
		return lost
	case neverSent(cause) && !c.rows:
		lost.repeatable = ended == nil && i.repeats()
		return lost
	}
	// The caller may have said that once more does no harm.
	unknown.repeatable = !c.rows && ended == nil && !waitedTooLong(cause) && (i.mode() == RetryAll || isIdempotent(c.ctx))
	return i.s.outcomeUnknown(c.ctx, unknown)
}

// mode is retry_mode.
func (i *interceptor) mode() RetryMode {
	if i.s.pool == nil {
		return RetryOff // it is still being opened
	}
	return i.s.pool.mode
}

// repeats says whether retry_mode allows to repeat what had no effect.
func (i *interceptor) repeats() bool { return i.mode() == RetrySafe || i.mode() == RetryAll }

// waitedTooLong tells a statement that took longer than socket_timeout, PgBouncer's
// query_timeout or the server's transaction_timeout from one whose connection
// failed: again would add to the load.
func waitedTooLong(cause error) bool {
	var f *farewell
	if errors.As(cause, &f) {
		return f.code == "25P04" || f.code == "08P01" && strings.HasPrefix(f.message, "query timeout")
	}
	return errors.Is(cause, os.ErrDeadlineExceeded)
}
