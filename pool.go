package pgpooled

import (
	"context"
	"database/sql/driver"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Invariants, which hold whenever mu is free (checkLocked asserts them in tests):
//
//   - A session is in exactly one place: idle, leased, or in the hands of one
//     goroutine that opens or closes it (counted by opening and closing).
//   - idle + leased + opening + closing is never made to exceed the limit; after
//     the limit was lowered it only falls.
//   - Nobody waits while a session is idle.
//   - Nobody waits while a slot is free, unless the last dial failed and one
//     probe is under way.
//   - Waiters are served in the order in which they came. A waiter is either in
//     the line or has one delivery in its channel, never both, never neither.
//   - After close nothing is idle and nobody waits.

// pool lends sessions. What it does under mu is a few assignments: dialling,
// pinging, closing, logging and calling back happen outside.
type pool struct {
	name string
	open func(context.Context) (*session, error) // one attempt, bounded by itself
	log  *slog.Logger

	example atomic.Pointer[driver.Conn]
	hidden  sync.Once // the hint about wrappers that hide IsValid
	tracing bool      // leases remember who took them
	keeps   bool      // database/sql may keep leases
	mode    RetryMode // retry_mode

	commitCheck CommitCheck // of transactions whose context does not say

	observer func(context.Context, CallEvent) // WithCallObserver's, may be nil
	deaf     atomic.Bool                      // it has panicked

	pooler       sync.Once     // the warning about one
	noStatements atomic.Bool   // the statement caches are off
	planEpoch    atomic.Uint64 // grows when cached statements turn out to be out of date

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of the pool
	wake   chan struct{}  // makes upkeep look again
	done   chan struct{}  // closed when close is through

	mu       sync.Mutex // guards all below; never held across I/O
	limits   limits
	idle     []*session  // the last one came back last
	leased   sessionList // the first one was taken first
	waiters  waiterList
	opening  int
	closing  int
	epoch    uint64      // sessions of an earlier one go when they come back
	outdated closeReason // why the last epoch ended
	lostAt   time.Time   // when a connection last failed in a call
	closed   bool
	drained  chan struct{} // closed when the last lease of a closed pool is back
	outage   outage
	warming  int // sessions that Warm has, or waits for
	counts   counts
	watched  bool            // upkeep already looks after the waiters
	next     time.Time       // when upkeep looks again, zero = when poked
	tending  bool            // upkeep is at it
	events   []event         // to be logged, at most mostEvents
	unlogged int             // how many did not fit
	past     eventsKept      // for the status page
	history  *timeline       // nil = nobody has mounted the status page
	logging  bool            // flushLogs is at it
	checked  time.Time       // when upkeep last looked at warm sessions
	ledger   ledger          // of commit_check=ledger
	noCheck  map[string]bool // why commit_check cannot work, as logged
}

func newPool(name string, l limits, log *slog.Logger, open func(context.Context) (*session, error)) *pool {
	p := &pool{
		name: name, limits: l, log: log, open: open, tracing: l.leakAfter > 0, mode: l.retry.mode,
		wake: make(chan struct{}, 1), done: make(chan struct{}), drained: make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Add(1)
	go p.upkeep()
	return p
}

// acquire leases a session to l: an idle one, one that comes back, or a new one,
// within pool_timeout and the context, whichever ends first.
func (p *pool) acquire(ctx context.Context, l *lease) (*session, error) {
	start := time.Now()
	if l.wait != nil {
		l.wait.counted = false
	}
	for now := start; ; now = time.Now() {
		s, err := p.take(ctx, l, start, now)
		if err != nil {
			return nil, err
		}
		ok, err := p.usable(ctx, s, start)
		if ok {
			return s, nil
		}
		if err != nil {
			return nil, err
		}
		why := closedDead
		if d, ok := ctx.Deadline(); ctx.Err() != nil || ok && !time.Now().Before(d) { // it may work: its answer was not awaited
			why = closedCancelled
		}
		p.giveUp(s, why)
	}
}

// take gets a session without looking at it. start is when the caller came: it
// sets the caller's place in line, also when it comes again.
func (p *pool) take(ctx context.Context, l *lease, start, now time.Time) (*session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	p.outage.interest = start
	if n := len(p.idle); n > 0 {
		s := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.lendLocked(s, l, now)
		p.counts.waitTimes.Counts[0]++ // no wait: its length is not worth a look at the clock
		if p.limits.minIdle > 0 {
			p.growLocked()
		}
		p.mu.Unlock()
		return s, nil
	}
	if err := p.hopelessLocked(start); err != nil {
		p.mu.Unlock()
		p.observe(ctx, CallEvent{Kind: CallWaitedOutage, Err: err})
		return nil, err
	}
	w := l.waiter(start, now)
	p.waiters.push(w)
	if !w.counted {
		w.counted = true
		p.counts.waits++
	}
	p.growLocked()
	p.watchLocked(start)
	if p.limits.timeout > 0 {
		p.wakeByLocked(start.Add(p.limits.timeout))
	}
	p.mu.Unlock()

	select {
	case d := <-w.ch:
		p.noteWaited(ctx, w)
		return d.s, d.err
	case <-ctx.Done():
		return p.giveUpWaiting(ctx, w)
	}
}

// giveUpWaiting leaves the line, unless a delivery was faster: then a session
// is handed on.
func (p *pool) giveUpWaiting(ctx context.Context, w *waiter) (*session, error) {
	ended := ctx.Err()
	p.mu.Lock()
	if w.queued {
		err := p.timeoutLocked(w.since, ended)
		p.counts.cancelled++
		p.leaveLocked(w, time.Now())
		p.mu.Unlock()
		p.noteWaited(ctx, w)
		return nil, err
	}
	p.mu.Unlock()
	d := <-w.ch // sent before the waiter left the line
	p.noteWaited(ctx, w)
	if d.s != nil {
		p.release(d.s)
		return nil, ended
	}
	return nil, d.err
}

// noteWaited tells the observer of a wait in an outage.
func (p *pool) noteWaited(ctx context.Context, w *waiter) {
	if w.away {
		p.observe(ctx, CallEvent{Kind: CallWaitedOutage, Waited: w.waited, Err: w.last})
	}
}

// lendLocked puts a session into the hands of a lease.
func (p *pool) lendLocked(s *session, l *lease, now time.Time) {
	s.taken, s.lease, s.inUse = now, l, true
	l.leaked = false
	s.suspect = p.suspectLocked(s)
	l.s = s
	p.leased.push(s)
	p.counts.acquires++
	p.counts.peakInUse = max(p.counts.peakInUse, p.leased.n)
	if p.waiters.n > 0 {
		p.watchLocked(now)
	}
	if after := p.limits.leakAfter; after > 0 {
		p.wakeByLocked(now.Add(after))
	}
}

// deliverLocked gives a session that is in nobody's hands to the first in line,
// or makes it idle. It returns false if it can do neither.
func (p *pool) deliverLocked(s *session, now time.Time) bool {
	if w := p.waiters.first; w != nil {
		p.leaveLocked(w, now)
		p.counts.waitTimes.add(w.waited)
		p.lendLocked(s, w.lease, now)
		w.ch <- delivery{s: s}
		return true
	}
	if len(p.idle) >= p.maxIdleLocked() {
		return false
	}
	p.idle = append(p.idle, s)
	p.wakeByLocked(p.idleUntilLocked(s))
	return true
}

// release takes a session back from a lease.
func (p *pool) release(s *session) {
	answered := s.intr.used
	why, ok := s.comeBack(false)
	now := time.Now()
	p.mu.Lock()
	if !s.inUse { // the pool was closed over it
		p.mu.Unlock()
		return
	}
	p.returnLocked(s, now)
	if ok && answered {
		s.idleSince = now
		p.answeredLocked(s.taken, now)
	}
	switch {
	case !ok:
	case p.closed:
		why, ok = closedPool, false
	case s.epoch != p.epoch:
		why, ok = p.outdated, false
	case p.excessLocked():
		why, ok = closedLimit, false
	case p.expiredLocked(s, now):
		why, ok = closedLifetime, false
	case !p.deliverLocked(s, now):
		why, ok = closedMaxIdle, false
	}
	if !ok {
		p.noteLossLocked(why, now)
		p.retireLocked(s, why)
	}
	p.drainedLocked()
	p.mu.Unlock()
	if !ok {
		s.awaitGone()
	}
}

// giveUp takes back a leased session that is of no use.
func (p *pool) giveUp(s *session, why closeReason) {
	s.doomed.Store(true)
	p.mu.Lock()
	ours := s.inUse
	if ours {
		now := time.Now()
		p.returnLocked(s, now)
		p.noteLossLocked(why, now)
		p.retireLocked(s, why)
		p.drainedLocked()
	}
	p.mu.Unlock()
	if ours {
		s.awaitGone()
	}
}

// returnLocked takes a session out of its lease's hands.
func (p *pool) returnLocked(s *session, now time.Time) {
	p.counts.useTimes.add(now.Sub(s.taken))
	p.leased.remove(s)
	s.inUse, s.lease = false, nil
}

// retireLocked closes a session that is in nobody's hands. It keeps its slot
// until the server has closed its end.
func (p *pool) retireLocked(s *session, why closeReason) {
	p.counts.closed[why]++
	p.endLocked(s)
}

func (p *pool) endLocked(s *session) {
	p.closing++
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		s.close()
		if s.gone != nil {
			close(s.gone)
		}
		p.mu.Lock()
		p.closing--
		p.growLocked()
		p.mu.Unlock()
	}()
}

// timeoutLocked is the error of a caller that got nothing.
func (p *pool) timeoutLocked(start time.Time, ended error) error {
	return &PoolTimeoutError{
		Waited: time.Since(start), Timeout: p.limits.timeout,
		Limit: p.limits.maxOpen, InUse: p.leased.n, Idle: len(p.idle),
		Opening: p.opening, Closing: p.closing, Waiting: p.waiters.n,
		OutageFor: p.outage.age(time.Now()), Connect: p.outage.last, Ctx: ended,
	}
}

// exemplar is a connection to ask how it would convert an argument.
func (p *pool) exemplar() driver.Conn {
	if c := p.example.Load(); c != nil {
		return *c
	}
	return nil
}

// hintHidden says, once, that something hides IsValid.
func (p *pool) hintHidden() {
	p.hidden.Do(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.logLocked(slog.LevelWarn, "pgpooled: a wrapper around the driver hides driver.Validator, so database/sql keeps sessions of its own; "+
			"call db.SetMaxIdleConns(-1) to give them back after each call")
	})
}
