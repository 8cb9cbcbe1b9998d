package pgpooledtest_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/pgpooledtest"
)

// server is what the tests share that do not stop it.
var server *pgpooledtest.Server

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(sharedServer{m})
}

type sharedServer struct{ m *testing.M }

func (r sharedServer) Run() int {
	var err error
	if server, err = pgpooledtest.New(context.Background()); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	defer server.Close()
	return r.m.Run()
}

func open(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgpooled", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func long(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func mustExec(t *testing.T, db *sql.DB, text string) {
	t.Helper()
	if _, err := db.ExecContext(long(t), text); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

func ask(t *testing.T, db *sql.DB, query string) (answer string) {
	t.Helper()
	if err := db.QueryRowContext(long(t), query).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return answer
}

func TestADatabaseIsEmptyAndGoneAfterItsTest(t *testing.T) {
	var name string
	t.Run("inside", func(t *testing.T) {
		one, other := open(t, server.Database(t)), open(t, server.Database(t, "application_name", "it's"))
		mustExec(t, one, "CREATE TABLE a (id int)")
		mustExec(t, other, "CREATE TABLE a (id int)")
		if got := ask(t, other, "SHOW application_name"); got != "it's" {
			t.Errorf("application_name is %q", got)
		}
		name = ask(t, one, "SELECT current_database()")
	})
	if got := ask(t, server.Admin(), "SELECT count(*) FROM pg_database WHERE datname = '"+name+"'"); got != "0" {
		t.Errorf("%s databases of that name are left", got)
	}
}

func TestTheDataOutlivesARestartButNoSessionDoes(t *testing.T) {
	t.Parallel()
	s := pgpooledtest.Start(t)
	addr := s.Addr()
	db := open(t, s.DSN("max_open_conns", "1"))
	mustExec(t, db, "CREATE TABLE a (id int)")
	for _, mode := range []pgpooledtest.StopMode{pgpooledtest.Fast, pgpooledtest.Immediate, pgpooledtest.Kill} {
		before := ask(t, db, "SELECT pg_backend_pid()::text || pg_postmaster_start_time()")
		mustExec(t, db, "INSERT INTO a VALUES (1); CHECKPOINT")
		if err := s.Restart(long(t), mode); err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		if ask(t, db, "SELECT pg_backend_pid()::text || pg_postmaster_start_time()") == before {
			t.Errorf("%s: the old session answers", mode)
		}
	}
	if got := ask(t, db, "SELECT count(*) FROM a"); got != "3" || s.Addr() != addr {
		t.Errorf("%s rows, at %s, was %s", got, s.Addr(), addr)
	}
	if err := s.Restart(long(t), "gently"); err == nil {
		t.Error("an unknown mode is accepted")
	}
}

func TestAStoppedServerRefusesUntilItIsStarted(t *testing.T) {
	t.Parallel()
	s := pgpooledtest.Start(t)
	db := open(t, s.DSN("pool_timeout", "100ms"))
	if err := s.Stop(pgpooledtest.Fast); err != nil {
		t.Fatal(err)
	}
	if err := db.PingContext(long(t)); !errors.Is(err, pgpooled.ErrPoolTimeout) {
		t.Errorf("while it is down: %v", err)
	}
	for range 2 {
		if err := s.Start(long(t)); err != nil {
			t.Fatal(err)
		}
	}
	if err := open(t, s.DSN()).PingContext(long(t)); err != nil {
		t.Error(err)
	}
}

func TestTerminateEndsTheSessionsOfOneNameOrAll(t *testing.T) {
	t.Parallel()
	s := pgpooledtest.Start(t)
	a, b := open(t, s.DSN("application_name", "a")), open(t, s.DSN("application_name", "b"))
	pids := func() [2]string {
		return [2]string{ask(t, a, "SELECT pg_backend_pid()"), ask(t, b, "SELECT pg_backend_pid()")}
	}
	before := pids()
	if n, err := s.Terminate(long(t), "a"); n != 1 || err != nil {
		t.Fatalf("of a: %d, %v", n, err)
	}
	after := pids()
	if after[0] == before[0] || after[1] != before[1] {
		t.Errorf("before %v, after %v", before, after)
	}
	if n, err := s.Terminate(long(t), ""); n != 2 || err != nil {
		t.Errorf("of all: %d, %v", n, err)
	}
	if ask(t, s.Admin(), "SELECT 1") != "1" {
		t.Error("Admin does not answer")
	}
}

func TestTheOptionsReachTheServer(t *testing.T) {
	t.Parallel()
	s := pgpooledtest.Start(t, pgpooledtest.WithTLS(), pgpooledtest.WithPassword("it's secret"),
		pgpooledtest.WithMaxConnections(17), pgpooledtest.WithParam("work_mem", "2MB"), pgpooledtest.WithParam("fsync", "on"))
	db := open(t, s.Database(t, "sslmode", "verify-full", "sslrootcert", s.CACert()))
	for name, want := range map[string]string{"max_connections": "17", "work_mem": "2MB", "fsync": "on", "ssl": "on"} {
		if got := ask(t, db, "SHOW "+name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if got := ask(t, db, "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"); !strings.HasPrefix(got, "TLS") {
		t.Errorf("the session has %q", got)
	}
	if err := open(t, s.DSN("password", "wrong")).PingContext(long(t)); err == nil {
		t.Error("a wrong password is accepted")
	}
}

func TestAProxyCutsLosesAndFallsSilent(t *testing.T) {
	t.Parallel()
	p := server.Proxy(t)
	db := open(t, server.Database(t, p.Via("max_open_conns", "1", "cancel_grace", "50ms")...))
	mustExec(t, db, "CREATE TABLE a (id int)")
	var unknown *pgpooled.OutcomeUnknownError

	p.LoseMessage()
	if _, err := db.ExecContext(long(t), "INSERT INTO a VALUES (1)"); !errors.As(err, &unknown) {
		t.Errorf("a message that was lost: %v", err)
	}
	if got := ask(t, db, "SELECT count(*) FROM a"); got != "0" {
		t.Errorf("it arrived: %s rows", got)
	}
	p.LoseAnswer()
	if _, err := db.ExecContext(long(t), "INSERT INTO a VALUES (2)"); !errors.As(err, &unknown) {
		t.Errorf("an answer that was lost: %v", err)
	}
	if got := ask(t, db, "SELECT count(*) FROM a"); got != "1" {
		t.Errorf("after a lost answer: %s rows", got)
	}
	p.LoseAnswer()
	p.Restore()
	mustExec(t, db, "INSERT INTO a VALUES (3)")

	pid := ask(t, db, "SELECT pg_backend_pid()")
	p.Cut()
	if ask(t, db, "SELECT pg_backend_pid()") == pid {
		t.Error("the session outlived Cut")
	}

	p.Silence()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := db.ExecContext(ctx, "SELECT 1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while silent: %v", err)
	}
	p.Restore()
	if got := ask(t, db, "SELECT count(*) FROM a"); got != "2" {
		t.Errorf("in the end: %s rows", got)
	}
}
