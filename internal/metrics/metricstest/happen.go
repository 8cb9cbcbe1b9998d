package metricstest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/metrics"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// traffic is what counts ordinary work: how much of it a step takes is not told.
var traffic = map[string]bool{"Acquires": true, "Waits": true, "WaitTime": true, "Opens": true, "OpenErrors": true, "OpenRetries": true}

// Reader reads a metrics adapter's figures, by the field of pgpooled.Stats;
// histograms are left out.
type Reader func() map[string]float64

// Happen lets things happen to pools of a real server, and checks that what the
// adapter says moves by just that.
func Happen(t *testing.T, server *pgtest.Server, attach func(t *testing.T, db *sql.DB) Reader) {
	t.Run("a read that ran again", func(t *testing.T) {
		p := open(t, server, attach)
		p.moves(t, map[string]float64{"Replays": 1, "ClosedBroken": 1, "ClosedReplay": 1}, func() error {
			p.proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
			_, err := p.db.Exec("select 1")
			return err
		})
	})
	t.Run("an outcome that is unknown", func(t *testing.T) {
		p := open(t, server, attach)
		p.moves(t, map[string]float64{"OutcomesUnknown": 1, "ClosedBroken": 1}, func() error {
			p.proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
			_, err := p.db.Exec("do $$ begin end $$")
			var unknown *pgpooled.OutcomeUnknownError
			return got(err, errors.As(err, &unknown))
		})
	})
	t.Run("an idempotent statement that ran again", func(t *testing.T) {
		p := open(t, server, attach)
		p.moves(t, map[string]float64{"Reruns": 1, "OutcomesUnknown": 1, "ClosedBroken": 1}, func() error {
			p.proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
			_, err := p.db.ExecContext(pgpooled.WithIdempotent(t.Context()), "do $$ begin end $$")
			return err
		})
	})
	t.Run("a pool timeout", func(t *testing.T) {
		p := open(t, server, attach, "max_open_conns", "1", "pool_timeout", "100ms")
		defer p.hold(t).Close()
		p.moves(t, map[string]float64{"PoolTimeouts": 1}, func() error {
			err := p.db.PingContext(t.Context())
			return got(err, errors.Is(err, pgpooled.ErrPoolTimeout))
		})
		if v := p.read(); v["InUse"] != 1 || v["MaxOpenConns"] != 1 || v["Waiting"] != 0 {
			t.Errorf("%v in use of %v, %v in line", v["InUse"], v["MaxOpenConns"], v["Waiting"])
		}
	})
	t.Run("a wait that was cancelled", func(t *testing.T) {
		p := open(t, server, attach, "max_open_conns", "1")
		defer p.hold(t).Close()
		p.moves(t, map[string]float64{"Cancelled": 1}, func() error {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- p.db.PingContext(ctx) }()
			p.await(t, "the caller is in line", func(v map[string]float64) bool { return v["Waiting"] == 1 })
			cancel()
			err := <-done
			return got(err, errors.Is(err, context.Canceled))
		})
	})
	t.Run("an outage", func(t *testing.T) {
		p := open(t, server, attach)
		p.moves(t, map[string]float64{"Outages": 1}, func() error {
			must(t, p.proxy.Refuse(true))
			p.proxy.CutAll(false)
			must(t, p.proxy.AwaitConns(t.Context(), 0))
			const callers = 4 // whose dials fail at the same time
			done := make(chan error, callers)
			for range callers {
				go func() { done <- p.db.PingContext(t.Context()) }()
			}
			p.await(t, "the server is away, and was dialled again", func(v map[string]float64) bool { return v["OutageFor"] > 0 && v["OpenRetries"] > callers })
			must(t, p.proxy.Refuse(false))
			var errs []error
			for range callers {
				errs = append(errs, <-done)
			}
			return errors.Join(errs...)
		}, "ClosedDead", "ClosedBroken", "Reclaimed") // the last: of a caller that was slow to run
		v := p.read()
		if n := v["ClosedDead"] + v["ClosedBroken"]; n != 1 { // before it was used, or when
			t.Errorf("%v sessions were closed, there was one", n)
		}
		if v["OutageFor"] != 0 || v["Waiting"] != 0 || v["OpenErrors"] != v["OpenRetries"] {
			t.Errorf("away for %v s; %v failed dials, %v retries", v["OutageFor"], v["OpenErrors"], v["OpenRetries"])
		}
	})
	t.Run("a pool closed while the server is away", func(t *testing.T) {
		p := open(t, server, attach)
		must(t, p.proxy.Refuse(true))
		p.proxy.CutAll(false)
		must(t, p.proxy.AwaitConns(t.Context(), 0))
		done := make(chan error, 1)
		go func() { done <- p.db.PingContext(t.Context()) }()
		p.await(t, "the server is away", func(v map[string]float64) bool { return v["OutageFor"] > 0 && v["OpenRetries"] > 0 })
		must(t, p.db.Close())
		if err := <-done; err == nil {
			t.Error("a call on a closed pool whose server is away succeeded")
		}
		if v := p.read(); v["OutageFor"] != 0 || v["Outages"] != 1 {
			t.Errorf("the pool is closed, and the server away for %v s (%v outages)", v["OutageFor"], v["Outages"])
		}
	})
	t.Run("a connection that is refused for good", func(t *testing.T) {
		p := connect(t, server, attach, "dbname", "no_such_database")
		p.moves(t, nil, func() error {
			err := p.db.Ping()
			var answer *pq.Error
			return got(err, errors.As(err, &answer))
		})
		if v := p.read(); v["OpenErrors"] != 1 || v["OpenRetries"] != 0 || v["Opens"] != 0 || v["OutageFor"] != 0 {
			t.Errorf("%v failed dials, %v retries, %v opened, away for %v s", v["OpenErrors"], v["OpenRetries"], v["Opens"], v["OutageFor"])
		}
	})
}

type watched struct {
	db    *sql.DB
	proxy *faultnet.Proxy
	read  Reader
}

// open opens a pool behind a proxy, with one idle session.
func open(t *testing.T, server *pgtest.Server, attach func(*testing.T, *sql.DB) Reader, kv ...string) *watched {
	t.Helper()
	p := connect(t, server, attach, kv...)
	err := p.db.Ping()
	for errors.Is(err, pgpooled.ErrPoolTimeout) { // of a busy machine
		err = p.db.Ping()
	}
	must(t, err)
	return p
}

func connect(t *testing.T, server *pgtest.Server, attach func(*testing.T, *sql.DB) Reader, kv ...string) *watched {
	t.Helper()
	proxy, err := faultnet.New(server.Addr())
	must(t, err)
	t.Cleanup(func() { proxy.Close() })
	dsn := server.DSN(append([]string{"host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "pool_timeout", "50s"}, kv...)...)
	db, err := pgpooled.Open(dsn, pgpooled.WithLogger(slog.New(slog.DiscardHandler)))
	must(t, err)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return &watched{db: db, proxy: proxy, read: attach(t, db)}
}

// hold takes the pool's one session.
func (p *watched) hold(t *testing.T) *sql.Conn {
	t.Helper()
	for {
		conn, err := p.db.Conn(t.Context())
		if err == nil {
			if err = conn.PingContext(t.Context()); err == nil { // or it would be taken back for those who wait
				return conn
			}
			conn.Close()
		}
		if !errors.Is(err, pgpooled.ErrPoolTimeout) { // of a busy machine
			t.Fatal(err)
		}
	}
}

// moves checks what a step does to the counters, those of free aside.
func (p *watched) moves(t *testing.T, want map[string]float64, step func() error, free ...string) {
	t.Helper()
	before := p.read()
	if err := step(); err != nil {
		t.Fatal(err)
	}
	after := p.read()
	for _, m := range metrics.Table {
		if m.Kind != metrics.Counter || traffic[m.Field] || slices.Contains(free, m.Field) {
			continue
		}
		if n := after[m.Field] - before[m.Field]; n != want[m.Field] {
			t.Errorf("%s moved by %v, want %v", m.Field, n, want[m.Field])
		}
	}
}

func (p *watched) await(t *testing.T, what string, holds func(map[string]float64) bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(p.read()); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within a minute: " + what)
		}
	}
}

func got(err error, wanted bool) error {
	if wanted {
		return nil
	}
	return fmt.Errorf("got %T: %w", err, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
