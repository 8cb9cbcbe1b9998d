package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/pgpooled/pgpooled"
)

const (
	sessionsEvery = 50 * time.Millisecond
	healthEvery   = 200 * time.Millisecond
	healthLimit   = 2 * time.Second
	linesEvery    = time.Second
	stallEvery    = 20 * time.Millisecond
	stallLimit    = 500 * time.Millisecond // longer ones are shown
	settleLimit   = 2 * time.Second
	recoveryLimit = 10 * time.Second
)

// outage is the time from telling the server to stop until the first call that
// succeeds on the new one. over is closed at its end.
type outage struct {
	over chan struct{}

	mu             sync.Mutex // guards the rest
	down, up, done time.Time  // zero = not yet
}

func (o *outage) begin() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.down = time.Now()
	return o.down
}

func (o *outage) serverUp() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.up = time.Now()
	return o.up
}

// success notes a call that succeeded. One that ended before the server was up
// had its answer from the old one.
func (o *outage) success(at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.up.IsZero() && o.done.IsZero() && at.After(o.up) {
		o.done = at
		close(o.over)
	}
}

func (o *outage) end() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.done
}

// touches says whether a call was under way during the outage.
func (o *outage) touches(began, ended time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.down.IsZero() && ended.After(o.down) && (o.done.IsZero() || began.Before(o.done))
}

// outlasted says whether a call that succeeded began before the new server was
// up: it waited for it, without knowing.
func (o *outage) outlasted(began, ended time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.up.IsZero() && began.Before(o.up) && ended.After(o.up)
}

// watch looks at the pool while the users work: from the server's side, through
// CheckHealth, and once a second for the screen.
type watch struct {
	sc     *screen
	target *target
	load   *load

	pings latencies // of health checks that count

	mu         sync.Mutex // guards the rest
	sessions   sessionFigures
	lately     int // most sessions since the last line, -1 = none counted
	health     healthFigures
	lastHealth string
	stall      time.Duration
}

// start begins to watch; the function that it returns waits until all of it has
// ended, which the context's end brings about.
func (w *watch) start(ctx context.Context) (wait func()) {
	w.lately, w.lastHealth = -1, "-"
	var wg sync.WaitGroup
	wg.Go(func() { every(ctx, sessionsEvery, w.countSessions) })
	wg.Go(func() { every(ctx, healthEvery, w.checkHealth) })
	wg.Go(func() { w.lines(ctx) })
	last := time.Now()
	wg.Go(func() { every(ctx, stallEvery, func(context.Context) { last = w.noticeStall(last) }) })
	return wg.Wait
}

func every(ctx context.Context, period time.Duration, do func(context.Context)) {
	t := time.NewTicker(period)
	defer t.Stop()
	for ctx.Err() == nil {
		do(ctx)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
}

func (w *watch) countSessions(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, healthLimit)
	defer cancel()
	began := time.Now()
	n, err := w.target.sessions(limited)
	if ctx.Err() != nil {
		return
	}
	inOutage := w.load.outage.touches(began, time.Now())
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.sessions.samples++
		w.sessions.most = max(w.sessions.most, n)
		w.lately = max(w.lately, n)
	case inOutage:
		w.sessions.away++
	default:
		w.sessions.failed++
	}
}

func (w *watch) checkHealth(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, healthLimit)
	defer cancel()
	began := time.Now()
	h := pgpooled.CheckHealth(limited, w.load.db)
	if ctx.Err() != nil {
		return
	}
	inOutage := w.load.outage.touches(began, time.Now())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lastHealth = "ok " + short(h.Latency)
	switch {
	case !h.Healthy:
		w.lastHealth = "NOT OK"
	case h.Saturated:
		w.lastHealth += " (saturated)"
	}
	if inOutage {
		w.health.inOutage++
		if h.Healthy {
			w.health.healthyInOutage++
		}
		return
	}
	w.health.checked++
	if !h.Healthy {
		w.health.lastError = h.Error
		return
	}
	w.health.healthy++
	w.health.slowest = max(w.health.slowest, h.Latency)
	w.pings.add(h.Latency)
}

// noticeStall looks for pauses of this process: they are the machine's, not the
// pool's, and explain figures that are out of the ordinary.
func (w *watch) noticeStall(last time.Time) time.Time {
	now := time.Now()
	stall := now.Sub(last) - stallEvery
	w.mu.Lock()
	w.stall = max(w.stall, stall)
	w.mu.Unlock()
	if stall > stallLimit {
		w.sc.event("the machine gave this process no time for %s", short(stall))
	}
	return now
}

// lines prints one line each second. The columns from "in use" on are the
// pool's, "sessions" is the most that the server counted in that second.
func (w *watch) lines(ctx context.Context) {
	w.sc.printf("%6s %8s %8s %8s %7s %7s %5s %8s %8s %9s  %s",
		"time", "calls/s", "p50", "p99", "errors", "in use", "idle", "waiting", "opening", "sessions", "health")
	l := w.load
	began, last := time.Now(), time.Now()
	counts, calls, failed := l.spent.counts(), l.calls.Load(), l.failed.Load()
	t := time.NewTicker(linesEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		now, c, n, e := time.Now(), l.spent.counts(), l.calls.Load(), l.failed.Load()
		second := c.since(counts)
		s, _ := pgpooled.StatsOf(l.db)
		w.mu.Lock()
		sessions, health := fmt.Sprintf("%d of %d", w.lately, w.target.limit), w.lastHealth
		if w.lately < 0 {
			sessions = "away"
		}
		w.lately = -1
		w.mu.Unlock()
		w.sc.printf("%5.0fs %8s %8s %8s %7d %7d %5d %8d %8d %9s  %s",
			now.Sub(began).Seconds(), grouped(int64(float64(n-calls)/now.Sub(last).Seconds())),
			short(second.quantile(0.5)), short(second.quantile(0.99)), e-failed,
			s.InUse, s.Idle, s.Waiting, s.Opening, sessions, health)
		last, counts, calls, failed = now, c, n, e
	}
}

// figures hands over what was seen, after everything has ended.
func (w *watch) figures(f *figures) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f.sessions, f.health, f.stall = w.sessions, w.health, w.stall
	f.health.median = w.pings.counts().quantile(0.5)
}

// goroutines counts them when those that are about to end have ended.
func goroutines() int {
	least := runtime.NumGoroutine()
	for range 5 {
		time.Sleep(5 * time.Millisecond)
		least = min(least, runtime.NumGoroutine())
	}
	return least
}

// look counts what is left after db.Close, for a moment if need be: the last
// questions of the watchers may still be ending.
func (f *leakFigures) look(ctx context.Context, t *target) {
	deadline := time.Now().Add(settleLimit)
	for {
		limited, cancel := context.WithTimeout(ctx, settleLimit)
		f.sessions, f.countErr = t.sessions(limited)
		cancel()
		f.after = goroutines()
		clean := f.countErr == nil && f.sessions == 0 && f.after <= f.before
		if clean || time.Now().After(deadline) || !sleep(ctx, 20*time.Millisecond) {
			return
		}
	}
}
