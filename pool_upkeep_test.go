package pgpooled

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// journal is a slog handler that keeps what it gets.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler       { return j }
func (j *journal) WithGroup(string) slog.Handler            { return j }
func (j *journal) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
	return nil
}

// with returns the lines that contain the text.
func (j *journal) with(text string) (found []string) {
	synctest.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range j.lines {
		if strings.Contains(l, text) {
			found = append(found, l)
		}
	}
	return found
}

func listen(p *pool) *journal {
	synctest.Wait()
	j := &journal{}
	p.log = slog.New(j) // upkeep is asleep, and reads it after it took p.mu
	return j
}

func TestUpkeepSleepsWhileNothingIsDue(t *testing.T) {
	t.Parallel()
	l := lim(3)
	l.maxIdleTime, l.maxLifetime, l.jitter, l.leakAfter = time.Hour, 2*time.Hour, -1, time.Minute
	bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) {
		ls := leases(t, p, srv, 2)
		srv.give(ls[0])
		time.Sleep(30 * time.Minute) // the clock moves only while everything sleeps
		srv.give(ls[1])
	})
}

func TestIdleSessionsGoAfterTheirIdleTime(t *testing.T) {
	t.Parallel()
	l := lim(3)
	l.maxIdleTime = time.Minute
	bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) {
		ls := leases(t, p, srv, 3)
		for _, l := range ls {
			srv.give(l)
			time.Sleep(10 * time.Second)
		}
		for i, want := range []int{3, 2, 1, 0} { // after 30, 61, 71, 81 seconds
			if s := p.stats(); s.Idle != want || s.ClosedMaxIdleTime != int64(3-want) {
				t.Errorf("step %d: %+v", i, s)
			}
			time.Sleep(10 * time.Second)
			if i == 0 {
				time.Sleep(21 * time.Second)
			}
			synctest.Wait()
		}
	})
}

func TestTheSessionUsedLastIsUsedNextSoThatOthersCanGo(t *testing.T) {
	t.Parallel()
	l := lim(3)
	l.maxIdleTime = time.Minute
	bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) {
		for _, l := range leases(t, p, srv, 3) {
			srv.give(l)
		}
		for range 13 {
			time.Sleep(10 * time.Second)
			srv.give(leases(t, p, srv, 1)[0])
		}
		if s := p.stats(); s.Idle != 1 || s.Opens != 3 {
			t.Errorf("%+v", s)
		}
	})
}

func TestSessionsGoAtTheirLifetimePlusTheirShareOfTheJitter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		jitter time.Duration
		until  time.Duration
	}{
		{"a tenth", -1, 63 * time.Minute}, {"none", 0, time.Hour}, {"a duration", 20 * time.Minute, 70 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := lim(2)
			l.maxLifetime, l.jitter = time.Hour, tt.jitter
			bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) { // a fake session's share is half of it
				ls := leases(t, p, srv, 2)
				srv.give(ls[0])
				time.Sleep(tt.until - time.Nanosecond)
				synctest.Wait()
				if s := p.stats(); s.ClosedMaxLifetime != 0 || s.Idle != 1 {
					t.Errorf("before: %+v", s)
				}
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				if s := p.stats(); s.ClosedMaxLifetime != 1 || s.Idle != 0 || s.InUse != 1 {
					t.Errorf("after: %+v", s)
				}
				srv.give(ls[1])
				synctest.Wait()
				if s := p.stats(); s.ClosedMaxLifetime != 2 || s.Open != 0 {
					t.Errorf("a leased one that came back: %+v", s)
				}
			})
		})
	}
}

func TestASessionPastItsLifetimeIsNotHandedToAWaiter(t *testing.T) {
	t.Parallel()
	l := lim(1)
	l.maxLifetime = time.Minute
	bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) {
		old := leases(t, p, srv, 1)[0]
		time.Sleep(time.Minute)
		out := line(t.Context(), p, srv, 1)
		srv.give(old)
		if o := <-out; o.err != nil || o.l.s == old.s {
			t.Errorf("%v, or the old session", o.err)
		} else {
			srv.give(o.l)
		}
	})
}

func TestAShorterLifetimeOrIdleTimeTakesEffectAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, lim(2), func(t *testing.T, p *pool, srv *fakeServer) {
		for _, change := range []func(*limits){
			func(l *limits) { l.maxIdleTime = time.Minute },
			func(l *limits) { l.maxIdleTime, l.maxLifetime = 0, time.Minute },
		} {
			for _, l := range leases(t, p, srv, 2) {
				srv.give(l)
			}
			time.Sleep(50 * time.Second)
			p.setLimits(change)
			time.Sleep(9 * time.Second)
			synctest.Wait()
			if s := p.stats(); s.Idle != 2 {
				t.Errorf("too early: %+v", s)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if s := p.stats(); s.Open != 0 {
				t.Errorf("%+v", s)
			}
		}
	})
}

func TestWarmSessionsAreOpenedKeptAndReplaced(t *testing.T) {
	t.Parallel()
	l := lim(5)
	l.minIdle, l.maxIdleTime, l.maxLifetime = 2, time.Minute, time.Hour
	bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) {
		synctest.Wait()
		if s := p.stats(); s.Idle != 2 || s.Opens != 2 {
			t.Fatalf("at open: %+v", s)
		}
		for _, l := range leases(t, p, srv, 5) {
			srv.give(l)
		}
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if s := p.stats(); s.Idle != 2 || s.ClosedMaxIdleTime != 3 || s.Opens != 5 {
			t.Errorf("idle for long: %+v", s)
		}
		time.Sleep(31 * time.Minute)
		synctest.Wait()
		if s := p.stats(); s.Idle != 2 || s.ClosedMaxLifetime != 2 || s.Opens != 7 {
			t.Errorf("after a lifetime: %+v", s)
		}
		l := leases(t, p, srv, 1)[0]
		conn(l).kill(0)
		srv.give(l)
		synctest.Wait()
		if s := p.stats(); s.Idle != 2 || s.ClosedBroken != 1 {
			t.Errorf("after one broke: %+v", s)
		}
	})
}

// As the parameter's name says: idle ones. They are there for the next burst,
// also when some are in use.
func TestWarmSessionsAreKeptUpWhileOthersAreInUse(t *testing.T) {
	t.Parallel()
	l := lim(5)
	l.minIdle = 2
	bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) {
		synctest.Wait()
		ls := leases(t, p, srv, 2)
		time.Sleep(time.Minute)
		synctest.Wait() // what upkeep does at that very moment
		if s := p.stats(); s.Idle != 2 || s.Open != 4 {
			t.Errorf("a minute after two were taken: %+v", s)
		}
		ls = append(ls, leases(t, p, srv, 2)...)
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := p.stats(); s.Idle != 1 || s.Open != 5 {
			t.Errorf("near the limit: %+v", s)
		}
		for _, l := range ls {
			srv.give(l)
		}
	})
}

func TestMinIdleNeverExceedsMaxIdleOrTheLimit(t *testing.T) {
	t.Parallel()
	for _, maxIdle := range []int{0, 1, -1} {
		l := lim(2)
		l.minIdle, l.maxIdle = 9, maxIdle
		bubble(t, l, func(t *testing.T, p *pool, srv *fakeServer) {
			time.Sleep(time.Minute)
			synctest.Wait()
			want := maxIdle
			if maxIdle < 0 {
				want = 2
			}
			if s := p.stats(); s.Idle != want || s.Opens != int64(want) {
				t.Errorf("max idle %d: %+v", maxIdle, s)
			}
		})
	}
}

// With a wrong password, or retry_mode=off and a server that is away, warm
// sessions are tried again now and then, neither never nor without a pause.
func TestWarmSessionsAreTriedAgainAfterAFailure(t *testing.T) {
	t.Parallel()
	const cannot = "the server cannot be reached"
	for _, tt := range []struct {
		name string
		mode RetryMode
		err  error
		says string // in the log
	}{
		{"wrong password", RetrySafe, errPassword, "for a reason that does not pass"},
		{"retry off", RetryOff, errRefused, "retry_mode=off does not repeat it"},
		{"server away", RetrySafe, errRefused, cannot},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := lim(5)
			l.minIdle, l.retry.mode = 2, tt.mode
			// The pool's first dials are its own, before the test can set them.
			synctest.Test(t, func(t *testing.T) {
				srv := &fakeServer{}
				srv.refuse(tt.err)
				logged := &journal{}
				p := newPool("test", l, slog.New(logged), srv.open)
				defer p.close(0)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if lines := logged.with(tt.says); len(lines) != 1 || (tt.says == cannot) != (len(logged.with(cannot)) == 1) {
					t.Errorf("%d lines with %q in %q", len(lines), tt.says, logged.with(""))
				}
				if n := srv.begun(); n < 10 || n > 60 {
					t.Errorf("%d dials in 10 seconds", n)
				}
				srv.refuse(nil)
				time.Sleep(1100 * time.Millisecond)
				if s := p.stats(); s.Idle != 2 {
					t.Errorf("the server is back: %+v", s)
				}
			})
		})
	}
}
