package main

import (
	"context"
	"database/sql"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// special is a work that is not one call after the other.
type special struct {
	name, what string
	measure    func(context.Context, rival) ([]metric, error)
	skip       func(rival) string // why a rival does not take part, "" = it does
}

// metric is one figure of a special work.
type metric struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`
}

// The metrics that the aims ask for.
const (
	firstAnswer = "open, first answer"
	leastServed = "calls of the caller that had fewest, the mean = 1"
)

func (b *bench) specials() []special {
	all := func(rival) string { return "" }
	limited := func(r rival) string {
		if isOverloaded(r, b.cfg.crowd) {
			return "more callers than the server has connections"
		}
		return ""
	}
	cold := func(name, what string, tls, far bool) special {
		return special{name, what, func(ctx context.Context, r rival) ([]metric, error) { return b.cold(ctx, r, b.dsn(tls, far)) }, all}
	}
	return []special{
		cold("cold", "cold start", false, false),
		cold("cold-tls", "cold start, TLS", true, false),
		cold("cold-far", fmt.Sprintf("cold start, network latency of %s", b.cfg.latency), false, true),
		{"storm", fmt.Sprintf("%d callers at once on a pool just opened", b.cfg.callers), b.storm, all},
		{"crowd", fmt.Sprintf("%d callers on %d connections, point select with an argument", b.cfg.crowd, b.cfg.conns), b.crowd, limited},
	}
}

// warmSessions names the metric of a cold start.
func warmSessions(n int) string { return fmt.Sprintf("open, %d warm sessions", n) }

// coldStarts is how often a cold start is measured in a round.
const coldStarts = 5

// cold measures the time from opening a pool to its first answer, and to so
// many warm sessions: by the rival's own means, else by using all at once.
func (b *bench) cold(ctx context.Context, r rival, dsn string) ([]metric, error) {
	var first, warm []float64
	for range coldStarts {
		took, err := timed(func() (*pool, error) {
			p, err := r.open(dsn, b.cfg.conns)
			if err != nil {
				return nil, err
			}
			var name string
			return p, p.QueryRowContext(ctx, textOnly).Scan(&name)
		})
		if err != nil {
			return nil, err
		}
		first = append(first, took)
		took, err = timed(func() (*pool, error) {
			if r.openWarm != nil {
				return r.openWarm(ctx, dsn, b.cfg.conns)
			}
			p, err := r.open(dsn, b.cfg.conns)
			if err != nil {
				return nil, err
			}
			return p, fill(ctx, p.DB, b.cfg.conns)
		})
		if err != nil {
			return nil, err
		}
		warm = append(warm, took)
	}
	return []metric{{firstAnswer, "ms", median(first)}, {warmSessions(b.cfg.conns), "ms", median(warm)}}, nil
}

// timed returns milliseconds, and closes the pool outside them.
func timed(open func() (*pool, error)) (float64, error) {
	start := time.Now()
	p, err := open()
	took := time.Since(start)
	if p != nil {
		p.close()
	}
	return milliseconds(took), err
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// storm measures how long a burst of callers waits for its answers when no
// connection is there yet.
func (b *bench) storm(ctx context.Context, r rival) ([]metric, error) {
	var half, all, failed []float64
	for range coldStarts {
		p, err := r.open(b.dsn(false, false), b.cfg.conns)
		if err != nil {
			return nil, err
		}
		w := work{callers: b.cfg.callers, conns: b.cfg.conns}
		do, _ := pointSelect(ctx, p.DB)
		c := newCrew(w, do, int64(w.callers), w.callers)
		took := c.run(ctx, time.Minute, 0)
		p.close()
		half = append(half, quantile(c.lat.sorted(), .5)/1000)
		all = append(all, milliseconds(took))
		failed = append(failed, float64(c.errors.Load()))
	}
	return []metric{{"until half are answered", "ms", median(half)}, {"until all are answered", "ms", median(all)},
		{"calls that failed", "", slices.Max(failed)}}, nil
}

// crowd has very many callers. Each is served ten times on average, so that the
// differences between them show.
func (b *bench) crowd(ctx context.Context, r rival) ([]metric, error) {
	w := works(b.cfg.crowd, b.cfg.conns)[0]
	w.warmup = 1000
	f, err := b.measureCalls(ctx, w, r, time.Minute, 10*int64(b.cfg.crowd))
	if err != nil {
		return nil, err
	}
	bytes, err := b.waiterBytes(ctx, r)
	if err != nil {
		return nil, err
	}
	return []metric{{"rate", "calls/s", f.Rate}, {"p50", "ms", f.P50 / 1000}, {"p99", "ms", f.P99 / 1000}, {"slowest", "ms", f.Max / 1000},
		{leastServed, "", f.Least}, {"client CPU", "µs/call", f.CPU}, {"memory of a waiter, its stack included", "bytes", bytes},
		{"calls that failed", "", f.Errors}}, nil
}

// waiterBytes is what a caller costs that waits for a connection.
func (b *bench) waiterBytes(ctx context.Context, r rival) (float64, error) {
	p, err := r.open(b.dsn(false, false), b.cfg.conns)
	if err != nil {
		return 0, err
	}
	defer p.close()
	if err := fill(ctx, p.DB, b.cfg.conns); err != nil {
		return 0, err
	}
	held := make([]*sql.Conn, b.cfg.conns)
	for i := range held {
		if held[i], err = p.Conn(ctx); err != nil {
			return 0, err
		}
		// pgpooled gives a connection that nobody has used to whoever waits.
		if err := held[i].PingContext(ctx); err != nil {
			return 0, err
		}
	}
	before := settledMemory()
	var wg sync.WaitGroup
	failed := make(chan error, 1)
	for range b.cfg.crowd {
		wg.Add(1)
		go func() {
			defer wg.Done()
			c, err := p.Conn(ctx)
			if err == nil {
				err = c.Close()
			}
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		}()
	}
	bytes := float64(settledMemory()-before) / float64(b.cfg.crowd)
	for _, c := range held {
		_ = c.Close()
	}
	wg.Wait()
	select {
	case err := <-failed:
		return 0, err
	default:
		return bytes, nil
	}
}

// settledMemory waits until nothing is allocated any more and returns what is
// in use, heap and stacks.
func settledMemory() int64 {
	var last, now runtime.MemStats
	for {
		runtime.ReadMemStats(&now)
		// The goroutines of timers and of the garbage collector do a little.
		if now.Mallocs-last.Mallocs < 100 && last.Mallocs > 0 {
			break
		}
		last = now
		time.Sleep(20 * time.Millisecond)
	}
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&now)
	return int64(now.HeapAlloc + now.StackInuse)
}

// maxSpecialRounds bounds what takes its time, and repeats within a round.
const maxSpecialRounds = 3

func (b *bench) doSpecial(ctx context.Context, s special) (specialResult, error) {
	began := time.Now()
	res := specialResult{Name: s.name, What: s.what}
	var es []rival
	for _, r := range b.cfg.entered() {
		if why := s.skip(r); why != "" {
			res.Absent = append(res.Absent, r.name+": "+why)
			continue
		}
		es = append(es, r)
	}
	all, err := rounds(min(b.cfg.rounds, maxSpecialRounds), len(es), func(_, i int) ([]metric, error) {
		m, err := s.measure(ctx, es[i])
		if err != nil {
			err = fmt.Errorf("%s, %s: %w", s.name, es[i].name, err)
		}
		return m, err
	})
	if err != nil {
		return res, err
	}
	for i, r := range es {
		res.Rivals = append(res.Rivals, r.name)
		for k, m := range all[i][0] {
			if i == 0 {
				res.Metrics = append(res.Metrics, specialMetric{Name: m.Name, Unit: m.Unit})
			}
			var values []float64
			for _, round := range all[i] {
				values = append(values, round[k].Value)
			}
			res.Metrics[k].Values = append(res.Metrics[k].Values, spreadOf(values))
			res.Metrics[k].Rounds = append(res.Metrics[k].Rounds, values)
		}
	}
	b.cfg.log("%s: %s", s.name, time.Since(began).Round(time.Second))
	return res, nil
}
