package main

import (
	"context"
	"database/sql"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

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

// sample is what was seen in one interval of the load.
type sample struct {
	At       time.Duration // its end, since the start
	Took     time.Duration
	Calls    int64
	Failed   int64
	P50, P99 time.Duration // of the calls that succeeded, 0 = none did
	InUse    int           // from here on at its end, the pool's own count
	Idle     int
	Waiting  int
	Opening  int
	Sessions int    // the most that the server counted in it, -1 = it gave no answer
	Health   string // the last check
}

func (s sample) rate() float64 { return float64(s.Calls) / max(s.Took.Seconds(), 1e-9) }

// watch looks at the pool while the users work: from the server's side, through
// CheckHealth, and for the plots and the screen.
type watch struct {
	sc     *screen
	target *target
	db     *sql.DB
	tally  *tally
	length time.Duration // of the load
	live   func(sample)  // shows a sample instead of a line each second, may be nil

	pings latencies // of health checks that count

	mu         sync.Mutex // guards the rest
	sessions   sessionFigures
	lately     int // most sessions since the last sample, -1 = none counted
	health     healthFigures
	lastHealth string
	stall      time.Duration
	series     []sample
}

// start begins to watch; the function that it returns waits until all of it has
// ended, which the context's end brings about.
func (w *watch) start(ctx context.Context) (wait func()) {
	w.lately, w.lastHealth = -1, "-"
	var wg sync.WaitGroup
	wg.Go(func() { every(ctx, sessionsEvery, w.countSessions) })
	wg.Go(func() { every(ctx, healthEvery, w.checkHealth) })
	wg.Go(func() { w.takeSamples(ctx) })
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
	inOutage := w.tally.outage.touches(began, time.Now())
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
	h := pgpooled.CheckHealth(limited, w.db)
	if ctx.Err() != nil {
		return
	}
	inOutage := w.tally.outage.touches(began, time.Now())
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

// sampleEvery gives a plot some 200 points.
func sampleEvery(length time.Duration) time.Duration {
	return min(max(length/200, 250*time.Millisecond), 10*time.Second)
}

// takeSamples prints a line each second as well, if nothing else shows them.
func (w *watch) takeSamples(ctx context.Context) {
	period := sampleEvery(w.length)
	t := time.NewTicker(period)
	defer t.Stop()
	began := time.Now()
	last, line := began, &lines{sc: w.sc, limit: w.target.limit}
	if w.live == nil {
		line.head()
	}
	calls, failed := w.tally.calls.Load(), w.tally.failed.Load()
	for {
		ended := false
		select {
		case <-t.C:
		case <-ctx.Done():
			ended = true
		}
		now, n, e, h := time.Now(), w.tally.calls.Load(), w.tally.failed.Load(), w.tally.spent.take()
		if ended && now.Sub(last) < period/4 {
			return // too short for a rate
		}
		pool, _ := pgpooled.StatsOf(w.db)
		w.mu.Lock()
		s := sample{
			At: now.Sub(began), Took: now.Sub(last), Calls: n - calls, Failed: e - failed, P50: quantile(h, 0.5), P99: quantile(h, 0.99),
			InUse: pool.InUse, Idle: pool.Idle, Waiting: pool.Waiting, Opening: pool.Opening, Sessions: w.lately, Health: w.lastHealth,
		}
		w.lately = -1
		w.series = append(w.series, s)
		w.mu.Unlock()
		last, calls, failed = now, n, e
		switch {
		case w.live != nil:
			w.live(s)
		case !ended:
			line.add(s, h)
		}
		if ended {
			return
		}
	}
}

// lines prints one line each second. The columns from "in use" on are the
// pool's, "sessions" is the most that the server counted in that second.
type lines struct {
	sc    *screen
	limit int

	sum  sample // of the second so far
	hist *hdrhistogram.Histogram
}

func (l *lines) head() {
	l.sc.printf("%6s %8s %8s %8s %7s %7s %5s %8s %8s %9s  %s",
		"time", "calls/s", "p50", "p99", "errors", "in use", "idle", "waiting", "opening", "sessions", "health")
}

func (l *lines) add(s sample, h *hdrhistogram.Histogram) {
	if l.hist == nil {
		l.hist, l.sum = newHistogram(), sample{Sessions: -1}
	}
	l.hist.Merge(h)
	s.Took += l.sum.Took
	s.Calls += l.sum.Calls
	s.Failed += l.sum.Failed
	s.Sessions = max(s.Sessions, l.sum.Sessions)
	if l.sum = s; s.Took < linesEvery-stallEvery {
		return
	}
	sessions := fmt.Sprintf("%d of %d", s.Sessions, l.limit)
	if s.Sessions < 0 {
		sessions = "away"
	}
	l.sc.printf("%5.0fs %8s %8s %8s %7d %7d %5d %8d %8d %9s  %s", s.At.Seconds(), grouped(int64(s.rate())),
		short(quantile(l.hist, 0.5)), short(quantile(l.hist, 0.99)), s.Failed, s.InUse, s.Idle, s.Waiting, s.Opening, sessions, s.Health)
	l.hist = nil
}

// figures hands over what was seen, after everything has ended.
func (w *watch) figures(f *figures) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f.sessions, f.health, f.stall, f.series = w.sessions, w.health, w.stall, w.series
	f.health.median = quantile(w.pings.total(), 0.5)
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
		clean := f.countErr == nil && (f.sessions == 0 || f.pooler) && f.after <= f.before
		if clean || time.Now().After(deadline) || !sleep(ctx, 20*time.Millisecond) {
			return
		}
	}
}
