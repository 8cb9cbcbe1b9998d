package pgpooled

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// leases takes n leases and uses them.
func leases(t *testing.T, p *pool, srv *fakeServer, n int) []*lease {
	t.Helper()
	out := make([]*lease, n)
	for i := range out {
		out[i] = take(t, p)
		if err := srv.work(t.Context(), out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func setMaxOpen(p *pool, srv *fakeServer, n int) {
	srv.set(func() { srv.limit = n })
	p.setLimits(func(l *limits) { l.maxOpen = n })
	synctest.Wait()
}

func TestALowerLimitClosesIdleSessionsNowAndLeasedOnesAsTheyComeBack(t *testing.T) {
	t.Parallel()
	bubble(t, lim(5), func(t *testing.T, p *pool, srv *fakeServer) {
		ls := leases(t, p, srv, 5)
		srv.give(ls[0])
		srv.give(ls[1])
		setMaxOpen(p, srv, 2)
		if s := p.stats(); s.Idle != 0 || s.Open != 3 || s.ClosedLimit != 2 {
			t.Errorf("at once: %+v", s)
		}
		srv.give(ls[2])
		synctest.Wait()
		srv.give(ls[3])
		synctest.Wait()
		srv.give(ls[4])
		synctest.Wait()
		if s := p.stats(); s.Idle != 2 || s.Open != 2 || s.ClosedLimit != 3 {
			t.Errorf("at the end: %+v", s)
		}
		p.setLimits(func(l *limits) { l.maxIdle = 1 })
		for _, l := range leases(t, p, srv, 2) {
			srv.give(l)
		}
		synctest.Wait()
		if s := p.stats(); s.Idle != 1 || s.Open != 1 {
			t.Errorf("max idle 1: %+v", s)
		}
		p.setLimits(func(l *limits) { l.maxIdle = 0 })
		synctest.Wait()
		if s := p.stats(); s.Open != 0 {
			t.Errorf("max idle 0: %+v", s)
		}
	})
}

// A session that is being closed keeps its slot, but it must not cost a second
// one: a limit lowered by one closes one session.
func TestALimitLoweredByOneClosesOneSession(t *testing.T) {
	t.Parallel()
	bubble(t, lim(5), func(t *testing.T, p *pool, srv *fakeServer) {
		srv.closing = func(*fakeConn) { time.Sleep(2 * time.Second) }
		ls := leases(t, p, srv, 5)
		setMaxOpen(p, srv, 4)
		for _, l := range ls {
			srv.give(l)
			time.Sleep(time.Millisecond)
		}
		if s := p.stats(); s.ClosedLimit != 1 || s.Idle != 4 {
			t.Errorf("%d sessions were closed, %d are idle", s.ClosedLimit, s.Idle)
		}
	})
}

func TestALowerLimitHoldsBackWaitersUntilEnoughCameBack(t *testing.T) {
	t.Parallel()
	bubble(t, lim(3), func(t *testing.T, p *pool, srv *fakeServer) {
		ls := leases(t, p, srv, 3)
		out := line(t.Context(), p, srv, 1)
		setMaxOpen(p, srv, 1)
		srv.give(ls[0])
		synctest.Wait()
		srv.give(ls[1])
		synctest.Wait()
		if s := p.stats(); s.Waiting != 1 || s.Open != 1 {
			t.Errorf("%+v", s)
		}
		srv.give(ls[2])
		o := <-out
		if o.err != nil {
			t.Fatal(o.err)
		}
		srv.give(o.l)
	})
}

func TestAHigherLimitServesWaitersAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, lim(1), func(t *testing.T, p *pool, srv *fakeServer) {
		ls := leases(t, p, srv, 1)
		out := line(t.Context(), p, srv, 6)
		for _, step := range []struct{ limit, first, last int }{{4, 0, 2}, {0, 3, 5}} {
			setMaxOpen(p, srv, step.limit)
			if s := p.stats(); s.InUse != step.last+2 || s.Waiting != 5-step.last {
				t.Errorf("limit %d: %+v", step.limit, s)
			}
			for range 3 {
				o := <-out
				if o.err != nil || o.n < step.first || o.n > step.last {
					t.Errorf("limit %d: number %d is served, %v", step.limit, o.n, o.err)
				}
				defer srv.give(o.l)
			}
		}
		srv.give(ls[0])
	})
}

func TestWithoutALimitNobodyWaitsForAnother(t *testing.T) {
	t.Parallel()
	bubble(t, lim(0), func(t *testing.T, p *pool, srv *fakeServer) {
		for _, l := range leases(t, p, srv, 200) {
			srv.give(l)
		}
		synctest.Wait()
		if s := p.stats(); s.Idle != 200 {
			t.Errorf("no limit of idle ones either: %+v", s)
		}
	})
}

// The probe of an outage holds a slot. When the limit falls below what is in
// use, it must not dial beyond it.
func TestTheProbeObeysALoweredLimit(t *testing.T) {
	t.Parallel()
	bubble(t, lim(3), func(t *testing.T, p *pool, srv *fakeServer) {
		ls := leases(t, p, srv, 2)
		srv.refuse(errRefused)
		line(t.Context(), p, srv, 1)
		time.Sleep(time.Second)
		setMaxOpen(p, srv, 1)
		time.Sleep(5 * time.Second)
		srv.refuse(nil)
		time.Sleep(10 * time.Second)
		for _, l := range ls {
			srv.give(l)
		}
	})
}

func TestCloseGrantsLeasedSessionsTheirTimeAndThenCutsThem(t *testing.T) {
	t.Parallel()
	bubble(t, lim(4), func(t *testing.T, p *pool, srv *fakeServer) {
		ls := leases(t, p, srv, 4)
		srv.give(ls[0])
		out := make(chan error, 3)
		start := time.Now()
		srv.set(func() { srv.shut = true })
		for range 3 {
			go func() {
				out <- p.close(5 * time.Second)
				if d := time.Since(start); d != 5*time.Second {
					t.Errorf("close returned after %s", d)
				}
			}()
		}
		time.Sleep(time.Second)
		if _, err := p.newLease(t.Context()); err != ErrClosed { // the very one
			t.Errorf("an acquire during close: %v", err)
		}
		if s := p.stats(); s.InUse != 3 || s.Idle != 0 || s.Open != 3 {
			t.Errorf("%+v", s)
		}
		if err := srv.work(t.Context(), ls[1]); err != nil {
			t.Errorf("a leased session does not work during its grant: %v", err)
		}
		srv.give(ls[1])
		var text string
		for range 3 {
			if err := <-out; err != nil {
				text += err.Error()
			}
		}
		if !strings.HasPrefix(text, "pgpooled: close: sessions still in use after close_timeout (5s) were cut: 2") || strings.Count(text, "pgpooled") != 1 {
			t.Errorf("got %q", text)
		}
		if err := srv.work(t.Context(), ls[2]); err == nil {
			t.Error("a session that was cut still works")
		}
		srv.give(ls[2])
		srv.give(ls[3])
		srv.give(ls[3])
		if err := p.close(time.Hour); err != nil {
			t.Errorf("the next close: %v", err)
		}
	})
}

func TestCloseReturnsAsSoonAsTheLastLeaseIsBack(t *testing.T) {
	t.Parallel()
	bubble(t, lim(4), func(t *testing.T, p *pool, srv *fakeServer) {
		ls := leases(t, p, srv, 2)
		srv.closing = func(*fakeConn) { time.Sleep(time.Second) }
		time.AfterFunc(3*time.Second, func() { srv.give(ls[0]); srv.give(ls[1]) })
		start := time.Now()
		if err := p.close(time.Hour); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d != 4*time.Second {
			t.Errorf("close returned after %s: the server's side takes until 4s", d)
		}
		if s := p.stats(); s.Open != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestCloseEndsWaitsDialsAndProbes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		dial func(srv *fakeServer)
	}{
		{"hanging", func(srv *fakeServer) { srv.hang(time.Hour) }},
		{"probing", func(srv *fakeServer) { srv.refuse(errRefused) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, lim(3), func(t *testing.T, p *pool, srv *fakeServer) {
				tt.dial(srv)
				out := line(t.Context(), p, srv, 9)
				time.Sleep(3 * time.Second)
				start := time.Now()
				if err := p.close(time.Hour); err != nil || time.Since(start) != 0 {
					t.Errorf("%v after %s", err, time.Since(start))
				}
				for range 9 {
					if o := <-out; !errors.Is(o.err, ErrClosed) {
						t.Errorf("%v", o.err)
					}
				}
				if s := p.stats(); s.Open != 0 || s.Waiting != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// database/sql parks fresh leases where nobody returns them: close does not
// wait for those.
func TestCloseDoesNotWaitForLeasesOnWhichNothingRan(t *testing.T) {
	t.Parallel()
	bubble(t, lim(3), func(t *testing.T, p *pool, srv *fakeServer) {
		l := take(t, p)
		start := time.Now()
		if err := p.close(time.Hour); err != nil || time.Since(start) != 0 {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		if _, err := l.use(t.Context()); err != ErrClosed { // the very one
			t.Errorf("its first call: %v", err)
		}
		srv.give(l)
	})
}

func TestClosingMeetsTheFirstCallInEveryOrder(t *testing.T) {
	t.Parallel()
	for range 200 {
		bubble(t, lim(2), func(t *testing.T, p *pool, srv *fakeServer) {
			l := take(t, p)
			var both sync.WaitGroup
			both.Go(func() {
				if err := srv.work(t.Context(), l); err != nil && !errors.Is(err, ErrClosed) {
					t.Errorf("%v", err)
				}
				srv.give(l)
			})
			both.Go(func() {
				if err := p.close(time.Second); err != nil {
					t.Error(err)
				}
			})
			both.Wait()
		})
	}
}
