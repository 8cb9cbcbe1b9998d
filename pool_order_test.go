package pgpooled

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestAHundredWaitersAreServedInArrivalOrder(t *testing.T) {
	t.Parallel()
	bubble(t, lim(1), func(t *testing.T, p *pool, srv *fakeServer) {
		first := take(t, p)
		if err := srv.work(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		out := line(t.Context(), p, srv, 100)
		sound(t, p, srv)
		srv.give(first)
		for i := range 100 {
			o := <-out
			if o.err != nil || o.n != i {
				t.Fatalf("number %d was served after %d others, %v", o.n, i, o.err)
			}
			synctest.Wait()
			sound(t, p, srv)
			srv.give(o.l)
		}
		if s := p.stats(); s.Opens != 1 || s.Acquires != 101 || s.Waits != 101 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAWaiterWhoseSessionIsDeadKeepsItsPlace(t *testing.T) {
	t.Parallel()
	bubble(t, lim(1), func(t *testing.T, p *pool, srv *fakeServer) {
		l := take(t, p)
		if err := srv.work(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		srv.hang(time.Millisecond)
		out := line(t.Context(), p, srv, 100)
		for i := range 100 {
			conn(l).kill(1 + i%2) // every second one comes back alive and is dead when it is handed out
			if i%2 == 1 {
				conn(l).kill(0) // the others come back dead
			}
			srv.give(l)
			o := <-out
			if o.err != nil || o.n != i {
				t.Fatalf("number %d was served after %d others, %v", o.n, i, o.err)
			}
			l = o.l
			if err := srv.work(t.Context(), l); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			sound(t, p, srv)
		}
		srv.give(l)
		if s := p.stats(); s.ClosedDead != 50 || s.ClosedBroken != 50 || s.Opens != 101 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAnAcquireNeverOvertakesAWaiter(t *testing.T) {
	t.Parallel()
	bubble(t, lim(2), func(t *testing.T, p *pool, srv *fakeServer) {
		a, b := take(t, p), take(t, p)
		_, _ = srv.work(t.Context(), a), srv.work(t.Context(), b)
		out := line(t.Context(), p, srv, 1)
		srv.give(a)
		// The session is the waiter's, although it has not run since.
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if l, err := p.newLease(ctx); err == nil {
			t.Errorf("a newcomer was served, %v", l)
		}
		o := <-out
		if o.err != nil {
			t.Fatal(o.err)
		}
		srv.give(o.l)
		srv.give(b)
	})
}

// Two things happen to one waiter at the same instant. Which one wins is open;
// nothing may be lost whichever does. Every pair runs in both orders, and many
// times at once, so that the scheduler mixes them too.
func TestWhateverMeetsADeliveryNothingIsLost(t *testing.T) {
	t.Parallel()
	const instant = 50 * time.Millisecond
	type world struct {
		p      *pool
		srv    *fakeServer
		held   *lease
		cancel context.CancelFunc
	}
	release := func(w *world) { w.srv.give(w.held) }
	cancel := func(w *world) { w.cancel() }
	shut := func(w *world) { w.srv.set(func() { w.srv.shut = true }); _ = w.p.close(time.Second) }
	raise := func(w *world) {
		w.srv.set(func() { w.srv.limit = 2 })
		w.p.setLimits(func(l *limits) { l.maxOpen = 2 })
	}
	nothing := func(*world) {}
	for _, tt := range []struct {
		name     string
		a, b     func(*world)
		timeout  time.Duration // of the pool, from the waiter's arrival
		dialling bool          // the waiter waits for a dial that ends at the instant, not for the lease
		closed   bool
	}{
		{"release and cancel", release, cancel, time.Second, false, false},
		{"release and timeout", release, nothing, instant, false, false},
		{"release and close", release, shut, time.Second, false, true},
		{"cancel and timeout", cancel, nothing, instant, false, false},
		{"cancel and close", cancel, shut, time.Second, false, true},
		{"timeout and close", nothing, shut, instant, false, true},
		{"raise and cancel", raise, cancel, time.Second, false, false},
		{"raise and timeout", raise, nothing, instant, false, false},
		{"raise and release", raise, release, time.Second, false, false},
		{"raise and close", raise, shut, time.Second, false, true},
		{"dial and cancel", cancel, nothing, time.Second, true, false},
		{"dial and timeout", nothing, nothing, instant, true, false},
		{"dial and close", shut, nothing, time.Second, true, true},
		{"dial and release", release, nothing, time.Second, true, false},
		{"all of them", func(w *world) { go release(w); go raise(w) }, cancel, instant, true, false},
	} {
		for _, order := range []string{"forth", "back", "together"} {
			t.Run(tt.name+" "+order, func(t *testing.T) {
				t.Parallel()
				for range 20 {
					bubbleAt(t, tt.timeout, func(t *testing.T, p *pool, srv *fakeServer) {
						ctx, cancel := context.WithCancel(t.Context())
						defer cancel()
						w := &world{p: p, srv: srv, held: take(t, p), cancel: cancel}
						if err := srv.work(t.Context(), w.held); err != nil {
							t.Fatal(err)
						}
						srv.hang(instant)
						if tt.dialling {
							srv.limit = 2
							p.setLimits(func(l *limits) { l.maxOpen = 2 })
						}
						out := line(ctx, p, srv, 2)
						time.Sleep(instant - 2*time.Nanosecond) // line took two
						a, b := tt.a, tt.b
						switch order {
						case "back":
							a, b = b, a
							fallthrough
						case "forth":
							a(w)
							b(w)
						default:
							var both sync.WaitGroup
							both.Go(func() { a(w) })
							both.Go(func() { b(w) })
							both.Wait()
						}
						synctest.Wait()
						sound(t, p, srv)
						time.Sleep(5 * time.Second)
						for range 2 {
							o := <-out
							checkOutcome(t, o, tt.closed)
							if o.err == nil {
								srv.give(o.l)
							}
						}
						srv.give(w.held)
						time.Sleep(time.Second)
						sound(t, p, srv)
						if tt.closed {
							if srv.exist != 0 {
								t.Errorf("%d sessions are left", srv.exist)
							}
							return
						}
						srv.refuse(nil)
						var all []*lease
						for range p.stats().MaxOpenConns { // no slot is lost
							all = append(all, take(t, p))
						}
						for _, l := range all {
							srv.give(l)
						}
					})
				}
			})
		}
	}
}

func bubbleAt(t *testing.T, timeout time.Duration, f func(t *testing.T, p *pool, srv *fakeServer)) {
	t.Helper()
	l := lim(1)
	l.timeout = timeout
	bubble(t, l, f)
}

// checkOutcome: a session, or an error that says why there is none.
func checkOutcome(t *testing.T, o outcome, closed bool) {
	t.Helper()
	var e *PoolTimeoutError
	switch {
	case o.err == nil && o.l != nil:
	case closed && errors.Is(o.err, ErrClosed):
	case errors.Is(o.err, context.Canceled) && !errors.Is(o.err, ErrPoolTimeout):
	case errors.As(o.err, &e) && e.Ctx == nil && errors.Is(o.err, ErrPoolTimeout) && e.Waited == o.waited:
	default:
		t.Errorf("number %d: lease %v, %T %v", o.n, o.l, o.err, o.err)
	}
}

// A delivery meets a waiter that has just given up and whose waiter struct
// serves the next caller already: it must reach neither.
func TestADeliveryNeverReachesTheNextUserOfAWaiter(t *testing.T) {
	t.Parallel()
	bubble(t, lim(1), func(t *testing.T, p *pool, srv *fakeServer) {
		held := take(t, p)
		if err := srv.work(t.Context(), held); err != nil {
			t.Fatal(err)
		}
		for range 300 {
			short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			out := line(short, p, srv, 3)
			time.Sleep(time.Millisecond - 3*time.Nanosecond)
			srv.give(held) // at the instant of the first one's end
			again := make(chan outcome, 1)
			go func() {
				l, err := p.newLease(t.Context())
				again <- outcome{l: l, err: err}
			}()
			for range 3 {
				o := <-out
				if o.err == nil {
					if err := srv.work(t.Context(), o.l); err != nil {
						t.Fatal(err)
					}
					srv.give(o.l)
				} else if !errors.Is(o.err, context.DeadlineExceeded) {
					t.Fatalf("%T %v", o.err, o.err)
				}
			}
			o := <-again
			if o.err != nil {
				t.Fatal(o.err)
			}
			held = o.l
			if err := srv.work(t.Context(), held); err != nil {
				t.Fatal(err)
			}
			cancel()
			synctest.Wait()
			sound(t, p, srv)
		}
		srv.give(held)
		if s := p.stats(); s.Opens != 1 || s.Waiting != 0 || s.InUse != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A caller whose session is dead when it gets it waits again: that is one call
// that waited, for as long as it stood in line.
func TestWaitingAgainIsOneWait(t *testing.T) {
	t.Parallel()
	bubble(t, lim(1), func(t *testing.T, p *pool, srv *fakeServer) {
		l := take(t, p)
		if err := srv.work(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		before := p.stats().Waits // the first caller waited for its dial
		srv.hang(time.Second)     // so long takes the new session
		out := line(t.Context(), p, srv, 1)
		time.Sleep(5 * time.Second)
		conn(l).kill(1) // dead when it is handed out
		srv.give(l)
		o := <-out
		s := p.stats()
		if o.err != nil || s.Waits != before+1 || s.WaitTime != o.waited || s.WaitTimes.Sum != o.waited {
			t.Errorf("%v after %s: %d waits of %s, %s in the histogram", o.err, o.waited, s.Waits-before, s.WaitTime, s.WaitTimes.Sum)
		}
		srv.give(o.l)

		// The next caller counts again.
		l = take(t, p)
		out = line(t.Context(), p, srv, 1)
		time.Sleep(time.Second)
		srv.give(l)
		if o = <-out; o.err != nil || p.stats().Waits != before+2 {
			t.Errorf("%v, %d waits", o.err, p.stats().Waits-before)
		}
		srv.give(o.l)
	})
}
