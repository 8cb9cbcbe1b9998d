package pgpooled

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// seed is PGPOOLED_TEST_SEED, or a new one.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := rand.Uint64()
	if v := os.Getenv("PGPOOLED_TEST_SEED"); v != "" {
		var err error
		if n, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d (PGPOOLED_TEST_SEED=%d repeats it)", n, n)
	return n
}

// step is one thing that happens to a pool: what, and three numbers that choose
// whom and how.
type step struct {
	kind    string
	a, b, c int
}

var kinds = []struct {
	kind   string
	weight int
}{
	{"acquire", 30}, {"use", 14}, {"release", 22}, {"cancel", 5}, {"kill", 4}, {"doom", 2}, {"dial", 6}, {"limit", 4},
	{"max idle", 2}, {"min idle", 1}, {"times", 2}, {"closing", 1}, {"refresh", 1}, {"advance", 16}, {"together", 8},
}

func history(r *rand.Rand, n int) []step {
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	steps := make([]step, n)
	for i := range steps {
		at := r.IntN(total)
		for _, k := range kinds {
			if at -= k.weight; at < 0 {
				steps[i] = step{k.kind, r.IntN(1000), r.IntN(1000), r.IntN(1000)}
				break
			}
		}
	}
	return steps
}

func TestAnyHistoryKeepsTheInvariants(t *testing.T) {
	t.Parallel()
	n := seed(t)
	for i := range uint64(150) {
		r := rand.New(rand.NewPCG(n, i))
		steps := history(r, 20+r.IntN(150))
		if err := replay(t, steps); err != nil {
			for size := len(steps) / 2; size > 0; size /= 2 { // what is not needed for it
				for at := 0; at+size <= len(steps); {
					if less := slices.Delete(slices.Clone(steps), at, at+size); replay(t, less) != nil {
						steps = less
					} else {
						at += size
					}
				}
			}
			t.Fatalf("history %d: %v\nshortest: %v\n%v", i, err, replay(t, steps), steps)
		}
	}
}

// client is somebody who asked for a session.
type client struct {
	cancel context.CancelFunc
	l      *lease
	err    error
	done   chan struct{} // closed when newLease has returned
	gone   bool          // the lease is returned
	used   bool
	seen   bool // inOrder has looked at it
	order  int
}

func (c *client) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// model is what is known of a pool from outside.
type model struct {
	p        *pool
	srv      *fakeServer
	clients  []*client
	limit    int
	step     string
	timeouts int64 // of newLease
	others   int64 // of first calls
	cancels  int64
}

func replay(t *testing.T, steps []step) (err error) {
	dog := time.AfterFunc(30*time.Second, func() { panic(fmt.Sprint("the clock of the bubble stands still after ", steps)) })
	defer dog.Stop()
	synctest.Test(t, func(t *testing.T) {
		l := lim(3)
		l.timeout, l.leakAfter = 700*time.Millisecond, 2*time.Second
		if len(steps)%3 == 0 {
			l.retry.maxAttempts = 4
		}
		m := &model{srv: &fakeServer{limit: 3}, limit: 3}
		j := &journal{}
		m.p = newPool("model", l, slog.New(j), m.srv.open)
		for i, s := range steps {
			m.step = fmt.Sprintf("step %d %v", i, s)
			m.apply(t, s)
			if err = m.settled(); err != nil {
				break
			}
		}
		if err == nil {
			m.step = "the end"
			err = m.finish(t, len(steps)%2 == 0)
		}
		m.srv.set(func() { m.srv.shut = true })
		_ = m.p.close(0)
		for _, c := range m.clients {
			if c.cancel(); holds(c) {
				m.srv.give(c.l)
			}
		}
	})
	return err
}

// pick chooses a client that passes.
func (m *model) pick(n int, pass func(*client) bool) *client {
	var fit []*client
	for _, c := range m.clients {
		if pass(c) {
			fit = append(fit, c)
		}
	}
	if len(fit) == 0 {
		return &client{cancel: func() {}}
	}
	return fit[n%len(fit)]
}

func holds(c *client) bool { return c.ended() && c.l != nil && !c.gone }
func uses(c *client) bool  { return holds(c) && c.used }
func waits(c *client) bool { return !c.ended() }

func (m *model) apply(t *testing.T, s step) {
	switch s.kind {
	case "acquire":
		m.acquire(t, time.Duration(s.a)*time.Millisecond, s.b%3 == 0)
	case "use":
		if c := m.pick(s.a, holds); c.l != nil && !c.used {
			m.use(c)
		}
	case "release":
		m.release(m.pick(s.a, holds))
	case "cancel":
		m.pick(s.a, waits).cancel()
	case "kill":
		if n := len(m.srv.conns); n > 0 {
			m.srv.conns[n-1-s.a%min(n, 5)].kill(s.b % 3)
		}
	case "doom":
		if c := m.pick(s.a, uses); c.l != nil {
			c.l.s.doomed.Store(true)
		}
	case "dial":
		m.script(s.a%6, time.Duration(s.b)*time.Millisecond)
	case "limit":
		m.limit = s.a % 6
		m.srv.set(func() { m.srv.limit = m.limit })
		m.p.setLimits(func(l *limits) { l.maxOpen = m.limit })
	case "max idle":
		m.p.setLimits(func(l *limits) { l.maxIdle = s.a%5 - 1 })
	case "min idle":
		m.p.setLimits(func(l *limits) { l.minIdle = s.a % 3 })
	case "times":
		m.p.setLimits(func(l *limits) {
			l.maxIdleTime, l.maxLifetime, l.jitter = time.Duration(s.a%3)*time.Second, time.Duration(s.b%3)*3*time.Second, time.Duration(s.c%3-1)
		})
	case "closing":
		m.srv.set(func() { m.srv.closing = func(*fakeConn) { time.Sleep(time.Duration(s.a) * time.Millisecond) } })
	case "refresh":
		m.p.refresh()
	case "advance":
		time.Sleep(time.Duration(s.a*s.a*(1+s.b%3)) * time.Microsecond)
	case "together": // a session comes back at the instant at which a waiter gives up
		c, w := m.pick(s.a, holds), m.pick(s.b, waits)
		go w.cancel()
		m.release(c)
	}
	time.Sleep(time.Microsecond) // no two steps at one instant
	synctest.Wait()
}

func (m *model) acquire(t *testing.T, d time.Duration, bounded bool) {
	ctx, cancel := context.WithCancel(t.Context())
	if bounded {
		ctx, cancel = context.WithTimeout(t.Context(), d)
	}
	c := &client{cancel: cancel, order: len(m.clients), done: make(chan struct{})}
	m.clients = append(m.clients, c)
	go func() {
		c.l, c.err = m.p.newLease(ctx)
		close(c.done)
	}()
}

// use makes the first call, which takes another session if the lease was
// reclaimed; it is not to wait here.
func (m *model) use(c *client) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.srv.work(ctx, c.l) }()
	synctest.Wait()
	cancel()
	err := <-done
	if errors.Is(err, ErrPoolTimeout) {
		m.others++ // at once, in an outage
	}
	c.used = err == nil
	if !c.used && c.l.state.Load() != leaseEmpty {
		c.used = true // the call failed, on a session that it holds
	}
}

func (m *model) release(c *client) {
	if c.l != nil {
		c.gone = true
		m.srv.give(c.l)
	}
}

func (m *model) script(kind int, d time.Duration) {
	if kind == 5 {
		d = 0
	}
	m.srv.set(func() {
		m.srv.dial = func(ctx context.Context, n int) error {
			var err error
			switch kind {
			case 1:
				err = errRefused
			case 2:
				err = errPassword
			case 3:
				err = errFull
			case 4: // now and then
				if n%2 == 0 {
					err = errRefused
				}
			}
			if e := pause(ctx, d); e != nil {
				return e
			}
			return err
		}
	})
}
