package pgpooled

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestAPoolTimeoutTellsTheNumbersAndTheUsualCause(t *testing.T) {
	t.Parallel()
	bubble(t, lim(2), func(t *testing.T, p *pool, srv *fakeServer) {
		a, b := take(t, p), take(t, p)
		_, _ = srv.work(t.Context(), a), srv.work(t.Context(), b)
		out := line(t.Context(), p, srv, 3)
		o := <-out
		e := poolTimeout(t, o.err)
		want := PoolTimeoutError{Waited: 10 * time.Second, Timeout: 10 * time.Second, Limit: 2, InUse: 2, Waiting: 3}
		if *e != want || o.waited != want.Waited || o.n != 0 {
			t.Errorf("got %+v after %s", *e, o.waited)
		}
		if !errors.Is(o.err, ErrPoolTimeout) || errors.Is(o.err, context.DeadlineExceeded) || errors.Is(o.err, driver.ErrBadConn) {
			t.Errorf("%v is the wrong kind", o.err)
		}
		for _, part := range []string{"pgpooled: ", "10s", "limit 2", "in use 2", "idle 0", "waiting 3", "rows or a transaction left open", "max_open_conns"} {
			if !strings.Contains(o.err.Error(), part) {
				t.Errorf("%q is not in %q", part, o.err)
			}
		}
		if e := poolTimeout(t, (<-out).err); e.Waiting != 2 {
			t.Errorf("the second one says %d wait", e.Waiting)
		}
		<-out
		if s := p.stats(); s.PoolTimeouts != 3 || s.Cancelled != 0 || s.WaitTime != 30*time.Second || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
		srv.give(a)
		srv.give(b)
	})
}

func TestAContextThatEndsFirstGivesItsOwnError(t *testing.T) {
	t.Parallel()
	bubble(t, lim(1), func(t *testing.T, p *pool, srv *fakeServer) {
		a := take(t, p)
		_ = srv.work(t.Context(), a)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		o := <-line(ctx, p, srv, 1)
		if e := poolTimeout(t, o.err); e.Ctx == nil || e.Waited != 3*time.Second {
			t.Errorf("%+v", e)
		}
		if errors.Is(o.err, ErrPoolTimeout) || !errors.Is(o.err, context.DeadlineExceeded) {
			t.Errorf("%v is the wrong kind", o.err)
		}
		if _, err := p.newLease(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with an ended context: %v", err)
		}
		if s := p.stats(); s.PoolTimeouts != 0 || s.Cancelled != 1 {
			t.Errorf("%+v", s)
		}
		srv.give(a)
	})
}

func TestAPoolTimeoutOfZeroWaitsForEver(t *testing.T) {
	t.Parallel()
	l := lim(1)
	l.timeout = 0
	bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) {
		srv.refuse(errRefused)
		out := line(t.Context(), p, srv, 1)
		time.Sleep(10 * time.Minute)
		srv.refuse(nil)
		o := <-out
		if o.err != nil {
			t.Fatal(o.err)
		}
		srv.give(o.l)
	})
}

func TestAHangingDialIsNamedInThePoolTimeout(t *testing.T) {
	t.Parallel()
	bubble(t, lim(3), func(t *testing.T, p *pool, srv *fakeServer) {
		srv.hang(time.Hour)
		o := <-line(t.Context(), p, srv, 1)
		if e := poolTimeout(t, o.err); e.Opening != 1 || e.InUse != 0 || e.Waited != 10*time.Second || e.Connect != nil {
			t.Errorf("%+v", e)
		}
		if !strings.Contains(o.err.Error(), "opening 1") || strings.Contains(o.err.Error(), "rows or a transaction") {
			t.Error(o.err)
		}
	})
}

func TestACallerThatGivesUpDoesNotWasteItsDial(t *testing.T) {
	t.Parallel()
	bubble(t, lim(3), func(t *testing.T, p *pool, srv *fakeServer) {
		srv.hang(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if o := <-line(ctx, p, srv, 1); !errors.Is(o.err, context.DeadlineExceeded) {
			t.Fatal(o.err)
		}
		time.Sleep(time.Second)
		srv.give(take(t, p))
		if srv.begun() != 1 {
			t.Errorf("%d dials", srv.begun())
		}
	})
}

func TestAnOutageIsProbedByOneDialAtATimeAndNamedInTheError(t *testing.T) {
	t.Parallel()
	bubble(t, lim(10), func(t *testing.T, p *pool, srv *fakeServer) {
		srv.set(func() {
			srv.dial = func(ctx context.Context, _ int) error { return errors.Join(pause(ctx, 5*time.Millisecond), errRefused) }
		})
		out := line(t.Context(), p, srv, 20)
		time.Sleep(5 * time.Millisecond)
		synctest.Wait()
		srv.set(func() { srv.together = srv.dialling })
		o := <-out
		if e := poolTimeout(t, o.err); !errors.Is(e.Connect, syscall.ECONNREFUSED) || !errors.Is(o.err, syscall.ECONNREFUSED) ||
			!errors.Is(o.err, ErrPoolTimeout) || e.Waited != 10*time.Second || e.OutageFor < 9*time.Second {
			t.Errorf("%+v", e)
		}
		if !strings.Contains(o.err.Error(), "connection refused") || strings.Contains(o.err.Error(), "rows or a transaction") {
			t.Error(o.err)
		}
		if n := srv.parallel(); n > 1 {
			t.Errorf("%d dials at a time during an outage", n)
		}
		if srv.begun() < 15 || srv.begun() > 100 { // a tenth of a second to one apart
			t.Errorf("%d dials in 10 seconds", srv.begun())
		}
		for range 19 {
			<-out
		}
	})
}

func TestAnOutageOlderThanPoolTimeoutFailsAtOnceWhileTheProbeGoesOn(t *testing.T) {
	t.Parallel()
	bubble(t, lim(10), func(t *testing.T, p *pool, srv *fakeServer) {
		srv.refuse(errRefused)
		<-line(t.Context(), p, srv, 1)
		time.Sleep(time.Second)
		before := srv.begun()
		o := <-line(t.Context(), p, srv, 1)
		if e := poolTimeout(t, o.err); e.Waited != 0 || e.OutageFor < 10*time.Second || e.Connect == nil || !errors.Is(o.err, ErrPoolTimeout) {
			t.Errorf("%+v", e)
		}
		if !strings.Contains(o.err.Error(), "unreachable for 11s") {
			t.Error(o.err)
		}
		time.Sleep(5 * time.Second)
		if srv.begun() < before+5 {
			t.Errorf("only %d probes in 5 seconds", srv.begun()-before)
		}
		srv.refuse(nil)
		time.Sleep(time.Second)
		srv.give(take(t, p))
	})
}

// The probe has ended because the limit left no room for it; by the time that
// there is room, a session that is still being closed does not keep callers from
// dialling.
func TestASessionThatIsBeingClosedIsNoReasonToFailAtOnce(t *testing.T) {
	l := lim(2)
	l.timeout = 700 * time.Millisecond
	bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) {
		held := take(t, p)
		if err := srv.work(t.Context(), held); err != nil {
			t.Fatal(err)
		}
		srv.refuse(errRefused)
		go func() {
			time.Sleep(10 * time.Millisecond)
			p.setLimits(func(l *limits) { l.maxOpen = 1 })
		}()
		_, err := p.newLease(t.Context())
		if e := poolTimeout(t, err); e.OutageFor == 0 {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		srv.refuse(nil)
		srv.set(func() { srv.closing = func(*fakeConn) { time.Sleep(time.Second) } })
		held.s.doomed.Store(true)
		srv.give(held)
		p.setLimits(func(l *limits) { l.maxOpen = 2 })
		if s := p.stats(); s.Closing != 1 || s.OutageFor < l.timeout {
			t.Fatalf("%+v", s)
		}
		srv.give(take(t, p))
	})
}

func TestTheFirstSuccessWakesEverybody(t *testing.T) {
	t.Parallel()
	bubble(t, lim(10), func(t *testing.T, p *pool, srv *fakeServer) {
		srv.refuse(errRefused)
		out := line(t.Context(), p, srv, 10)
		time.Sleep(3 * time.Second)
		srv.hang(100 * time.Millisecond)
		first := <-out
		if first.err != nil || first.n != 0 {
			t.Fatal(first)
		}
		all := []outcome{first}
		for i := range 9 {
			o := <-out
			if o.err != nil || o.waited-first.waited > 101*time.Millisecond {
				t.Errorf("number %d: %v, %s after the first", i+1, o.err, o.waited-first.waited)
			}
			all = append(all, o)
		}
		for _, o := range all {
			srv.give(o.l)
		}
	})
}

// A dial that began before the outage was noticed succeeds while the probe
// sleeps: that is a first success like any other.
func TestASuccessBesideTheProbeWakesEverybodyToo(t *testing.T) {
	t.Parallel()
	l := lim(3)
	l.retry.baseDelay, l.retry.maxDelay = time.Hour, time.Hour // the probe sleeps
	bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) {
		srv.set(func() {
			srv.dial = func(ctx context.Context, n int) error {
				switch n {
				case 1:
					return errors.Join(pause(ctx, time.Millisecond), errRefused)
				case 2:
					return pause(ctx, 100*time.Millisecond)
				}
				return nil
			}
		})
		out := line(t.Context(), p, srv, 2)
		for range 2 {
			o := <-out
			if o.err != nil || o.waited > 200*time.Millisecond {
				t.Errorf("number %d waited %s although a slot was free and the server was back: %v", o.n, o.waited, o.err)
			}
			if o.err == nil {
				defer srv.give(o.l)
			}
		}
		time.Sleep(2 * time.Hour)
		if n := srv.begun(); n != 3 {
			t.Errorf("%d dials: the probe went on after another dial had succeeded", n)
		}
	})
}

func TestTheProbeStopsWhenNobodyAsksForAMinute(t *testing.T) {
	t.Parallel()
	bubble(t, lim(10), func(t *testing.T, p *pool, srv *fakeServer) {
		srv.refuse(errRefused)
		<-line(t.Context(), p, srv, 1)
		time.Sleep(2 * time.Minute)
		before := srv.begun()
		time.Sleep(time.Hour)
		if srv.begun() != before {
			t.Errorf("%d dials in an hour in which nobody asked", srv.begun()-before)
		}
		srv.refuse(nil)
		srv.give(take(t, p)) // a fresh start, no outage to be waited for
	})
}

func TestAFullServerIsNoOutageWhileSessionsAreHeld(t *testing.T) {
	t.Parallel()
	bubble(t, lim(10), func(t *testing.T, p *pool, srv *fakeServer) {
		held := take(t, p)
		_ = srv.work(t.Context(), held)
		srv.refuse(errFull)
		time.Sleep(time.Millisecond)
		o := <-line(t.Context(), p, srv, 1)
		if e := poolTimeout(t, o.err); e.OutageFor != 0 || !errors.Is(e.Connect, errFull) {
			t.Errorf("%+v", e)
		}
		out := line(t.Context(), p, srv, 1) // waits, does not fail at once
		time.Sleep(time.Second)
		srv.give(held)
		if o = <-out; o.err != nil || o.waited > 2*time.Second {
			t.Fatalf("%v after %s", o.err, o.waited)
		}
		o.l.s.doomed.Store(true)
		srv.give(o.l) // now none is held
		if e := poolTimeout(t, (<-line(t.Context(), p, srv, 1)).err); e.OutageFor == 0 {
			t.Errorf("a full server with no session of ours is an outage: %+v", e)
		}
	})
}

func TestAPermanentErrorReachesEveryCallerAtOnceAsItIs(t *testing.T) {
	t.Parallel()
	bubble(t, lim(3), func(t *testing.T, p *pool, srv *fakeServer) {
		srv.set(func() {
			srv.dial = func(ctx context.Context, _ int) error {
				if err := pause(ctx, time.Millisecond); err != nil {
					return err
				}
				return errPassword
			}
		})
		out := line(t.Context(), p, srv, 5)
		for range 5 {
			if o := <-out; o.err != error(errPassword) || o.waited > 2*time.Millisecond { // the very one
				t.Errorf("number %d: %T %v after %s", o.n, o.err, o.err, o.waited)
			}
		}
		time.Sleep(time.Millisecond) // the other dials end as well
		synctest.Wait()
		if s := p.stats(); s.Opening != 0 || srv.begun() > 5 {
			t.Errorf("%d dials, %+v", srv.begun(), s)
		}
		srv.refuse(nil)
		srv.give(take(t, p))
	})
}

func TestRetryModeOffFailsAtOnce(t *testing.T) {
	t.Parallel()
	l := lim(3)
	l.retry.mode = RetryOff
	bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) {
		srv.refuse(errRefused)
		for range 3 {
			if o := <-line(t.Context(), p, srv, 1); o.err != errRefused || o.waited != 0 { // the very one
				t.Errorf("%v after %s", o.err, o.waited)
			}
		}
		srv.refuse(nil)
		srv.give(take(t, p))
		if srv.begun() != 4 {
			t.Errorf("%d dials", srv.begun())
		}
	})
}

func TestRetryMaxAttemptsEndsTheWait(t *testing.T) {
	t.Parallel()
	l := lim(3)
	l.retry.maxAttempts = 4
	bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) {
		srv.refuse(errRefused)
		o := <-line(t.Context(), p, srv, 1)
		if !errors.Is(o.err, syscall.ECONNREFUSED) || !strings.Contains(fmt.Sprint(o.err), "4 attempts") || errors.Is(o.err, ErrPoolTimeout) {
			t.Errorf("%v", o.err)
		}
		if srv.begun() != 4 || o.waited == 0 || o.waited > time.Second {
			t.Errorf("%d dials in %s", srv.begun(), o.waited)
		}
	})
}

// Dials that fail side by side are one attempt, not many.
func TestRetryMaxAttemptsCountsAttemptsNotCallers(t *testing.T) {
	t.Parallel()
	l := lim(10)
	l.retry.maxAttempts = 3
	bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) {
		srv.set(func() {
			srv.dial = func(ctx context.Context, n int) error {
				if err := pause(ctx, time.Millisecond); err != nil || n > 11 {
					return err
				}
				return errRefused
			}
		})
		out := line(t.Context(), p, srv, 10)
		for range 10 {
			o := <-out
			if o.err != nil {
				t.Errorf("number %d was given up after less than three attempts: %v", o.n, o.err)
				continue
			}
			defer srv.give(o.l)
		}
	})
}
