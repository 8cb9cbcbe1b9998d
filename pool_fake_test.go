package pgpooled

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lib/pq"
)

var (
	errRefused  = fmt.Errorf("dial: %w", syscall.ECONNREFUSED)
	errPassword = &pq.Error{Code: "28P01", Message: "password authentication failed"}
	errDead     = errors.New("the session is dead")
	errFull     = &pq.Error{Code: "53300", Message: "sorry, too many clients already"}
)

// fakeServer opens fake sessions for one pool and watches what becomes of them.
type fakeServer struct {
	mu        sync.Mutex
	limit     int                                    // no dial may make more sessions than this exist; 0 = not watched
	dial      func(ctx context.Context, n int) error // nil = succeeds at once; n counts from 1
	prepare   func(c *fakeConn)                      // what is special about the next sessions
	closing   func(c *fakeConn)                      // how long closing takes; nil = no time
	conns     []*fakeConn                            // all that were ever opened
	dials     int                                    // begun
	dialling  int                                    // under way
	together  int                                    // most dials under way at a time
	exist     int                                    // sessions that exist, the ones being dialled included
	most      int                                    // most that existed at a time
	pings     int                                    // calls that ran
	pingTakes time.Duration                          // set before the pool is used
	shut      bool                                   // sessions in use may be cut
	found     []string                               // what must not have happened
	checked   int                                    // how often a dead session was noticed
}

func (f *fakeServer) faultLocked(format string, args ...any) {
	f.found = append(f.found, fmt.Sprintf(format, args...))
}

// faults says what must not have happened.
func (f *fakeServer) faults() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.found) > 0 {
		return errors.New(strings.Join(f.found[:min(3, len(f.found))], "; "))
	}
	return nil
}

func (f *fakeServer) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// refuse makes dials fail with err, nil = succeed.
func (f *fakeServer) refuse(err error) {
	f.set(func() { f.dial = func(context.Context, int) error { return err } })
}

// hang makes dials take d, or as long as their context if that is shorter.
func (f *fakeServer) hang(d time.Duration) {
	f.set(func() { f.dial = func(ctx context.Context, _ int) error { return pause(ctx, d) } })
}

func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// open is pool.open.
func (f *fakeServer) open(ctx context.Context) (*session, error) {
	f.mu.Lock()
	f.dials++
	f.dialling++
	f.exist++
	n, dial := f.dials, f.dial
	f.together = max(f.together, f.dialling)
	f.most = max(f.most, f.exist)
	if f.limit > 0 && f.exist > f.limit {
		f.faultLocked("dial %d makes %d sessions of a limit of %d", n, f.exist, f.limit)
	}
	f.mu.Unlock()
	var err error
	if dial != nil {
		err = dial(ctx, n)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dialling--
	if err != nil {
		f.exist--
		return nil, err
	}
	c := &fakeConn{f: f, id: len(f.conns) + 1, answers: -1}
	c.s = &session{conn: c, base: c, created: time.Now(), jitter: 0.5}
	c.s.intr = &interceptor{s: c.s}
	if f.prepare != nil {
		f.prepare(c)
	}
	f.conns = append(f.conns, c)
	return c.s, nil
}

// begun counts dials, parallel is the most at a time.
func (f *fakeServer) begun() (n int)    { f.set(func() { n = f.dials }); return n }
func (f *fakeServer) parallel() (n int) { f.set(func() { n = f.together }); return n }

// fakeConn is one session's connection. Its fields are guarded by f.mu.
type fakeConn struct {
	sessionConn // nil: what is not here must not be called
	f           *fakeServer
	id          int
	s           *session
	owner       *lease // who uses it
	busy        bool   // a call is under way
	closed      bool
	mute        bool // looks alive, but does not answer
	answers     int  // how many more times IsValid is true, -1 = always
}

func (c *fakeConn) IsValid() bool {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	if c.answers > 0 {
		c.answers--
		return true
	}
	if c.answers == 0 {
		c.f.checked++
	}
	return c.answers < 0
}

// kill makes IsValid false after so many more looks.
func (c *fakeConn) kill(after int) { c.f.set(func() { c.answers = after }) }

func (c *fakeConn) Close() error {
	c.f.mu.Lock()
	if c.closed {
		c.f.faultLocked("session %d was closed twice", c.id)
	}
	if c.owner != nil && !c.f.shut {
		c.f.faultLocked("session %d was closed in use", c.id)
	}
	c.closed = true
	closing := c.f.closing
	if c.f.shut {
		closing = nil // cut
	}
	c.f.mu.Unlock()
	if closing != nil {
		closing(c)
	}
	c.f.set(func() { c.f.exist-- })
	return nil
}

func (c *fakeConn) Ping(ctx context.Context) error {
	c.f.mu.Lock()
	c.f.pings++
	if c.busy {
		c.f.faultLocked("session %d runs two calls at a time", c.id)
	}
	if c.closed || c.mute || c.answers == 0 {
		if c.owner == nil { // the pool asks
			c.f.checked++
		}
		c.f.mu.Unlock()
		return errDead
	}
	c.busy = true
	c.f.mu.Unlock()
	err := pause(ctx, c.f.pingTakes)
	c.f.set(func() { c.busy = false })
	return err
}

// work runs a call on a lease, which makes it a used one.
func (f *fakeServer) work(ctx context.Context, l *lease) error {
	s, err := l.use(ctx)
	if err != nil {
		return err
	}
	c := s.base.(*fakeConn)
	f.set(func() {
		switch {
		case c.closed && !f.shut:
			f.faultLocked("session %d is used after it was closed", c.id)
		case c.owner != nil && c.owner != l:
			f.faultLocked("session %d is in two hands", c.id)
		}
		c.owner = l
	})
	s.intr.used = true // without a lock: the race detector looks as well
	return c.Ping(ctx)
}

// give returns a lease.
func (f *fakeServer) give(l *lease) {
	f.set(func() {
		if l.s != nil && l.s.base.(*fakeConn).owner == l {
			l.s.base.(*fakeConn).owner = nil
		}
	})
	_ = l.Close()
}

// conn is a lease's connection.
func conn(l *lease) *fakeConn { return l.s.base.(*fakeConn) }

func lim(n int) limits {
	return limits{
		maxOpen: n, maxIdle: -1, timeout: 10 * time.Second,
		retry: retryPolicy{mode: RetrySafe, baseDelay: 50 * time.Millisecond, maxDelay: time.Second},
	}
}

// bubble runs f under synctest with a pool that is closed at the end. A
// goroutine that never sleeps would stop the fake clock for good: the watchdog
// says so, in real time.
func bubble(t *testing.T, l limits, f func(t *testing.T, p *pool, srv *fakeServer)) {
	t.Helper()
	dog := time.AfterFunc(30*time.Second, func() {
		panic(t.Name() + ": the clock of the bubble stands still: a goroutine of the pool never sleeps")
	})
	defer dog.Stop()
	synctest.Test(t, func(t *testing.T) {
		srv := &fakeServer{limit: l.maxOpen}
		p := newPool("test", l, slog.New(slog.DiscardHandler), srv.open)
		synctest.Wait() // upkeep has looked, and sleeps
		defer func() {
			if r := recover(); r != nil {
				panic(r) // perhaps under p.mu
			}
			// also after t.Fatal, or the goroutines that are left hide the reason
			synctest.Wait()
			sound(t, p, srv)
			srv.set(func() { srv.shut = true })
			_ = p.close(0)
			synctest.Wait()
			sound(t, p, srv)
			srv.set(func() {
				if srv.exist != 0 {
					t.Errorf("%d sessions are left after close", srv.exist)
				}
			})
		}()
		f(t, p, srv)
	})
}

// sound checks the invariants and the books of a pool at rest.
func sound(t *testing.T, p *pool, srv *fakeServer) {
	t.Helper()
	if err := audit(p, srv); err != nil {
		t.Error(err)
	}
}

// audit needs a pool at rest: nothing may be between two of its locks.
func audit(p *pool, srv *fakeServer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.checkLocked(); err != nil {
		return err
	}
	if err := srv.faults(); err != nil {
		return err
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	gone, c := int64(0), &p.counts
	for _, n := range c.closed {
		gone += n
	}
	for s := p.leased.first; s != nil; s = s.next {
		if w := s.lease.wait; w != nil && (len(w.ch) != 0 || w.queued) {
			return errors.New("a lease has a session and waits for another")
		}
	}
	opened := len(p.idle) + p.leased.n
	for _, s := range p.idle {
		if s.doomed.Load() || s.epoch != p.epoch {
			return errors.New("a session that should have gone is idle")
		}
	}
	switch {
	case len(p.idle) > p.maxIdleLocked():
		return fmt.Errorf("%d idle, %d allowed", len(p.idle), p.maxIdleLocked())
	case c.opens != int64(len(srv.conns)):
		return fmt.Errorf("%d opens counted, the server saw %d", c.opens, len(srv.conns))
	case c.opens-gone != int64(opened):
		return fmt.Errorf("%d opened, %d closed, but %d are held", c.opens, gone, opened)
	case c.openErrors != int64(srv.dials-srv.dialling-len(srv.conns)):
		return fmt.Errorf("%d failed dials counted of %d, %d under way, %d opened", c.openErrors, srv.dials, srv.dialling, len(srv.conns))
	case srv.exist != opened+srv.dialling+p.closing:
		return fmt.Errorf("the server has %d sessions, the pool holds %d, dials %d, closes %d", srv.exist, opened, srv.dialling, p.closing)
	case p.opening != srv.dialling:
		return fmt.Errorf("opening %d, dialling %d", p.opening, srv.dialling)
	}
	return nil
}

// lease takes a lease that must be had at once.
func take(t *testing.T, p *pool) *lease {
	t.Helper()
	start := time.Now()
	l, err := p.newLease(t.Context())
	if err != nil {
		t.Fatalf("no session: %v", err)
	}
	if d := time.Since(start); d > 0 {
		t.Errorf("waited %s for a session that should have been there", d)
	}
	return l
}

// outcome is how an acquire ended.
type outcome struct {
	n      int
	l      *lease
	err    error
	waited time.Duration
}

// line starts n callers, one after the other, and returns when all wait or are
// served; who is served uses his session, so that it cannot be reclaimed. Their outcomes come in the order in which they end.
func line(ctx context.Context, p *pool, srv *fakeServer, n int) <-chan outcome {
	out := make(chan outcome, n)
	for i := range n {
		go func() {
			start := time.Now()
			l, err := p.newLease(ctx)
			if err == nil {
				err = srv.work(context.WithoutCancel(ctx), l)
			}
			out <- outcome{i, l, err, time.Since(start)}
		}()
		synctest.Wait()
		time.Sleep(time.Nanosecond) // no two arrive at the same time
	}
	synctest.Wait()
	return out
}

func poolTimeout(t *testing.T, err error) *PoolTimeoutError {
	t.Helper()
	var e *PoolTimeoutError
	if !errors.As(err, &e) {
		t.Fatalf("got %T %v, want *PoolTimeoutError", err, err)
	}
	return e
}
