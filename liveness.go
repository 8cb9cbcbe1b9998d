package pgpooled

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"
)

// A session that was idle for staleAfter, or while the connection of another
// one failed, is pinged before it is handed out; the ping may take pingLimit.
const (
	staleAfter = 30 * time.Second
	pingLimit  = time.Second
)

// confirmLimit is the longest that a new session may take to answer the question
// of confirm. Longer, and a connection that is dead would hold up too many.
const confirmLimit = 30 * time.Second

// justAnswered is how long a session need not be looked at after an answer. A
// look is a system call, six per cent of the client's work for a short query
// under load; a connection that ends in a moment as short as the call that
// follows does no more harm than one that ends in that call.
const justAnswered = time.Millisecond

// usable looks at a session before it is handed out. One that was idle for long,
// or that is suspect, is pinged; if that fails, the others like it go too. It
// fails if there is no time left to ask: the session is then back in the pool.
func (p *pool) usable(ctx context.Context, s *session, start time.Time) (bool, error) {
	if s.taken.Sub(s.idleSince) < justAnswered && !s.suspect && s.wire != nil && !s.doomed.Load() {
		return true, nil
	}
	if s.check() != nil {
		return false, nil
	}
	if !s.suspect && !s.stale(s.taken) {
		return true, nil
	}
	now := time.Now()
	limit, err := p.timeToAsk(ctx, start, now)
	if err != nil {
		p.release(s)
		return false, err
	}
	err = s.ping(ctx, limit)
	if err == nil {
		return true, nil
	}
	if ctx.Err() != nil || limit < pingLimit && isTimeout(err) {
		return false, nil // the caller was in a hurry: that says nothing of the others
	}
	p.mu.Lock()
	for i := len(p.idle) - 1; i >= 0; i-- {
		if p.idle[i].stale(now) || p.suspectLocked(p.idle[i]) {
			p.retireIdleLocked(i, closedDead)
		}
	}
	p.mu.Unlock()
	return false, nil
}

// timeToAsk is how long a ping may take, or the error of a caller whose time is
// over.
func (p *pool) timeToAsk(ctx context.Context, start, now time.Time) (time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := pingLimit
	if t := p.limits.timeout; t > 0 {
		if limit = min(limit, t-now.Sub(start)); limit <= 0 {
			p.counts.timeouts++
			return 0, p.timeoutLocked(start, nil)
		}
	}
	if d, ok := ctx.Deadline(); ok {
		if limit = min(limit, d.Sub(now)); limit <= 0 {
			p.counts.cancelled++
			return 0, p.timeoutLocked(start, context.DeadlineExceeded)
		}
	}
	return limit, nil
}

// check says why the session must not be handed out; nil = it is fine as far
// as can be seen without a round trip.
func (s *session) check() error {
	if s.doomed.Load() {
		return errors.New("its deadline has fired")
	}
	if s.wire != nil {
		return s.wire.quiet()
	}
	return s.valid()
}

// stale says whether the session was idle for so long, by the wall clock, that
// its socket may not know of its end: a machine that slept, or a load balancer
// that forgot the connection.
func (s *session) stale(now time.Time) bool {
	return !s.idleSince.IsZero() && now.Round(0).Sub(s.idleSince.Round(0)) >= staleAfter
}

// noteLossLocked remembers that a connection failed in a call. What it met, a
// load balancer that forgot its connections, say, may have met those that were
// idle then, without a sign: the caller's next tries, and other callers' writes,
// must not find out one by one.
func (p *pool) noteLossLocked(why closeReason, now time.Time) {
	if why == closedBroken {
		p.lostAt = now
	}
}

// suspectLocked says whether nothing was heard of the session since then.
func (p *pool) suspectLocked(s *session) bool { return s.idleSince.Before(p.lostAt) }

// confirm asks a new session for an answer, where a connection has failed in a
// call and none has answered since. PgBouncer lets its clients in before it has a
// server for them, and turns away what they send: without the question an outage
// behind it would look like sessions that open, and break under each caller.
// Whether it is there is not always known, and the question costs one round trip
// after a loss.
//
// PgBouncer may also be busy and answer in its turn. The next session has twice as
// long then: whoever leaves a line each second never comes to its head.
func (p *pool) confirm(s *session) error {
	p.mu.Lock()
	doubt := p.lostAt.After(p.outage.answer)
	limit := min(max(pingLimit, s.intr.grace, 2*p.outage.patience), confirmLimit) // the grace goes by the time that dialling took
	p.mu.Unlock()
	if !doubt || s.wire == nil {
		return nil
	}
	began := time.Now()
	err := s.ping(p.ctx, limit)
	p.mu.Lock()
	if p.outage.patience = 0; isTimeout(err) {
		p.outage.patience = limit
	}
	p.mu.Unlock()
	if err == nil {
		return nil
	}
	cause := fmt.Errorf("a session was let in, and not answered: %w", explain(s.wire.failure()))
	return &connectError{cause: cause, took: time.Since(began), turnedAway: true}
}

// ping makes a round trip of at most the given time, less if ctx ends. The error
// is the connection's own: lib/pq makes ErrBadConn of each.
func (s *session) ping(ctx context.Context, limit time.Duration) error {
	p, ok := s.base.(driver.Pinger)
	if !ok {
		return nil
	}
	if s.wire == nil {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return p.Ping(ctx)
	}
	stop := context.AfterFunc(ctx, s.wire.cut)
	err := s.wire.SetDeadline(time.Now().Add(limit))
	if err == nil {
		err = p.Ping(context.Background())
	}
	switch {
	case !stop():
		return ctx.Err()
	case err != nil:
		return cmp.Or(s.wire.failure(), err)
	}
	return s.wire.SetDeadline(time.Time{})
}

func (s *session) valid() error {
	if v, ok := s.base.(driver.Validator); ok && !v.IsValid() {
		return driver.ErrBadConn
	}
	return nil
}
