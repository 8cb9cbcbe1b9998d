package pgpooled

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"

	"github.com/lib/pq"
)

type idempotentKey struct{}

// WithIdempotent marks the statements that are run with the context as safe to
// repeat: if the connection is lost after one was sent and before its first row
// reached the caller, it runs again on another connection. Use it for statements
// whose second run changes nothing, as an upsert with fixed values or a DELETE by
// key. It does nothing for a statement in a transaction: the transaction is gone.
//
// retry_mode=all is the same for every statement of a pool.
func WithIdempotent(ctx context.Context) context.Context {
	return context.WithValue(ctx, idempotentKey{}, true)
}

func isIdempotent(ctx context.Context) bool { return ctx.Value(idempotentKey{}) != nil }

// maxReplays bounds how often one read is repeated, as database/sql bounds its
// own repetitions. A session that is lost before it has read is not counted, up
// to maxBegins: a server that goes down ends them one after the other.
const (
	maxReplays = 3
	maxBegins  = 12
)

// readAgain runs a reading statement again whose connection was lost before its
// first row reached the caller. onlyReads is no proof, so it runs inside a READ
// ONLY transaction of a session that nobody has afterwards: a statement that
// writes after all is refused there, and then its first run may have written.
//
// Only the first call of a lease is repeated: no state of the session can be
// missing then.
func readAgain[T any](ctx context.Context, l *lease, lost error, run func(sessionConn) (T, error)) (T, error) {
	var zero T
	err := lost
	for begins, runs := 0, 0; runs < maxReplays && begins < maxBegins; begins++ {
		var cl *ConnLostError
		if !errors.As(err, &cl) || !cl.read {
			break
		}
		l.pool.giveUp(l.s, closedBroken)
		s, aerr := l.replace(ctx)
		if aerr != nil {
			return zero, fmt.Errorf("%w; no other connection to read again on: %w", lost, aerr)
		}
		s.replay, s.replayOf = true, cl
		l.pool.noteReplay(ctx, cl)
		if err = s.readOnly(ctx); err == nil {
			runs++
			l.replayed = true
			var v T
			if v, err = run(s.conn); err == nil {
				return v, nil
			}
		} else {
			s.replayOf = nil
			if cause := s.intr.failure(); cause != nil {
				err = cause
			}
			err = &ConnLostError{Op: cl.Op, Sent: cl.Sent, Cause: explain(err), Ctx: ctx.Err(), read: ctx.Err() == nil}
		}
	}
	return zero, err
}

// runAgain runs on another connection what may be repeated as it is. The lease
// does it and not database/sql, which would try a pinned statement on the same
// connection and hide the cause behind sql.ErrConnDone, and would forget, when
// there is no other connection, that the first run may have had its effect.
func runAgain[T any](ctx context.Context, l *lease, lost error, run func(sessionConn) (T, error)) (v T, err error) {
	for range maxReplays {
		l.pool.giveUp(l.s, closedBroken)
		s, aerr := l.replace(ctx)
		if aerr != nil {
			return v, fmt.Errorf("%w; no other connection to run it again on: %w", pinned(lost), aerr)
		}
		l.pool.noteRerun(ctx, lost)
		if v, err = run(s.conn); err == nil {
			return v, nil
		}
		var (
			answer  *pq.Error
			unknown *OutcomeUnknownError
		)
		if before := lost; errors.As(before, &unknown) && !errors.As(err, &unknown) && !errors.As(err, &answer) {
			lost = fmt.Errorf("%w; run again: %w", pinned(before), pinned(err))
		} else {
			lost = err
		}
		if !errors.Is(err, driver.ErrBadConn) {
			break
		}
	}
	return v, pinned(lost)
}

// pinned is an error that database/sql does not repeat.
func pinned(err error) error {
	var (
		lost    *ConnLostError
		unknown *OutcomeUnknownError
	)
	switch {
	case errors.As(err, &lost) && lost.repeatable:
		once := *lost
		once.repeatable = false
		return &once
	case errors.As(err, &unknown) && unknown.repeatable:
		once := *unknown
		once.repeatable = false
		return &once
	}
	return err
}

// readOnly opens a READ ONLY transaction. The session is discarded when the
// lease returns it, and a pooler between here and the server does not carry the
// transaction over to another client as it might carry a SET.
func (s *session) readOnly(ctx context.Context) error {
	if s.wire != nil {
		i := s.intr
		i.guard.begin(ctx, s, i.grace)
		defer i.guard.end()
	}
	b, ok := s.base.(driver.ConnBeginTx)
	if !ok {
		return errors.New("pgpooled: no READ ONLY transactions here")
	}
	tx, err := b.BeginTx(context.WithoutCancel(ctx), driver.TxOptions{ReadOnly: true})
	s.readTx = tx
	return err
}

// endReadOnly lets a lease that is kept, as a sql.Conn's, go on where it has
// read: what it was told of the session, as its pg_backend_pid, stays true, and
// so does what the read left there, as an advisory lock.
func (s *session) endReadOnly(ctx context.Context) error {
	i := s.intr
	if s.wire != nil {
		i.guard.begin(ctx, s, i.grace)
		defer i.guard.end()
	}
	err := s.readTx.Rollback()
	s.replayOf = nil
	if err == nil {
		return nil
	}
	s.doomed.Store(true)
	if cause := i.failure(); cause != nil {
		err = cause
	}
	return &ConnLostError{Op: "call", Cause: explain(err), Ctx: ctx.Err()}
}

func (p *pool) noteReplay(ctx context.Context, lost *ConnLostError) {
	p.mu.Lock()
	p.counts.replays++
	p.logLocked(slog.LevelWarn, "pgpooled: reading again on another connection", slog.String("op", lost.Op), slog.String("cause", lost.Cause.Error()))
	p.mu.Unlock()
	p.observe(ctx, CallEvent{Kind: CallReadAgain, Op: lost.Op, Err: lost.Cause})
}

// noteRerun counts what runs again other than as a read: what the caller allows,
// and what a demoted server refused.
func (p *pool) noteRerun(ctx context.Context, why error) {
	e := CallEvent{Kind: CallRunAgain, Err: why}
	var unknown *OutcomeUnknownError
	if errors.As(why, &unknown) {
		e.Op, e.Err = unknown.Op, unknown.Cause
	}
	p.mu.Lock()
	p.counts.reruns++
	p.mu.Unlock()
	p.observe(ctx, e)
}
