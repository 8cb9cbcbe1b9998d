package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// The password changes on the server while sessions with the old one live on.
func TestAPasswordThatRotatesReachesEachNewSession(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Password: "first"})
	var password atomic.Value
	password.Store("first")
	var asked atomic.Int32
	db := openWith(t, s.DSN("password", "stale-from-the-dsn", "application_name", app(), "max_open_conns", "2"),
		pgpooled.WithBeforeConnect(func(_ context.Context, cfg *pq.Config) error {
			asked.Add(1)
			cfg.Password = password.Load().(string)
			return nil
		}))
	old := rest(t, db, 1)[0]
	for _, next := range []string{"second", "third"} {
		mustExec(t, s.Admin(), "alter role postgres password '"+next+"'")
		if pid := queryInt(t, db, "select pg_backend_pid()"); pid != old {
			t.Errorf("a session that works was given up before Refresh")
		}
		c, _ := pgpooled.ConnectorOf(db)
		c.Refresh()
		err := db.Ping() // the token is not renewed yet
		if answer, ok := err.(*pq.Error); !ok || answer.Code != "28P01" {
			t.Errorf("with the old password: %T %v", err, err)
		}
		password.Store(next)
		if old = queryInt(t, db, "select pg_backend_pid()"); old == 0 {
			t.Error("no session")
		}
	}
	if asked.Load() != 5 {
		t.Errorf("asked %d times for 5 attempts", asked.Load())
	}
	if cfg, _ := pgpooled.ConnectorOf(db); cfg.Config().PQ.Password != "stale-from-the-dsn" {
		t.Error("WithBeforeConnect changed the connector's configuration")
	}
}

var errVault = errors.New("vault: sealed")

func TestAnErrorOfBeforeConnectEndsTheAttempt(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	db := openWith(t, server.DSN("application_name", app(), "pool_timeout", "30s"),
		pgpooled.WithBeforeConnect(func(context.Context, *pq.Config) error { calls.Add(1); return errVault }))
	if err := db.Ping(); !errors.Is(err, errVault) || calls.Load() != 1 || !strings.Contains(err.Error(), "WithBeforeConnect") {
		t.Errorf("%d calls: %v", calls.Load(), err)
	}
	var tries atomic.Int32
	again := openWith(t, server.DSN("application_name", app(), "retry_base_delay", "1ms"),
		pgpooled.WithBeforeConnect(func(context.Context, *pq.Config) error {
			if tries.Add(1) < 4 {
				return fmt.Errorf("token service: %w", &net.OpError{Op: "dial", Err: &net.DNSError{IsTemporary: true}})
			}
			return nil
		}))
	if err := again.Ping(); err != nil || tries.Load() != 4 {
		t.Errorf("an error that can pass: %d calls, %v", tries.Load(), err)
	}
}

func TestBeforeConnectRunsInsideConnectTimeout(t *testing.T) {
	t.Parallel()
	var left time.Duration
	db := openWith(t, server.DSN("application_name", app(), "connect_timeout", "200ms", "retry_mode", "off"),
		pgpooled.WithBeforeConnect(func(ctx context.Context, _ *pq.Config) error {
			if d, ok := ctx.Deadline(); ok {
				left = time.Until(d)
			}
			<-ctx.Done()
			return ctx.Err()
		}))
	err := db.Ping()
	if left <= 0 || left > 200*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connect_timeout (200ms)") {
		t.Errorf("%s left at the start; %v", left, err)
	}
}

func TestAfterConnectPreparesEachSessionBeforeItsFirstCaller(t *testing.T) {
	t.Parallel()
	mustExec(t, server.Admin(), "create schema if not exists tenant")
	var prepared atomic.Int32
	for _, mode := range []string{"disable", "require"} {
		db := openWith(t, server.DSN("application_name", app(), "max_open_conns", "3", "sslmode", mode),
			pgpooled.WithAfterConnect(func(ctx context.Context, c *sql.Conn) error {
				prepared.Add(1)
				if _, err := c.ExecContext(ctx, "set search_path = tenant, public"); err != nil {
					return err
				}
				var v string
				return c.QueryRowContext(ctx, "select set_config('app.tenant', $1, false)", "t7").Scan(&v)
			}))
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				var path, tenant string
				if err := db.QueryRow("select current_setting('search_path'), current_setting('app.tenant')").Scan(&path, &tenant); err != nil || path != "tenant, public" || tenant != "t7" {
					t.Errorf("%q %q %v", path, tenant, err)
				}
			})
		}
		wg.Wait()
		eventually(t, "the last dial is over", func() bool { return stats(t, db).Opening == 0 })
		if n := stats(t, db).Opens; int64(prepared.Swap(0)) != n {
			t.Errorf("not each of %d sessions was prepared once", n)
		}
	}
}

func TestAfterConnectThatFailsOrLeavesSomethingOpenIsRefused(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		prepare func(context.Context, *sql.Conn) error
		text    string
	}{
		"its own error": {func(context.Context, *sql.Conn) error { return errVault }, "sealed"},
		"the server's": {func(ctx context.Context, c *sql.Conn) error {
			_, err := c.ExecContext(ctx, "set search_path = 'unfinished")
			return err
		}, "unterminated"},
		"a transaction by text": {func(ctx context.Context, c *sql.Conn) error {
			_, err := c.ExecContext(ctx, "begin")
			return err
		}, "inside a transaction"},
		"rows": {func(ctx context.Context, c *sql.Conn) error {
			_, err := c.QueryContext(ctx, "select generate_series(1, 10)") //nolint:sqlclosecheck // left open on purpose
			return err
		}, "rows open"},
		"a context that it cancelled": {func(ctx context.Context, c *sql.Conn) error {
			ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			defer cancel()
			_, _ = c.ExecContext(ctx, "select pg_sleep(10)")
			return nil
		}, "context ended"},
	} {
		for _, mode := range []string{"disable", "require"} {
			as := app()
			db := openWith(t, server.DSN("application_name", as, "sslmode", mode, "connect_timeout", "3s", "pool_timeout", "2s"), pgpooled.WithAfterConnect(tt.prepare))
			err := db.Ping()
			if err == nil || !strings.Contains(err.Error(), "WithAfterConnect") || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%s, sslmode=%s: %v", name, mode, err)
			}
			if err := server.AwaitSessions(testContext(t), as, 0); err != nil {
				t.Errorf("%s, sslmode=%s: %v", name, mode, err)
			}
		}
	}
}

// A *sql.Tx holds its *sql.Conn: giving that back would wait for it, for ever if
// the transaction's context is not the attempt's.
func TestAfterConnectThatLeavesATransactionOpenIsRefusedAndHangsNothing(t *testing.T) {
	t.Parallel()
	for _, own := range []bool{false, true} {
		db, err := pgpooled.Open(server.DSN("application_name", app(), "connect_timeout", "1s", "pool_timeout", "3s"), quiet,
			pgpooled.WithAfterConnect(func(ctx context.Context, c *sql.Conn) error {
				if own {
					ctx = t.Context()
				}
				_, err := c.BeginTx(ctx, nil)
				return err
			}))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := db.Ping(); err == nil || !strings.Contains(err.Error(), "WithAfterConnect") || !strings.Contains(err.Error(), "inside a transaction") || time.Since(start) > 500*time.Millisecond {
			t.Errorf("own context %v: after %s: %v", own, time.Since(start), err)
		}
		closed := make(chan struct{})
		go func() { db.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(5 * time.Second):
			t.Errorf("own context %v: Close hangs", own)
		}
	}
}

// An attempt that ran out of time in WithAfterConnect has made a server session,
// which is still busy: it keeps its slot until the server has closed it or the
// linger (2 s) is over, like any other that is discarded.
func TestSessionsGivenUpWhileTheyAreSetUpCountAgainstTheLimit(t *testing.T) {
	t.Parallel()
	name := app()
	db := openWith(t, server.DSN("application_name", name, "max_open_conns", "1", "connect_timeout", "50ms", "pool_timeout", "1s"),
		pgpooled.WithAfterConnect(func(_ context.Context, c *sql.Conn) error {
			_, err := c.ExecContext(context.Background(), "select pg_sleep(1.5)")
			return err
		}))
	stop := sample(t, name)
	err := db.Ping()
	db.Close()
	if most, looks := stop(); most > 1 || err == nil {
		t.Errorf("the server counted up to %d sessions in %d looks, the limit is 1 (%v)", most, looks, err)
	}
	must(t, server.AwaitSessions(testContext(t), name, 0))
}

func TestRefreshLetsOldSessionsGoAndLeasedOnesWhenTheyComeBack(t *testing.T) {
	t.Parallel()
	db, name := openAs(t, "max_open_conns", "3")
	old := rest(t, db, 3)
	leased, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	kept := queryInt(t, leased, "select pg_backend_pid()")
	c, _ := pgpooled.ConnectorOf(db)
	c.Refresh()
	if err := server.AwaitSessions(testContext(t), name, 1); err != nil {
		t.Error(err)
	}
	if pid := queryInt(t, leased, "select pg_backend_pid()"); pid != kept {
		t.Error("a leased session was taken away")
	}
	leased.Close()
	for _, pid := range rest(t, db, 3) {
		for _, o := range old {
			if pid == o {
				t.Errorf("session %d is older than Refresh", pid)
			}
		}
	}
	if s := stats(t, db); s.ClosedRefresh != 3 || s.Opens != 6 {
		t.Errorf("%+v", s)
	}
}

// A dial that began before Refresh brings a session of before.
func TestRefreshDuringADialDialsAgain(t *testing.T) {
	t.Parallel()
	db, proxy := through(t, server, "max_open_conns", "1", "connect_timeout", "30s", "pool_timeout", "30s")
	proxy.SetScript(func(i int) faultnet.Script {
		if i > 0 {
			return nil
		}
		return faultnet.Script{{Dir: faultnet.ToClient, After: 0, Do: faultnet.Stall}}
	})
	done := make(chan error, 1)
	go func() { done <- db.Ping() }()
	if err := proxy.AwaitFired(testContext(t), 1); err != nil {
		t.Fatal(err)
	}
	c, _ := pgpooled.ConnectorOf(db)
	c.Refresh()
	proxy.Thaw()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s := stats(t, db); s.ClosedRefresh != 1 || s.Opens != 2 {
		t.Errorf("%+v", s)
	}
}

// Vault leases that expire: new connections use the new password at once; the
// sessions of the old one are let go when it is revoked.
func ExampleConnector_Refresh() {
	var password atomic.Value
	password.Store("from Vault")

	c, err := pgpooled.NewConnector("host=db.example.com user=app dbname=shop",
		pgpooled.WithBeforeConnect(func(_ context.Context, cfg *pq.Config) error {
			cfg.Password = password.Load().(string)
			return nil
		}))
	if err != nil {
		log.Fatal(err)
	}
	db := sql.OpenDB(c)
	defer db.Close()

	rotated := func(next string) { // Vault calls
		password.Store(next)
		c.Refresh() // idle sessions go now, those in use when they come back
	}
	rotated("the next one")
}

// Every session is set up before its first caller has it.
func ExampleWithAfterConnect() {
	db, err := pgpooled.Open("host=db.example.com user=app dbname=shop",
		pgpooled.WithAfterConnect(func(ctx context.Context, conn *sql.Conn) error {
			_, err := conn.ExecContext(ctx, "SET search_path = tenant, public")
			return err
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
}

// tunnel stands for a Cloud SQL connector or a tunnel's client.
type tunnel struct{ net.Dialer }

func (t *tunnel) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return t.Dialer.DialContext(ctx, "tcp", "127.0.0.1:15432")
}

// Connections go through a tunnel, cancel requests too. A deadline must work on
// what the dialer returns.
func ExampleWithDialer() {
	db, err := pgpooled.Open("host=db.internal user=app dbname=shop sslmode=verify-full", pgpooled.WithDialer(new(tunnel)))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
}

// A hook that ends its goroutine, as testing's FailNow does, fails the callers in
// line, and leaves no session behind.
func TestHooksThatEndTheirGoroutine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		hook func() pgpooled.Option
	}{
		{"WithBeforeConnect", func() pgpooled.Option {
			calls := 0
			return pgpooled.WithBeforeConnect(func(context.Context, *pq.Config) error { exitTwice(&calls); return nil })
		}},
		{"WithAfterConnect", func() pgpooled.Option {
			calls := 0
			return pgpooled.WithAfterConnect(func(context.Context, *sql.Conn) error { exitTwice(&calls); return nil })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			name := app()
			db := openWith(t, server.DSN("application_name", name, "max_open_conns", "1"), tt.hook())
			for i := range 3 {
				if err := db.PingContext(testContext(t)); (err == nil) != (i == 2) || err != nil && !strings.Contains(err.Error(), "runtime.Goexit") {
					t.Errorf("ping %d: %v", i+1, err)
				}
			}
			eventually(t, "one session is left", func() bool {
				return queryInt(t, server.Admin(), "select count(*) from pg_stat_activity where application_name = $1", name) == 1
			})
		})
	}
}

// exitTwice counts its calls, one at a time, and ends the goroutine of the first
// two.
func exitTwice(calls *int) {
	if *calls++; *calls <= 2 {
		runtime.Goexit()
	}
}
