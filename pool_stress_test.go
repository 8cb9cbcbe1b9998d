package pgpooled

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lib/pq"
)

// stressFor is PGPOOLED_TEST_STRESS, two seconds without it.
func stressFor(t *testing.T) time.Duration {
	t.Helper()
	v := os.Getenv("PGPOOLED_TEST_STRESS")
	if v == "" {
		return 2 * time.Second
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestStress lets 64 goroutines take, use, break and give back sessions while
// dials fail, limits move and contexts end. It is not parallel: goleak counts.
func TestStress(t *testing.T) {
	t.Run("one long pool", func(t *testing.T) { stress(t, seed(t), stressFor(t)/2) })
	t.Run("many short pools that are closed over their leases", func(t *testing.T) {
		n := seed(t)
		for end, i := time.Now().Add(stressFor(t)/2), uint64(0); time.Now().Before(end) && !t.Failed(); i++ {
			stress(t, n+i, 20*time.Millisecond)
		}
	})
}

const stressLimit = 8 // no limit is ever higher

func stress(t *testing.T, n uint64, d time.Duration) {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	srv := &fakeServer{limit: stressLimit}
	chaos := rand.New(rand.NewPCG(n, 0))
	var dice sync.Mutex
	draw := func(n int) int {
		dice.Lock()
		defer dice.Unlock()
		return chaos.IntN(n)
	}
	srv.dial = func(ctx context.Context, _ int) error {
		switch draw(12) {
		case 0:
			return errRefused
		case 1:
			return errFull
		case 2:
			return errPassword
		case 3:
			return pause(ctx, time.Duration(draw(2000))*time.Microsecond)
		}
		return ctx.Err()
	}
	srv.closing = func(*fakeConn) {
		if draw(4) == 0 {
			_ = pause(context.Background(), time.Duration(draw(1000))*time.Microsecond)
		}
	}
	l := lim(5)
	l.timeout, l.retry.baseDelay, l.retry.maxDelay = 20*time.Millisecond, 100*time.Microsecond, 2*time.Millisecond
	l.maxIdleTime, l.maxLifetime, l.jitter, l.leakAfter = 2*time.Millisecond, 30*time.Millisecond, -1, 10*time.Millisecond
	p := newPool("stress", l, slog.New(slog.DiscardHandler), srv.open)

	stop := make(chan struct{})
	time.AfterFunc(d, func() { close(stop) })
	over := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	var callers, others sync.WaitGroup
	var served atomic.Int64
	for i := range 64 {
		callers.Go(func() {
			r := rand.New(rand.NewPCG(n, uint64(i)+1))
			for !over() {
				if err := stressCall(p, srv, r); err == nil {
					served.Add(1)
				} else if !stressExpects(err) {
					t.Errorf("%T %v", err, err)
					return
				}
			}
		})
	}
	others.Go(func() {
		r := rand.New(rand.NewPCG(n, 1000))
		for !over() {
			_ = pause(context.Background(), time.Duration(r.IntN(3000))*time.Microsecond)
			p.setLimits(func(l *limits) {
				l.maxOpen, l.maxIdle, l.minIdle = 1+r.IntN(stressLimit), r.IntN(stressLimit)-1, r.IntN(3)
			})
			if r.IntN(20) == 0 {
				p.refresh()
			}
		}
	})
	others.Go(func() {
		for !over() {
			_ = pause(context.Background(), 100*time.Microsecond)
			p.mu.Lock()
			err := p.checkLocked()
			p.mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	if d < time.Second { // close over what is out
		<-stop
		srv.set(func() { srv.shut = true })
		_ = p.close(time.Duration(n%2) * time.Millisecond)
		callers.Wait()
		others.Wait()
	} else {
		callers.Wait()
		others.Wait()
		stressSlots(t, p, srv)
		srv.set(func() { srv.shut = true })
		if err := p.close(time.Minute); err != nil {
			t.Error(err)
		}
		if served.Load() < 1000 {
			t.Errorf("only %d calls were served", served.Load())
		}
	}
	if err := audit(p, srv); err != nil {
		t.Errorf("seed %d: %v", n, err)
	}
	if s := p.stats(); s.Open != 0 || s.Waiting != 0 || srv.exist != 0 {
		t.Errorf("seed %d: after close the server has %d sessions: %+v", n, srv.exist, s)
	}
	goleak.VerifyNone(t, leaks)
}

// stressCall is one caller's work, start to end.
func stressCall(p *pool, srv *fakeServer, r *rand.Rand) error {
	ctx, cancel := context.WithCancel(context.Background())
	if r.IntN(3) == 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(3000))*time.Microsecond)
	}
	defer cancel()
	l, err := p.newLease(ctx)
	if err != nil {
		return err
	}
	defer srv.give(l)
	if r.IntN(100) == 0 { // parked
		_ = pause(ctx, parkedAfter+time.Duration(r.IntN(5))*time.Millisecond)
	}
	for range r.IntN(4) {
		if err := srv.work(ctx, l); err != nil {
			return err
		}
		if r.IntN(8) == 0 {
			_ = pause(ctx, time.Duration(r.IntN(300))*time.Microsecond)
		}
	}
	if l.state.Load() == leaseUsed {
		switch r.IntN(30) {
		case 0:
			conn(l).kill(r.IntN(2))
		case 1:
			l.s.doomed.Store(true)
		}
	}
	return nil
}

// stressExpects: what a caller may be told.
func stressExpects(err error) bool {
	answer, ok := err.(*pq.Error) // as callers do
	return ok && answer == errPassword || errors.Is(err, ErrPoolTimeout) || errors.Is(err, ErrClosed) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errDead)
}

// stressSlots: when all is back and the server is well, all slots can be had.
func stressSlots(t *testing.T, p *pool, srv *fakeServer) {
	t.Helper()
	srv.set(func() { srv.dial, srv.closing = nil, nil })
	p.setLimits(func(l *limits) { l.maxOpen, l.maxIdle, l.minIdle, l.timeout = stressLimit, -1, 0, 10*time.Second })
	var all []*lease
	for range stressLimit {
		l, err := p.newLease(t.Context())
		if err == nil {
			err = srv.work(t.Context(), l)
		}
		if err != nil {
			t.Errorf("%d of %d slots: %v", len(all), stressLimit, err)
			break
		}
		all = append(all, l)
	}
	for _, l := range all {
		srv.give(l)
	}
}
