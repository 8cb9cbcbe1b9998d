package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pgpooled/pgpooled/internal/cutmatrix"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// fault is a way to make trouble. It returns when the trouble is over.
type fault struct {
	name string
	// hides: the proxy stands between the pool and what the server does, so the
	// pool cannot know when a session it has given up is gone from the server.
	hides bool
	do    func(f *faults, p *pool) error
}

// Every kind comes once before any comes twice.
var kinds = []fault{
	{"cut at a random byte, FIN", true, func(f *faults, p *pool) error { return f.cut(p, faultnet.CutClient) }},
	{"cut at a random byte, RST", true, func(f *faults, p *pool) error { return f.cut(p, faultnet.ResetClient) }},
	{"cut at a random byte, both ends, FIN", true, func(f *faults, p *pool) error { return f.cut(p, faultnet.CutBoth) }},
	{"cut at a random byte, both ends, RST", true, func(f *faults, p *pool) error { return f.cut(p, faultnet.ResetBoth) }},
	{"network silent", true, (*faults).freeze},
	{"network slow", false, (*faults).latency},
	{"connections refused", true, (*faults).refuse},
	{"pg_terminate_backend of one", false, func(f *faults, p *pool) error { return f.terminate(p, 1) }},
	{"pg_terminate_backend of all", false, func(f *faults, p *pool) error { return f.terminate(p, 1000) }},
	{"kill -9 of a backend", false, restart("kill -9 of a backend")},
	{"restart -m fast", false, restart("fast")},
	{"restart -m immediate", false, restart("immediate")},
	{"kill -9 of the postmaster", false, restart("kill -9 of the postmaster")},
	{"limit changed", false, (*faults).limit},
	{"Refresh", false, func(f *faults, p *pool) error { p.conn.Refresh(); return nil }},
	{"rush", false, (*faults).rush},
}

// faults makes them, one at a time.
type faults struct {
	r   *run
	rng *rand.Rand

	mu      sync.Mutex // guards the following
	log     []made
	counts  map[string]int
	skipped []string // those that could not be made
}

// made is a fault that happened; to is zero while it lasts.
type made struct {
	from, to time.Duration // since the start
}

// work makes every fault once, and from then on faults for two thirds of each
// cycle; it leaves the rest quiet.
func (f *faults) work(ctx context.Context) {
	deck := f.rng.Perm(len(kinds))
	for first := true; ; {
		pause := time.Duration((0.5 + f.rng.Float64()) * float64(f.r.scale.faultEvery))
		in := f.r.since() % f.r.scale.cycle
		if !first && in+pause > f.r.scale.cycle*2/3 {
			pause = f.r.scale.cycle - in
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if len(deck) == 0 {
			first, deck = false, f.rng.Perm(len(kinds))
		}
		f.make(kinds[deck[0]], f.r.pools[f.rng.IntN(len(f.r.pools))])
		deck = deck[1:]
	}
}

func (f *faults) make(k fault, p *pool) {
	f.mu.Lock()
	f.log = append(f.log, made{from: f.r.since()})
	f.counts[k.name]++
	f.mu.Unlock()
	if k.hides {
		p.excuse.Store(int64(time.Hour)*24*365 + time.Now().UnixNano())
	}
	err := k.do(f, p)
	if k.hides {
		p.excuse.Store(time.Now().Add(hiddenFor).UnixNano())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log[len(f.log)-1].to = f.r.since()
	if err != nil && len(f.skipped) < 10 {
		f.skipped = append(f.skipped, fmt.Sprintf("%s: %v", k.name, err))
	}
}

// hiddenFor is how long after a fault of the network a session may live on in
// the server unseen: the pool waits up to two seconds for its end, and what the
// proxy still holds needs a moment.
const hiddenFor = 5 * time.Second

// wait is a pause between from and to, shortened as the whole run is.
func (f *faults) wait(from, to time.Duration) {
	d := from + time.Duration(f.rng.Int64N(int64(to-from)))
	time.Sleep(time.Duration(float64(d) * f.r.scale.stretch))
}

func (f *faults) cut(p *pool, action faultnet.Action) error {
	dir := faultnet.ToServer
	if f.rng.IntN(2) == 0 {
		dir = faultnet.ToClient
	}
	p.proxy.Arm(dir, f.rng.IntN(600), action)
	f.wait(time.Second, 2*time.Second)
	p.proxy.Disarm()
	return nil
}

func (f *faults) freeze(p *pool) error {
	p.proxy.Freeze()
	f.wait(100*time.Millisecond, 3*time.Second)
	p.proxy.Thaw()
	return nil
}

func (f *faults) latency(p *pool) error {
	p.proxy.SetLatency(time.Duration(2+f.rng.IntN(60)) * time.Millisecond)
	f.wait(500*time.Millisecond, 2*time.Second)
	p.proxy.SetLatency(0)
	return nil
}

func (f *faults) refuse(p *pool) error {
	if err := p.proxy.Refuse(true); err != nil {
		return err
	}
	p.conn.Refresh() // else nobody would dial
	f.wait(100*time.Millisecond, 2*time.Second)
	return p.proxy.Refuse(false)
}

func (f *faults) terminate(p *pool, most int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err := f.r.server.Admin().ExecContext(ctx, `select pg_terminate_backend(pid) from
		(select pid from pg_stat_activity where application_name = $1 order by random() limit $2) s`, p.app, most)
	return err
}

func restart(mode string) func(*faults, *pool) error {
	return func(f *faults, _ *pool) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return cutmatrix.Restart(ctx, f.r.server, mode)
	}
}

func (f *faults) limit(p *pool) error {
	full := f.r.cfg.Limit
	f.setLimit(p, 1+f.rng.IntN(full))
	f.wait(500*time.Millisecond, 2*time.Second)
	f.setLimit(p, full)
	return nil
}

// setLimit: a lower limit takes effect as sessions come back.
func (f *faults) setLimit(p *pool, n int) {
	if n < int(p.limit.Load()) {
		p.over.Store(time.Now().Add(hiddenFor).UnixNano())
	}
	p.limit.Store(int64(n))
	p.conn.SetMaxOpenConns(n)
}

// rush: the callers stop thinking.
func (f *faults) rush(*pool) error {
	f.r.rushing.Store(true)
	f.wait(300*time.Millisecond, time.Second)
	f.r.rushing.Store(false)
	return nil
}

func (f *faults) snapshot() ([]made, map[string]int, []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	counts := make(map[string]int)
	for k, n := range f.counts {
		counts[k] = n
	}
	return append([]made(nil), f.log...), counts, append([]string(nil), f.skipped...)
}
