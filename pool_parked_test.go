package pgpooled

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestALeaseOnWhichNothingRanIsReclaimedWhenAnotherWaits(t *testing.T) {
	t.Parallel()
	bubble(t, lim(1), func(t *testing.T, p *pool, srv *fakeServer) {
		parked := take(t, p)
		time.Sleep(time.Hour)
		out := line(t.Context(), p, srv, 1)
		o := <-out
		if o.err != nil || o.waited > parkedAfter {
			t.Fatalf("%v after %s", o.err, o.waited)
		}
		sound(t, p, srv)
		time.AfterFunc(time.Second, func() { srv.give(o.l) })
		start := time.Now()
		if err := srv.work(t.Context(), parked); err != nil || time.Since(start) != time.Second {
			t.Errorf("its first call takes a session like any other: %v after %s", err, time.Since(start))
		}
		srv.give(parked)
		if s := p.stats(); s.Reclaimed != 1 || s.Idle != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAFreshLeaseHasTimeForItsFirstCall(t *testing.T) {
	t.Parallel()
	bubble(t, lim(1), func(t *testing.T, p *pool, srv *fakeServer) {
		l := take(t, p)
		out := line(t.Context(), p, srv, 1)
		time.Sleep(parkedAfter - 2*time.Nanosecond)
		if err := srv.work(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		if s := p.stats(); s.Reclaimed != 0 || s.Waiting != 1 {
			t.Errorf("%+v", s)
		}
		srv.give(l)
		srv.give((<-out).l)
	})
}

func TestAUsedLeaseIsNeverReclaimed(t *testing.T) {
	t.Parallel()
	bubble(t, lim(2), func(t *testing.T, p *pool, srv *fakeServer) {
		ls := leases(t, p, srv, 2)
		poolTimeout(t, (<-line(t.Context(), p, srv, 1)).err)
		if s := p.stats(); s.Reclaimed != 0 || s.InUse != 2 {
			t.Errorf("%+v", s)
		}
		for _, l := range ls {
			srv.give(l)
		}
	})
}

func TestAParkedLeaseIsNotReclaimedWhileNobodyWaits(t *testing.T) {
	t.Parallel()
	bubble(t, lim(2), func(t *testing.T, p *pool, srv *fakeServer) {
		l := take(t, p)
		time.Sleep(time.Hour)
		if err := srv.work(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		srv.give(l)
		if s := p.stats(); s.Reclaimed != 0 || s.Opens != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// Who waits was in line before there was any lease that could be parked.
func TestALeaseParkedAfterTheWaitBeganIsReclaimedToo(t *testing.T) {
	t.Parallel()
	bubble(t, lim(1), func(t *testing.T, p *pool, srv *fakeServer) {
		srv.hang(100 * time.Millisecond)
		parked := make(chan *lease, 1)
		go func() {
			l, err := p.newLease(t.Context())
			if err != nil {
				t.Error(err)
			}
			parked <- l
		}()
		synctest.Wait()
		o := <-line(t.Context(), p, srv, 1)
		if o.err != nil || o.waited > 200*time.Millisecond {
			t.Errorf("%v after %s", o.err, o.waited)
		}
		if o.err == nil {
			srv.give(o.l)
		}
		srv.give(<-parked)
	})
}

func TestAParkedLeaseLooksAtItsSessionAgainBeforeItsFirstCall(t *testing.T) {
	t.Parallel()
	bubble(t, lim(1), func(t *testing.T, p *pool, srv *fakeServer) {
		l := take(t, p)
		old := l.s
		time.Sleep(parkedAfter)
		conn(l).kill(0)
		if err := srv.work(t.Context(), l); err != nil || l.s == old {
			t.Errorf("got %v and the same session: %v", err, l.s == old)
		}
		srv.give(l)
		if s := p.stats(); s.ClosedDead != 1 || s.Opens != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAReclaimedSessionThatIsDeadIsNotLost(t *testing.T) {
	t.Parallel()
	bubble(t, lim(1), func(t *testing.T, p *pool, srv *fakeServer) {
		parked := take(t, p)
		conn(parked).kill(0)
		o := <-line(t.Context(), p, srv, 1)
		if o.err != nil || o.waited > parkedAfter {
			t.Fatalf("%v after %s", o.err, o.waited)
		}
		srv.give(parked)
		srv.give(o.l)
	})
}

// The caller came two seconds ago, got a dead session, and gets the next one
// now: its lease is fresh from now on, not two seconds old.
func TestALeaseTakenAtASecondTryIsNotOldFromTheStart(t *testing.T) {
	t.Parallel()
	l := lim(2)
	l.leakAfter = time.Second
	bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) {
		ls := leases(t, p, srv, 2)
		got := make(chan *lease, 1)
		go func() {
			l, err := p.newLease(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- l
		}()
		time.Sleep(5 * time.Second)
		before := p.stats().Leaks
		conn(ls[0]).kill(0)
		srv.set(func() { ls[0].s.base.(*fakeConn).owner, ls[1].s.base.(*fakeConn).owner = nil, nil })
		p.mu.Lock() // both come back before the waiter looks
		for _, l := range ls {
			p.returnLocked(l.s, time.Now())
			l.state.Store(leaseClosed)
			if !p.deliverLocked(l.s, time.Now()) {
				t.Error("not taken")
			}
		}
		p.mu.Unlock()
		l := <-got
		if l == nil {
			t.FailNow()
		}
		if age := time.Since(l.s.taken); age != 0 {
			t.Errorf("a lease taken now is %s old", age)
		}
		time.Sleep(900 * time.Millisecond)
		if s := p.stats(); s.Leaks != before {
			t.Errorf("%d leaks were reported before the lease was a second old", s.Leaks-before)
		}
		srv.give(l)
	})
}

func TestALeaseHeldTooLongIsReportedOnceWithTheStackThatTookIt(t *testing.T) {
	t.Parallel()
	l := lim(3)
	l.leakAfter = time.Minute
	bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) {
		j := listen(p)
		first := borrowerWhoForgets(t, p)
		if err := srv.work(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		second := leases(t, p, srv, 1)[0]
		short := leases(t, p, srv, 1)[0]
		time.Sleep(29 * time.Second)
		srv.give(short)
		if found := j.with("leak_detection_threshold"); len(found) != 0 {
			t.Errorf("too early: %q", found)
		}
		time.Sleep(time.Second)
		found := j.with("leak_detection_threshold")
		if len(found) != 1 || !strings.Contains(found[0], "borrowerWhoForgets") || !strings.HasPrefix(found[0], "WARN pgpooled: ") ||
			!strings.Contains(found[0], "held=1m0s") || !strings.Contains(found[0], "pool=test") {
			t.Errorf("got %q", found)
		}
		time.Sleep(time.Hour)
		found = j.with("leak_detection_threshold")
		if s := p.stats(); len(found) != 2 || s.Leaks != 2 || strings.Contains(found[1], "borrowerWhoForgets") {
			t.Errorf("%d leaks, %q", s.Leaks, found)
		}
		srv.give(first)
		srv.give(second)
	})
}

//go:noinline
func borrowerWhoForgets(t *testing.T, p *pool) *lease {
	l := take(t, p)
	runtime.KeepAlive(t)
	return l
}

func TestAnOutageIsLoggedOnceWhenItBeginsAndWhenItEnds(t *testing.T) {
	t.Parallel()
	bubble(t, lim(3), func(t *testing.T, p *pool, srv *fakeServer) {
		j := listen(p)
		srv.refuse(errRefused)
		out := line(t.Context(), p, srv, 3)
		time.Sleep(5 * time.Second)
		srv.refuse(nil)
		for range 3 {
			srv.give((<-out).l)
		}
		if begun := j.with("cannot be reached"); len(begun) != 1 || !strings.Contains(begun[0], "connection refused") {
			t.Errorf("%q", begun)
		}
		if ended := j.with("the server is back"); len(ended) != 1 || !strings.Contains(ended[0], "outage=5") {
			t.Errorf("%q", ended)
		}
		_ = p.close(0)
		if closed := j.with("INFO pgpooled: pool closed"); len(closed) != 1 {
			t.Errorf("%q", closed)
		}
	})
}

func TestASessionIdleForLongIsPingedAndTheOthersGoWithAFailedOne(t *testing.T) {
	t.Parallel()
	bubble(t, lim(5), func(t *testing.T, p *pool, srv *fakeServer) {
		ls := leases(t, p, srv, 5)
		for _, l := range ls[:4] {
			srv.give(l)
		}
		time.Sleep(staleAfter)
		srv.give(ls[4])
		n := srv.pings
		fresh := take(t, p)
		if srv.pings != n {
			t.Error("a session that was in use just now was pinged")
		}
		stale := take(t, p)
		if srv.pings != n+1 || srv.begun() != 5 {
			t.Errorf("%d pings, %d dials", srv.pings-n, srv.begun())
		}
		for _, c := range srv.conns {
			if c != conn(fresh) && c != conn(stale) {
				srv.set(func() { c.mute = true })
			}
		}
		last := take(t, p)
		synctest.Wait()
		if s := p.stats(); srv.pings != n+2 || s.ClosedDead != 3 || s.Opens != 6 {
			t.Errorf("%d pings, %+v", srv.pings-n, s)
		}
		srv.give(fresh)
		srv.give(stale)
		srv.give(last)
	})
}

// A ping that a caller's short deadline ended says nothing of the server.
func TestACallerInAHurryDoesNotCostThePoolItsIdleSessions(t *testing.T) {
	t.Parallel()
	for range 20 { // the pool and the context see the deadline in either order
		bubble(t, lim(5), callerInAHurry)
	}
}

func callerInAHurry(t *testing.T, p *pool, srv *fakeServer) {
	srv.pingTakes = 10 * time.Millisecond
	for _, l := range leases(t, p, srv, 5) {
		srv.give(l)
	}
	time.Sleep(time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	l, err := p.newLease(ctx)
	synctest.Wait()
	if s := p.stats(); s.Idle < 4 {
		t.Errorf("%v, and %d of 5 idle sessions are left", err, s.Idle)
	}
	if err == nil {
		srv.give(l)
	}
}
