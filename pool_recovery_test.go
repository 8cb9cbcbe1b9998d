package pgpooled

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// longIdle makes the idle sessions look as if they had been idle for an hour by
// the wall clock, while the monotonic clock stood still: a machine that slept.
func longIdle(p *pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.idle {
		s.idleSince = s.idleSince.Round(0).Add(-time.Hour)
	}
}

// behind opens a connector of a real server behind a proxy, with n idle sessions.
func behind(t *testing.T, n int, kv ...string) (*sql.DB, *pool, *faultnet.Proxy) {
	t.Helper()
	s := pgtest.StartT(t, pgtest.Options{TLS: true})
	proxy, err := faultnet.New(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	c, err := NewConnector(s.DSN(append([]string{"host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "conn_max_idle_time", "0"}, kv...)...),
		WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	t.Cleanup(func() { db.Close() })
	conns := make([]*sql.Conn, n)
	for i := range conns {
		if conns[i], err = db.Conn(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := conns[i].PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range conns {
		c.Close()
	}
	return db, c.pool, proxy
}

func TestASessionThatWasIdleForLongByTheWallClockIsPinged(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"disable", "require"} {
		db, p, proxy := behind(t, 1, "sslmode", mode)
		take := func() {
			c, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		before := proxy.Bytes(faultnet.ToServer)
		take()
		if n := proxy.Bytes(faultnet.ToServer) - before; n != 0 {
			t.Errorf("sslmode=%s: a fresh session was asked with %d bytes", mode, n)
		}
		longIdle(p)
		take()
		// The proxy counts after it has forwarded, perhaps after the answer.
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if proxy.AwaitBytes(ctx, faultnet.ToServer, before+1) != nil {
			t.Errorf("sslmode=%s: a session idle for an hour was handed out unasked", mode)
		}
		cancel()
		if s := p.stats(); s.Opens != 1 || s.ClosedDead != 0 {
			t.Errorf("sslmode=%s: %+v", mode, s)
		}
	}
}

// The load balancer has forgotten the connections and tells nobody.
func TestASilentDeadSessionCostsOnePingAndTakesTheOthersWithIt(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"disable", "require"} {
		db, p, proxy := behind(t, 5, "sslmode", mode)
		proxy.Cut(faultnet.Stall)
		longIdle(p)
		start := time.Now()
		if _, err := db.ExecContext(t.Context(), "create temp table t (i int)"); err != nil {
			t.Errorf("sslmode=%s: %v", mode, err)
		}
		if took := time.Since(start); took < pingLimit/2 || took > pingLimit+2*time.Second {
			t.Errorf("sslmode=%s: the call took %s, one ping may take %s", mode, took, pingLimit)
		}
		if s := p.stats(); s.ClosedDead != 5 {
			t.Errorf("sslmode=%s: %+v", mode, s)
		}
	}
}

// crowdedServer is one server for many pools: it counts who dials when.
type crowdedServer struct {
	mu    sync.Mutex
	down  bool
	room  int // sessions that it takes, -1 = any number
	dials map[int]int
	start time.Time
}

func (c *crowdedServer) dial(ctx context.Context, _ int) error {
	c.mu.Lock()
	c.dials[int(time.Since(c.start)/time.Second)]++
	down := c.down
	full := !down && c.room == 0
	if !down && !full {
		c.room--
	}
	c.mu.Unlock()
	switch {
	case down:
		return errRefused
	case full:
		return errors.Join(pause(ctx, time.Millisecond), errFull)
	}
	return pause(ctx, 5*time.Millisecond)
}

// Two hundred pools of ten and one server that is away for a while and has room
// for a quarter of them when it comes back.
//
// The bound: a pool without a session has one probe, which waits between dials a
// time drawn evenly from 0 to retry_max_delay (1 s), half of it on average: two
// dials a second. 200 pools make 400 a second, give or take a few in a hundred
// (the sum of 200 independent ones). Without the probe's turn each of the 2,000
// waiting slots would dial at that rate, 4,000 a second, for as long as the
// outage lasts; without backoff as fast as the server refuses. When it comes back
// each success lets its pool dial for all who wait, and those that fail end in
// one probe again: twice the limits within two seconds, once.
func TestTwoHundredPoolsDialARecoveringServerAtABoundedRate(t *testing.T) {
	t.Parallel()
	const pools, slots, away, settle = 200, 10, 20, 6
	synctest.Test(t, func(t *testing.T) {
		srv := &crowdedServer{room: pools * slots, dials: map[int]int{}, start: time.Now()}
		var all []*pool
		var fakes []*fakeServer
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range pools {
			f := &fakeServer{limit: slots, dial: srv.dial}
			p := newPool("one of many", lim(slots), slog.New(slog.DiscardHandler), f.open)
			all, fakes = append(all, p), append(fakes, f)
		}
		srv.mu.Lock()
		srv.down = true
		srv.mu.Unlock()
		for i, p := range all {
			for range slots {
				wg.Go(func() {
					for ctx.Err() == nil {
						l, err := p.newLease(ctx)
						if err != nil {
							_ = pause(ctx, time.Second)
							continue
						}
						_ = fakes[i].work(ctx, l)
						_ = pause(ctx, 500*time.Millisecond)
						fakes[i].give(l)
						_ = pause(ctx, 500*time.Millisecond)
					}
				})
			}
		}
		time.Sleep(away * time.Second)
		srv.mu.Lock()
		srv.down, srv.room = false, pools*slots/4
		srv.mu.Unlock()
		time.Sleep(settle * time.Second)
		cancel()
		wg.Wait()
		for i, p := range all {
			fakes[i].set(func() { fakes[i].shut = true })
			_ = p.close(0)
		}
		const steady = pools * 2 * 5 / 4
		for s := range away + settle {
			limit := steady
			switch {
			case s == 0:
				limit = pools*slots + pools*8 // everybody's first dial, then delays of 25, 50, 100 … ms on average
			case s < 4:
				limit = pools * 4 // the backoff is not at its cap yet
			case s == away, s == away+1:
				limit = 2*pools*slots + steady
			}
			if n := srv.dials[s]; n > limit {
				t.Errorf("second %d: %d dials, at most %d expected", s, n, limit)
			}
		}
		t.Logf("dials per second: first %d, then %d %d %d %d; in the 10th %d, when it came back %d, then %d %d, at the end %d",
			srv.dials[0], srv.dials[1], srv.dials[2], srv.dials[3], srv.dials[4], srv.dials[10], srv.dials[away], srv.dials[away+1], srv.dials[away+2], srv.dials[away+settle-1])
	})
}

// The server hangs, and connect_timeout is longer than pool_timeout. Somebody
// has waited in vain for all of pool_timeout: whoever comes then need not.
func TestWhoComesAfterAWaitInVainFailsAtOnceWhileTheFirstDialHangs(t *testing.T) {
	t.Parallel()
	bubble(t, lim(10), func(t *testing.T, p *pool, srv *fakeServer) {
		srv.set(func() {
			srv.dial = func(ctx context.Context, _ int) error { return errors.Join(pause(ctx, time.Minute), errRefused) }
		})
		start := time.Now()
		for range 3 { // as sql.DB's opener comes: one after the other
			if o := <-line(t.Context(), p, srv, 1); !errors.Is(o.err, ErrPoolTimeout) {
				t.Error(o.err)
			}
		}
		if took := time.Since(start); took > 21*time.Second {
			t.Errorf("the third in line waited %s, pool_timeout is 10s", took)
		}
	})
}
