package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// config is what the command line sets.
type config struct {
	Duration    time.Duration
	Callers     int
	Limit       int           // max_open_conns of each pool
	Think       time.Duration // mean pause of a caller before each call
	Seed        uint64        // of the faults and of the callers
	CommitCheck string        // commit_check of both pools
	NoFaults    bool
	Leak        time.Duration // leak a goroutine this often, to see the run fail; 0 = not
}

// scale is what follows from the duration, so that a run of 20 seconds goes
// through the same as one of an hour.
type scale struct {
	window, tick time.Duration // of the samples
	cycle        time.Duration // two thirds of it have faults, the rest is quiet
	faultEvery   time.Duration // mean pause between two faults
	settle       time.Duration // between a fault and a quiet window
	stretch      float64       // of the faults' lengths
	idle, life   time.Duration // conn_max_idle_time, conn_max_lifetime
}

func scaled(d time.Duration) scale {
	return scale{
		window:     clamp(d/720, 500*time.Millisecond, 5*time.Second),
		tick:       clamp(d/7200, 50*time.Millisecond, 500*time.Millisecond),
		cycle:      clamp(d/15, 8*time.Second, time.Minute),
		faultEvery: clamp(d/100, 300*time.Millisecond, 3*time.Second),
		settle:     clamp(d/150, 300*time.Millisecond, 3*time.Second),
		stretch:    min(1, max(0.2, d.Minutes()/5)),
		idle:       clamp(d/60, time.Second, 30*time.Second),
		life:       clamp(d/12, 3*time.Second, 5*time.Minute),
	}
}

func clamp(d, low, high time.Duration) time.Duration { return min(high, max(low, d)) }

// run is one run.
type run struct {
	cfg     config
	scale   scale
	start   time.Time
	server  *pgtest.Server
	pools   []*pool
	callers []*caller
	book    book
	classes classes
	samples *samples
	faults  *faults

	loading context.Context // ends when callers are to make no more calls
	rushing atomic.Bool

	resolved atomic.Int64 // lost COMMITs whose fate Resolve found
	late     atomic.Int64 // the longest time between a context's end and the call's
	lateOp   atomic.Pointer[string]
}

func (r *run) since() time.Duration { return time.Since(r.start) }

func (r *run) proxyPorts() []int {
	var ports []int
	for _, p := range r.pools {
		ports = append(ports, p.proxy.Port())
	}
	return ports
}

func (r *run) noteLate(op string, d time.Duration) {
	for {
		old := r.late.Load()
		if int64(d) <= old {
			return
		}
		if r.late.CompareAndSwap(old, int64(d)) {
			r.lateOp.Store(&op)
			return
		}
	}
}

// soak runs until the duration is over or ctx ends. Its error is a failure of
// the harness; what pgpooled did wrong is in the result.
func soak(ctx context.Context, cfg config, progress func(string)) (*result, error) {
	r := &run{cfg: cfg, scale: scaled(cfg.Duration)}
	var err error
	if r.server, err = pgtest.Start(ctx, pgtest.Options{TLS: true}); err != nil {
		return nil, err
	}
	defer r.server.Stop()
	if _, err := r.server.Admin().ExecContext(ctx, schema); err != nil {
		return nil, err
	}
	version := ""
	if err := r.server.Admin().QueryRowContext(ctx, "select 'PostgreSQL ' || split_part(current_setting('server_version'), ' ', 1)").Scan(&version); err != nil {
		return nil, err
	}
	before := r.left()
	defer r.closePools()
	for i, name := range []string{"plain", "TLS"} {
		p, err := r.openPool(name, []string{"disable", "require"}[i])
		if err != nil {
			return nil, err
		}
		r.pools = append(r.pools, p)
	}
	r.start = time.Now()
	r.samples = newSamples(r)
	r.faults = &faults{r: r, rng: rand.New(rand.NewPCG(cfg.Seed, 0)), counts: make(map[string]int), log: make([]made, 0, 4096)}
	hung := r.load(ctx, progress)

	res := &result{Config: cfg, Seconds: r.since().Seconds(), Server: version, ClosedBy: r.closedBy(), Pools: r.totals()}
	if !hung {
		res.Slots = r.awaitSlots()
		if err := r.closePools(); err != nil {
			res.CloseError = err.Error()
		}
		res.Left = r.awaitLeft(before)
	}
	return res, r.fill(res, hung)
}

// openPool opens a pool behind a proxy.
func (r *run) openPool(name, sslmode string) (*pool, error) {
	p := &pool{name: name, app: "test-soak-" + name}
	p.limit.Store(int64(r.cfg.Limit))
	var err error
	if p.proxy, err = faultnet.New(r.server.Addr()); err != nil {
		return nil, err
	}
	dsn := r.server.DSN("host", p.proxy.Host(), "port", fmt.Sprint(p.proxy.Port()), "sslmode", sslmode,
		"application_name", p.app, "max_open_conns", fmt.Sprint(r.cfg.Limit), "commit_check", r.cfg.CommitCheck,
		"conn_max_idle_time", r.scale.idle.String(), "conn_max_lifetime", r.scale.life.String())
	if p.conn, err = pgpooled.NewConnector(dsn, pgpooled.WithLogger(slog.New(slog.DiscardHandler))); err != nil {
		return nil, errors.Join(err, p.proxy.Close())
	}
	p.db = sql.OpenDB(p.conn)
	return p, nil
}

// load lets callers, faults and samples work side by side. hung: a call did not
// return though everything was mended.
func (r *run) load(ctx context.Context, progress func(string)) (hung bool) {
	loading, stopLoad := context.WithTimeout(ctx, r.cfg.Duration)
	defer stopLoad()
	r.loading = loading
	var callers, others sync.WaitGroup
	for i := range r.cfg.Callers {
		c := &caller{r: r, id: i, rng: rand.New(rand.NewPCG(r.cfg.Seed, uint64(i)+1)), stmts: make(map[*pool]*sql.Stmt)}
		r.callers = append(r.callers, c)
	}
	for _, c := range r.callers {
		callers.Go(c.work)
	}
	others.Go(func() { r.samples.work(loading) })
	others.Go(func() { r.check(loading, progress) })
	if !r.cfg.NoFaults {
		others.Go(func() { r.faults.work(loading) })
	}
	if r.cfg.Leak > 0 {
		stop := make(chan struct{})
		defer close(stop)
		others.Go(func() { leak(loading, r.cfg.Leak, stop) })
	}
	others.Wait() // the last fault is mended
	done := make(chan struct{})
	go func() {
		defer close(done)
		callers.Wait()
	}()
	select {
	case <-done:
		return false
	case <-time.After(hangLimit):
		return true
	}
}

// leak is what the run has to notice.
func leak(ctx context.Context, every time.Duration, stop <-chan struct{}) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			go func() { <-stop }()
		}
	}
}

// check looks up what callers were told, some seconds later, all along.
func (r *run) check(ctx context.Context, progress func(string)) {
	tick := time.NewTicker(clamp(r.cfg.Duration/100, time.Second, 10*time.Second))
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for {
			asked, cancel := context.WithTimeout(ctx, 10*time.Second)
			more, err := r.book.check(asked, r.server.Admin(), time.Now().Add(-2*r.scale.settle))
			cancel()
			if err != nil || !more {
				break
			}
		}
		if time.Since(last) > time.Minute {
			last = time.Now()
			progress(r.line())
		}
	}
}

// line says how it goes.
func (r *run) line() string {
	_, counts, _ := r.faults.snapshot()
	n := 0
	for _, c := range counts {
		n += c
	}
	r.book.mu.Lock()
	defer r.book.mu.Unlock()
	return fmt.Sprintf("%s: %d writes, %d of them wrong, %d faults", r.since().Round(time.Second), r.book.tokens.Load(), r.book.wrong, n)
}

func (r *run) closePools() error {
	var errs []error
	for _, p := range r.pools {
		errs = append(errs, p.db.Close(), p.proxy.Close())
	}
	return errors.Join(errs...)
}
