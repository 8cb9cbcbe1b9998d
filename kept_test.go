package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled"
)

// keep makes database/sql keep n leases, which have no session then.
func keep(t *testing.T, db *sql.DB, n int) {
	t.Helper()
	conns := make([]*sql.Conn, n)
	for i := range conns {
		var err error
		if conns[i], err = db.Conn(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range conns {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if s := db.Stats(); s.Idle != n {
		t.Fatalf("database/sql keeps %d leases", s.Idle)
	}
}

func TestALeaseThatDatabaseSQLKeepsHasNoSession(t *testing.T) {
	t.Parallel()
	db, _ := openAs(t, "max_open_conns", "1")
	for range 3 {
		mustExec(t, db, "select 1")
		if up, own := db.Stats(), stats(t, db); up.Idle != 1 || up.OpenConnections != 1 || own.InUse != 0 || own.Idle != 1 {
			t.Fatalf("%+v %+v", up, own)
		}
		c, _ := pgpooled.ConnectorOf(db)
		lease, err := c.Connect(testContext(t)) // the only session is free
		if err != nil {
			t.Fatal(err)
		}
		if err := lease.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if s := stats(t, db); s.Opens != 1 {
		t.Errorf("%+v", s)
	}
}

// The line has leases that are new and leases that were kept.
func TestKeptLeasesWaitInTheOrderInWhichTheyCame(t *testing.T) {
	t.Parallel()
	db, _ := openAs(t, "max_open_conns", "2")
	db.SetMaxIdleConns(2)
	keep(t, db, 2)
	ctx := testContext(t)
	c, _ := pgpooled.ConnectorOf(db)
	var held []driver.Conn
	for range 2 {
		lease, err := c.Connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lease.(driver.ExecerContext).ExecContext(ctx, "select 1", nil); err != nil {
			t.Fatal(err)
		}
		held = append(held, lease)
	}
	const callers = 6
	var (
		mu    sync.Mutex
		order []int
		wg    sync.WaitGroup
	)
	for i := range callers {
		wg.Go(func() {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
			_ = tx.Rollback()
		})
		eventually(t, "the caller waits", func() bool { return stats(t, db).Waiting == i+1 })
	}
	_ = held[0].Close() // one session serves them all
	wg.Wait()
	_ = held[1].Close()
	if got := fmt.Sprint(order); got != "[0 1 2 3 4 5]" {
		t.Error(got)
	}
}

func TestAKeptLeaseThatGetsNoSessionWaitsOnceAndSaysWhy(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(context.Context, *sql.DB, *sql.Stmt) error{
		"exec": func(ctx context.Context, db *sql.DB, _ *sql.Stmt) error {
			_, err := db.ExecContext(ctx, "select 1")
			return err
		},
		"query": func(ctx context.Context, db *sql.DB, _ *sql.Stmt) error {
			return db.QueryRowContext(ctx, "select 1").Scan(new(int))
		},
		"prepare": func(ctx context.Context, db *sql.DB, _ *sql.Stmt) error {
			_, err := db.PrepareContext(ctx, "select 1")
			return err
		},
		"prepared": func(ctx context.Context, _ *sql.DB, st *sql.Stmt) error {
			return st.QueryRowContext(ctx, 1).Scan(new(int))
		},
		"begin": func(ctx context.Context, db *sql.DB, _ *sql.Stmt) error { _, err := db.BeginTx(ctx, nil); return err },
		"ping":  func(ctx context.Context, db *sql.DB, _ *sql.Stmt) error { return db.PingContext(ctx) },
		"conn": func(ctx context.Context, db *sql.DB, _ *sql.Stmt) error {
			conn, err := db.Conn(ctx)
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.ExecContext(ctx, "select 1")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, _ := openAs(t, "max_open_conns", "1", "pool_timeout", "3s")
			ctx := testContext(t)
			for range 3 { // proven, prepared
				if err := db.QueryRow("select $1::int", 1).Scan(new(int)); err != nil {
					t.Fatal(err)
				}
			}
			st, err := db.Prepare("select $1::int")
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			c, _ := pgpooled.ConnectorOf(db)
			held, err := c.Connect(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := held.(driver.Pinger).Ping(ctx); err != nil {
				t.Fatal(err)
			}
			var timeout *pgpooled.PoolTimeoutError
			if err := call(ctx, db, st); !errors.As(err, &timeout) || timeout.Limit != 1 || timeout.InUse != 1 || timeout.Ctx != nil {
				t.Errorf("%T %v", err, err)
			}
			short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
			defer cancel()
			if err := call(short, db, st); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%T %v", err, err)
			}
			if s := stats(t, db); s.PoolTimeouts != 1 {
				t.Errorf("waited %d times for the whole of pool_timeout", s.PoolTimeouts)
			}
			_ = held.Close()
			if name == "prepare" || name == "begin" {
				return // their result would have to be closed
			}
			if err := call(ctx, db, st); err != nil { // the error is not told twice
				t.Error(err)
			}
		})
	}
}

func TestAKeptLeaseOutlivesItsSession(t *testing.T) {
	t.Parallel()
	db, name := openAs(t, "max_open_conns", "2")
	for range 3 {
		if err := db.QueryRow("select $1::int", 1).Scan(new(int)); err != nil {
			t.Fatal(err)
		}
	}
	st, err := db.Prepare("select $1::int")
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	kill := func() {
		t.Helper()
		mustExec(t, server.Admin(), "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = $1", name)
	}
	for i := range 4 {
		var v int
		if err := st.QueryRow(i).Scan(&v); err != nil || v != i {
			t.Fatal(v, err)
		}
		kill() // while database/sql keeps the lease
	}
	if _, err := db.Exec("select pg_terminate_backend(pg_backend_pid())"); err == nil { // while it has a session
		t.Error("the call that killed its own session succeeded")
	}
	mustExec(t, db, "select 1")
	mustExec(t, db, "begin") // and leaves it open
	var in bool
	if err := db.QueryRow("select now() <> statement_timestamp()").Scan(&in); err != nil || in {
		t.Errorf("the next caller is in somebody's transaction: %v, %v", in, err)
	}
}

// sql.DB uses a prepared statement again with the lease that it keeps.
func TestPreparedStatementsOfKeptLeasesLeaveNothingOnTheServer(t *testing.T) {
	t.Parallel()
	for _, capacity := range []string{"0", "5"} {
		db := open(t, "max_open_conns", "1", "statement_cache_capacity", capacity)
		for _, query := range []string{"select $1::int", "select 7 where $1::int = 7"} {
			st, err := db.Prepare(query)
			if err != nil {
				t.Fatal(err)
			}
			for range 5 {
				var v int
				if err := st.QueryRow(7).Scan(&v); err != nil || v != 7 {
					t.Fatal(v, err)
				}
			}
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if n := named(t, db); capacity == "0" && n != 0 || n > 2 {
			t.Errorf("capacity %s: %d statements are left", capacity, n)
		}
	}
}

// A text without arguments would go the plain way if nobody had prepared it.
func TestAStatementOfAKeptLeaseStaysPrepared(t *testing.T) {
	t.Parallel()
	db := open(t, "max_open_conns", "1", "statement_cache_capacity", "5")
	st, err := db.Prepare("select 7")
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for range 5 {
		var v int
		if err := st.QueryRow().Scan(&v); err != nil || v != 7 {
			t.Fatal(v, err)
		}
	}
	if n := queryInt(t, db, "select sum(generic_plans + custom_plans) from pg_prepared_statements"); n != 5 {
		t.Errorf("%d of 5 calls ran what was prepared", n)
	}
}

// Statements are closed by whoever closes them, while their leases serve others.
func TestStatementsOfKeptLeasesAreClosedUnderLoad(t *testing.T) {
	t.Parallel()
	db, _ := openAs(t, "max_open_conns", "2")
	db.SetMaxIdleConns(4)
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for i := range 40 {
				st, err := db.Prepare(fmt.Sprintf("select $1::int + %d", c%3))
				if err != nil {
					t.Error(err)
					return
				}
				var users sync.WaitGroup
				for range 2 {
					users.Go(func() {
						var v int
						if err := st.QueryRow(i).Scan(&v); err != nil || v != i+c%3 {
							t.Errorf("%d instead of %d, %v", v, i+c%3, err)
						}
					})
				}
				users.Wait()
				if err := st.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// A statement of a sql.Conn may be closed after the Conn, whose session serves
// others by then.
func TestAStatementMayBeClosedAfterItsConn(t *testing.T) {
	t.Parallel()
	for _, query := range []string{"select 1", "show work_mem"} {
		db, _ := openAs(t, "max_open_conns", "1")
		ctx := testContext(t)
		for range 20 {
			conn, err := db.Conn(ctx)
			if err != nil {
				t.Fatal(err)
			}
			st, err := conn.PrepareContext(ctx, query)
			if err != nil {
				t.Fatal(err)
			}
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() { mustExec(t, db, "select 1") })
			if err := st.Close(); err != nil {
				t.Error(err)
			}
			wg.Wait()
		}
	}
}

func TestAKeptLeaseIsOfNoUseOnceItsConnectorIsClosed(t *testing.T) {
	t.Parallel()
	name := app()
	dsn := server.DSN("application_name", name, "pool_name", name)
	var dbs []*sql.DB
	for range 2 { // they share a pool, which goes on
		db, err := pgpooled.Open(dsn, quiet)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		mustExec(t, db, "select 1")
		dbs = append(dbs, db)
	}
	c, _ := pgpooled.ConnectorOf(dbs[0])
	lease, err := c.Connect(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if lease.(driver.Validator).IsValid() {
		t.Error("database/sql would keep a lease of a closed connector")
	}
	if err := lease.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := dbs[0].Exec("select 1"); !errors.Is(err, pgpooled.ErrClosed) {
		t.Errorf("%T %v", err, err)
	}
	mustExec(t, dbs[1], "select 1")
}

func TestALeakOfAKeptLeaseIsItsLastUsers(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	db, err := pgpooled.Open(server.DSN("application_name", app(), "max_open_conns", "1", "leak_detection_threshold", "50ms"),
		pgpooled.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	mustExec(t, db, "select 1")
	for n := 1; n <= 2; n++ { // each user of the same lease
		conn := forgetful(t, db)
		eventually(t, "the leak is logged", func() bool { return strings.Count(log.String(), "forgetful") == n })
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if s := db.Stats(); s.OpenConnections != 1 {
		t.Errorf("%+v", s)
	}
}

//go:noinline
func forgetful(t *testing.T, db *sql.DB) *sql.Conn {
	conn, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, "select 1")
	return conn
}
