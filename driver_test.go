package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

func TestAPlainSQLOpenQueriesAndCommits(t *testing.T) {
	t.Parallel()
	for _, tls := range []string{"disable", "require"} {
		t.Run("sslmode="+tls, func(t *testing.T) {
			t.Parallel()
			name, table := app(), newTable(t)
			db, err := sql.Open("pgpooled", server.URL("application_name", name, "sslmode", tls))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closeAndCount(t, server, db, name) })

			tx, err := db.BeginTx(testContext(t), &sql.TxOptions{Isolation: sql.LevelSerializable})
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, tx, "insert into "+table+" values ($1, $2)", 1, "one")
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			st, err := db.Prepare("select v from " + table + " where id = $1")
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			for range 3 {
				var v string
				if err := st.QueryRow(1).Scan(&v); err != nil || v != "one" {
					t.Fatalf("got %q, %v", v, err)
				}
			}
			if n := queryInt(t, db, "select count(*) from pg_stat_ssl s join pg_stat_activity a using (pid) where a.pid = pg_backend_pid() and ssl"); n == 1 != (tls == "require") {
				t.Errorf("sslmode=%s, but %d TLS sessions", tls, n)
			}
			if s := stats(t, db); s.Opens != 1 || s.Idle > 1 {
				t.Errorf("one caller at a time used %d sessions: %+v", s.Opens, s)
			}
		})
	}
}

func TestABadDSNFailsAtOpenAndNeverShowsThePassword(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{
		"postgres://u:topsecret@localhost/db?max_open_conns=many",
		"host=localhost password=topsecret pool_timeout=-1s",
		"prisma://accelerate/?api_key=topsecret",
		"host=localhost password=topsecret max_open_cons=3",
	} {
		db, err := sql.Open("pgpooled", dsn)
		if err == nil {
			db.Close()
			t.Errorf("a bad DSN was accepted")
			continue
		}
		var de *pgpooled.DSNError
		if !errors.As(err, &de) || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %T %v", err, err)
		}
	}
}

func TestServerErrorsAreLibPQsOwn(t *testing.T) {
	t.Parallel()
	db := open(t)
	_, err := db.Exec("select 1/0")
	if e, ok := err.(*pq.Error); !ok || e.Code != "22012" { // GORM asserts like this
		t.Errorf("got %T %v", err, err)
	}
	err = db.QueryRow("select 1/$1::int", 0).Scan(new(int))
	if e, ok := err.(*pq.Error); !ok || e.Code != "22012" { // as above
		t.Errorf("got %T %v", err, err)
	}
	wrong, err := pgpooled.Open(server.DSN("dbname", "nonesuch", "application_name", app()), quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer wrong.Close()
	err = wrong.Ping()
	if e, ok := err.(*pq.Error); !ok || e.Code != "3D000" { // as above
		t.Errorf("got %T %v", err, err)
	}
}

func TestConnectorOfFindsThePool(t *testing.T) {
	t.Parallel()
	db := open(t, "max_open_conns", "7", "pool_timeout", "3s")
	c, ok := pgpooled.ConnectorOf(db)
	if !ok || c.Config().MaxOpenConns != 7 || c.Stats().MaxOpenConns != 7 {
		t.Fatalf("got %v, %v", c, ok)
	}
	if _, ok := pgpooled.ConnectorOf(server.Admin()); ok {
		t.Error("found a pool under lib/pq")
	}
	if _, ok := pgpooled.StatsOf(server.Admin()); ok {
		t.Error("found statistics under lib/pq")
	}
	if s := pgpooled.DBStatsOf(db); s.MaxOpenConnections != 7 {
		t.Errorf("DBStatsOf: %+v", s)
	}
}

func TestCheckHealth(t *testing.T) {
	t.Parallel()
	db := open(t)
	h := pgpooled.CheckHealth(testContext(t), db)
	if !h.Healthy || h.Error != nil || h.Latency <= 0 || h.Pool.Open != 1 {
		t.Errorf("got %+v", h)
	}
	down, err := pgpooled.Open("host=127.0.0.1 port=1 user=x sslmode=disable pool_timeout=10s", quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer down.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if h := pgpooled.CheckHealth(ctx, down); h.Healthy || !errors.Is(h.Error, context.DeadlineExceeded) {
		t.Errorf("got %+v", h)
	}
}

func TestASecondCallWhileRowsAreOpenIsRefused(t *testing.T) {
	t.Parallel()
	db, table := open(t), newTable(t)
	conn, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mustExec(t, conn, "insert into "+table+" values (1, 'x')")
	rows, err := conn.QueryContext(testContext(t), "select generate_series(1, $1)", 5)
	if err != nil {
		t.Fatal(err)
	}
	rows.Next()
	// lib/pq answers nil here and loses the INSERT.
	if _, err := conn.ExecContext(testContext(t), "insert into "+table+" values ($1, 'y')", 1); err == nil ||
		!strings.Contains(err.Error(), "already a query being processed") {
		t.Errorf("got %v", err)
	}
	n := 1
	for rows.Next() {
		n++
	}
	if err := rows.Err(); err != nil || n != 5 {
		t.Errorf("%d rows of 5, %v", n, err)
	}
	mustExec(t, conn, "insert into "+table+" values ($1, 'y')", 2)
}

func TestSessionsReleasedInsideATransactionAreDiscarded(t *testing.T) {
	t.Parallel()
	for _, tls := range []string{"disable", "require"} {
		t.Run("sslmode="+tls, func(t *testing.T) {
			t.Parallel()
			db, table := open(t, "sslmode", tls, "max_open_conns", "1"), newTable(t)
			conn, err := db.Conn(testContext(t))
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, conn, "BEGIN")
			mustExec(t, conn, "insert into "+table+" values (1, 'x')")
			pid := queryInt(t, conn, "select pg_backend_pid()")
			conn.Close()
			mustExec(t, db, "insert into "+table+" values (2, 'y')")
			if now := queryInt(t, db, "select pg_backend_pid()"); now == pid {
				t.Error("the session was used again")
			}
			if n := queryInt(t, db, "select count(*) from "+table); n != 1 {
				t.Errorf("%d rows, want the committed one", n)
			}
			if s := stats(t, db); s.ClosedInTx != 1 {
				t.Errorf("ClosedInTx is %d", s.ClosedInTx)
			}
		})
	}
}

func TestRawHandsOutLibPQsConnection(t *testing.T) {
	t.Parallel()
	db := open(t, "max_open_conns", "1")
	conn, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var notices []string
	err = conn.Raw(func(dc any) error {
		pq.SetNoticeHandler(pgpooled.PQConn(dc), func(e *pq.Error) {
			mu.Lock()
			defer mu.Unlock()
			notices = append(notices, e.Message)
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, "do $$ begin raise notice 'hello'; end $$")
	conn.Close()
	mustExec(t, db, "do $$ begin raise notice 'not for us'; end $$")
	mu.Lock()
	defer mu.Unlock()
	if len(notices) != 1 || notices[0] != "hello" {
		t.Errorf("got notices %q", notices)
	}
	if pgpooled.PQConn(42) != nil {
		t.Error("PQConn(42) is not nil")
	}
}

func TestPoolNameSharesOnePool(t *testing.T) {
	t.Parallel()
	name := app()
	dsn := server.DSN("application_name", name, "pool_name", name, "max_open_conns", "2")
	a, err := pgpooled.Open(dsn, quiet)
	if err != nil {
		t.Fatal(err)
	}
	b, err := pgpooled.Open(dsn, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pgpooled.Open(dsn+" pool_timeout=1s", quiet); err == nil || !strings.Contains(err.Error(), "pool_name") {
		t.Errorf("other settings under the same name: %v", err)
	}
	pid := queryInt(t, a, "select pg_backend_pid()")
	if got := queryInt(t, b, "select pg_backend_pid()"); got != pid {
		t.Error("the second connector has a pool of its own")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if got := queryInt(t, b, "select pg_backend_pid()"); got != pid {
		t.Error("closing one connector closed the other's pool")
	}
	closeAndCount(t, server, b, name)
	c, err := pgpooled.Open(dsn+" pool_timeout=1s", quiet)
	if err != nil {
		t.Fatalf("the name is free again: %v", err)
	}
	closeAndCount(t, server, c, name)
}

// legacy is a wrapper of a kind that still exists: it opens by name only.
type legacy struct{ driver.Driver }

func TestWrappersThatOnlyOpenByNameGetConnectionsThatDatabaseSQLPools(t *testing.T) {
	t.Parallel()
	name := app()
	sql.Register(name, legacy{&pgpooled.Driver{}})
	db, err := sql.Open(name, server.DSN("application_name", name))
	if err != nil {
		t.Fatal(err)
	}
	defer closeAndCount(t, server, db, name)
	pid := queryInt(t, db, "select pg_backend_pid()")
	if got := queryInt(t, db, "select pg_backend_pid()"); got != pid {
		t.Error("database/sql did not keep the connection")
	}
	mustExec(t, db, "select pg_terminate_backend(pg_backend_pid()) where false")
	st, err := db.Prepare("select $1::int")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		var got int
		if err := st.QueryRow(i).Scan(&got); err != nil || got != i {
			t.Errorf("a statement that database/sql keeps with its connection: %d, %v", got, err)
		}
		queryInt(t, db, "select 1")
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
}

// mocked is go-sqlmock below the interceptor.
type mocked struct {
	dsn string
	d   driver.Driver
}

func (m mocked) Connect(context.Context) (driver.Conn, error) { return m.d.Open(m.dsn) }
func (m mocked) Driver() driver.Driver                        { return m.d }

func mock(t *testing.T) (*sql.DB, sqlmock.Sqlmock) {
	t.Helper()
	name := app()
	raw, m, err := sqlmock.NewWithDSN(name, sqlmock.MonitorPingsOption(true))
	if err != nil {
		t.Fatal(err)
	}
	db, err := pgpooled.Open("host=mock user=mock", quiet, pgpooled.WithBase(mocked{name, raw.Driver()}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		db.Close()
		raw.Close()
		if err := m.ExpectationsWereMet(); err != nil {
			t.Error(err)
		}
	})
	return db, m
}

func TestABadConnectionBelowTheInterceptorNeverMakesAStatementRunTwice(t *testing.T) {
	t.Parallel()
	db, m := mock(t)
	m.ExpectExec("insert").WillReturnError(driver.ErrBadConn)
	_, err := db.Exec("insert into t values (1)")
	var unknown *pgpooled.OutcomeUnknownError
	if !errors.As(err, &unknown) || unknown.Op != "exec" || unknown.Sent != -1 || errors.Is(err, driver.ErrBadConn) {
		t.Errorf("got %T %v", err, err)
	}
	// A second call of the mock would have failed the expectations.
	if s := stats(t, db); s.OutcomesUnknown != 1 || s.ClosedCancelled+s.ClosedBroken != 1 {
		t.Errorf("%+v", s)
	}
}

func TestALostCommitBelowTheInterceptorIsUnknown(t *testing.T) {
	t.Parallel()
	db, m := mock(t)
	m.ExpectBegin()
	m.ExpectExec("insert").WillReturnResult(sqlmock.NewResult(0, 1))
	m.ExpectCommit().WillReturnError(driver.ErrBadConn)
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "insert into t values (1)")
	var unknown *pgpooled.OutcomeUnknownError
	if err := tx.Commit(); !errors.As(err, &unknown) || unknown.Op != "commit" {
		t.Errorf("got %T %v", err, err)
	}
}

func TestAPingThatFailsIsRepeatedOnAnotherConnection(t *testing.T) {
	t.Parallel()
	db, m := mock(t)
	m.ExpectPing().WillReturnError(driver.ErrBadConn)
	m.ExpectPing()
	if err := db.Ping(); err != nil {
		t.Errorf("got %v", err)
	}
}
