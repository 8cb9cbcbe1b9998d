package main

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// figures are what one rival came to in one measurement, or their medians over
// the rounds.
type figures struct {
	Calls  float64 `json:"calls"`
	Errors float64 `json:"errors"`
	Rate   float64 `json:"rate"`   // calls per second
	P50    float64 `json:"p50"`    // µs
	P99    float64 `json:"p99"`    // µs
	Max    float64 `json:"max"`    // µs
	CPU    float64 `json:"cpu"`    // µs of this process per call
	Allocs float64 `json:"allocs"` // per call
	Bytes  float64 `json:"bytes"`  // allocated per call
	Least  float64 `json:"least"`  // calls of the caller that had fewest, as a share of the mean
	Error  string  `json:"error,omitempty"`
}

// samples keeps the latency of each call, in units of 0.1 µs. Its room is made
// before the measurement, so that it allocates nothing during it.
type samples struct {
	used atomic.Int64
	all  []uint32
}

func (s *samples) add(d time.Duration) {
	if i := s.used.Add(1) - 1; int(i) < len(s.all) {
		s.all[i] = uint32(min(d/100, math.MaxUint32))
	}
}

func (s *samples) sorted() []uint32 {
	all := s.all[:min(int(s.used.Load()), len(s.all))]
	slices.Sort(all)
	return all
}

// quantile of sorted samples, in µs.
func quantile(sorted []uint32, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]) / 10
}

// callDeadline is far away: what counts is the cost of having one.
const callDeadline = 10 * time.Second

// crew is the callers of one measurement.
type crew struct {
	w      work
	do     call
	stop   atomic.Bool
	left   atomic.Int64 // calls until everybody stops
	lat    samples
	errors atomic.Int64
	first  atomic.Pointer[error]
	counts []int32 // calls of each caller
}

// newCrew has callers that stop after so many calls.
func newCrew(w work, do call, calls int64, room int) *crew {
	c := &crew{w: w, do: do, counts: make([]int32, w.callers)}
	c.left.Store(calls)
	c.lat.all = make([]uint32, room)
	return c
}

// run lets the callers call until the time is over or all calls are done. The
// call numbers of different phases differ, so that no text repeats.
func (c *crew) run(ctx context.Context, d time.Duration, from int) time.Duration {
	var (
		wg    sync.WaitGroup
		begin = make(chan struct{})
	)
	for i := range c.w.callers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			<-begin
			for n := from; !c.stop.Load() && c.left.Add(-1) >= 0; n++ {
				c.one(ctx, i, n)
			}
		}()
	}
	start := time.Now()
	timer := time.AfterFunc(d, func() { c.stop.Store(true) })
	close(begin)
	wg.Wait()
	timer.Stop()
	return time.Since(start)
}

func (c *crew) one(ctx context.Context, caller, n int) {
	start := time.Now()
	if c.w.deadline {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callDeadline)
		defer cancel()
	}
	if err := c.do(ctx, caller, n); err != nil {
		c.errors.Add(1)
		c.first.CompareAndSwap(nil, &err)
		return
	}
	c.lat.add(time.Since(start))
	c.counts[caller]++
}

func (c *crew) failure() error {
	if e := c.first.Load(); e != nil {
		return *e
	}
	return nil
}

// ready opens a fresh pool for a work and warms it.
func (b *bench) ready(ctx context.Context, w work, r rival) (*pool, call, error) {
	if w.prepare != "" {
		if err := b.admin(ctx, w.prepare); err != nil {
			return nil, nil, err
		}
	}
	p, err := r.open(b.dsn(w.tls, w.far), w.conns)
	if err != nil {
		return nil, nil, err
	}
	do, err := b.warm(ctx, w, p)
	if err != nil {
		p.close()
		return nil, nil, err
	}
	return p, do, nil
}

func (b *bench) warm(ctx context.Context, w work, p *pool) (call, error) {
	if err := fill(ctx, p.DB, w.conns); err != nil {
		return nil, err
	}
	do, err := w.start(ctx, p.DB)
	if err != nil {
		return nil, err
	}
	limit, calls := b.cfg.time/3, int64(math.MaxInt64)
	if w.warmup > 0 {
		limit, calls = 3*b.cfg.time, int64(w.warmup)
	}
	newCrew(w, do, calls, 0).run(ctx, limit, 0)
	return do, nil
}

// measure has one rival do one work for a while.
func (b *bench) measure(ctx context.Context, w work, r rival) (figures, error) {
	return b.measureCalls(ctx, w, r, b.cfg.time, math.MaxInt64)
}

// secondPhase is where the call numbers of a measurement begin.
const secondPhase = 1 << 24

func (b *bench) measureCalls(ctx context.Context, w work, r rival, d time.Duration, calls int64) (figures, error) {
	p, do, err := b.ready(ctx, w, r)
	if err != nil {
		return figures{}, fmt.Errorf("%s, %s: %w", w.name, r.name, err)
	}
	defer p.close()
	c := newCrew(w, do, calls, 4096+int(min(d, 10*time.Second).Seconds()*100_000))
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu := cpuTime()
	took := c.run(ctx, d, secondPhase)
	cpu = cpuTime() - cpu
	runtime.ReadMemStats(&after)

	done := float64(c.lat.used.Load())
	f := figures{Calls: done, Errors: float64(c.errors.Load()), Rate: done / took.Seconds()}
	if err := c.failure(); err != nil {
		f.Error = err.Error()
	}
	if done == 0 {
		return f, fmt.Errorf("%s, %s: not one call succeeded: %s", w.name, r.name, f.Error)
	}
	lat := c.lat.sorted()
	f.P50, f.P99, f.Max = quantile(lat, .5), quantile(lat, .99), quantile(lat, 1)
	all := done + f.Errors
	f.CPU = float64(cpu.Microseconds()) / all
	f.Allocs = float64(after.Mallocs-before.Mallocs) / all
	f.Bytes = float64(after.TotalAlloc-before.TotalAlloc) / all
	f.Least = float64(slices.Min(c.counts)) * float64(w.callers) / done
	return f, nil
}
