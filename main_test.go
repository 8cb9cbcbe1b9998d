package pgpooled_test

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// server is the PostgreSQL that the tests share. It takes plain connections and
// TLS; tests that stop a server start their own.
var server *pgtest.Server

// A missing server fails the run: a test that did not happen is not green. And
// nothing may be left behind: no goroutine here, no session there.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.fuzzworker").Value.String() == "true" {
		os.Exit(m.Run()) // the parent has the server and does the counting
	}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "PG") && !strings.HasPrefix(v, "PGPOOLED_") {
			fmt.Fprintln(os.Stderr, "the tests start without PG* variables; unset", v[:min(len(v), 12)])
			os.Exit(1)
		}
	}
	var err error
	server, err = pgtest.Start(context.Background(), pgtest.Options{TLS: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	left := -1
	err = server.Admin().QueryRowContext(ctx,
		`select count(*) from pg_stat_activity where backend_type = 'client backend' and application_name like 'test-%'`).Scan(&left)
	if err != nil || left != 0 {
		fmt.Fprintf(os.Stderr, "the server counts %d sessions of ours at the end (%v)\n", left, err)
		code = 1
	}
	if err := server.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var appCount atomic.Int64

// app is an application_name that no other test has.
func app() string { return fmt.Sprintf("test-%d", appCount.Add(1)) }

// quiet keeps the log out of the test output.
var quiet = pgpooled.WithLogger(slog.New(slog.DiscardHandler))

// open opens a database on the shared server and checks at the end of the test
// that nothing of it is left there.
func open(t *testing.T, kv ...string) *sql.DB {
	t.Helper()
	db, _ := openAs(t, kv...)
	return db
}

func openAs(t *testing.T, kv ...string) (*sql.DB, string) {
	t.Helper()
	return openOn(t, server, kv...)
}

func openOn(t *testing.T, s *pgtest.Server, kv ...string) (*sql.DB, string) {
	t.Helper()
	name := app()
	db, err := pgpooled.Open(s.DSN(append([]string{"application_name", name}, kv...)...), quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndCount(t, s, db, name) })
	return db, name
}

func closeAndCount(t *testing.T, s *pgtest.Server, db *sql.DB, name string) {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if s.Pid() == 0 {
		return // stopped by the test
	}
	if n, err := s.CountSessions(testContext(t), name); err != nil || n != 0 {
		t.Errorf("after Close the server counts %d sessions (%v)", n, err)
	}
}

// testContext ends long after anything here should have.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// newTable creates a table that no other test has: (id int primary key, v text).
func newTable(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("t%d", appCount.Add(1))
	mustExec(t, server.Admin(), "create table "+name+" (id int primary key, v text)")
	return name
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func mustExec(t *testing.T, e execer, query string, args ...any) {
	t.Helper()
	if _, err := e.ExecContext(testContext(t), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func queryInt(t *testing.T, q queryer, query string, args ...any) int {
	t.Helper()
	var n int
	if err := q.QueryRowContext(testContext(t), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// stats are the pool's, which must be there.
func stats(t *testing.T, db *sql.DB) pgpooled.Stats {
	t.Helper()
	s, ok := pgpooled.StatsOf(db)
	if !ok {
		t.Fatal("StatsOf found no pool")
	}
	return s
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}
