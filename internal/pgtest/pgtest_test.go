//go:build linux || darwin || freebsd

package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"
)

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// ask opens one connection with dsn and returns the single value of query.
func ask(ctx context.Context, dsn, query string) (string, error) {
	c, err := pq.NewConnector(dsn)
	if err != nil {
		return "", err
	}
	db := sql.OpenDB(c)
	defer db.Close()
	var v string
	err = db.QueryRowContext(ctx, query).Scan(&v)
	return v, err
}

func mustAsk(t *testing.T, ctx context.Context, dsn, query, want string) {
	t.Helper()
	got, err := ask(ctx, dsn, query)
	if err != nil || got != want {
		t.Fatalf("%s: %q, %v; want %q", query, got, err, want)
	}
}

func TestServerServesOverTCPSocketAndURL(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	s := StartT(t, Options{MaxConnections: 37, Params: map[string]string{"search_path": `"it's", public`}})
	for _, dsn := range []string{s.DSN(), s.URL(), s.DSN("host", s.SocketDir()), s.URL("host", s.SocketDir())} {
		mustAsk(t, ctx, dsn, "SHOW max_connections", "37")
	}
	mustAsk(t, ctx, s.DSN("application_name", `a 'b\ c`), "SHOW application_name", `a 'b\ c`)
	mustAsk(t, ctx, s.URL("application_name", `a 'b\ c`), "SHOW application_name", `a 'b\ c`)
	mustAsk(t, ctx, s.DSN(), "SHOW search_path", `"it's", public`)
	mustAsk(t, ctx, s.DSN(), "SHOW fsync", "off")
	durable := StartT(t, Options{Params: map[string]string{"fsync": "on"}})
	mustAsk(t, ctx, durable.DSN(), "SHOW fsync", "on")
	if host, _, err := net.SplitHostPort(s.Addr()); err != nil || host != "127.0.0.1" {
		t.Fatalf("Addr %q", s.Addr())
	}
}

func TestDatabasesAreSeparateAndDropEndsTheirSessions(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	s := StartT(t, Options{})
	name, drop, err := s.CreateDatabase(ctx)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("postgres", s.DSN("dbname", name, "application_name", "held"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := s.AwaitSessions(ctx, "held", 1); err != nil {
		t.Fatal(err)
	}
	if n, err := s.CountSessions(ctx, AdminName); err != nil || n != 0 {
		t.Fatalf("the count includes its own session: %d, %v", n, err)
	}
	drop()
	if err := s.AwaitSessions(ctx, "held", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(ctx, s.DSN("dbname", name), "SELECT 1"); err == nil {
		t.Fatal("the database is still there")
	}
	if a, b := s.Database(t), s.Database(t); a == b {
		t.Fatalf("one name twice: %s", a)
	}
}

func TestDataAndPortSurviveEveryWayOfStopping(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	s := StartT(t, Options{})
	if _, err := s.Admin().ExecContext(ctx, "CREATE TABLE kept (n int)"); err != nil {
		t.Fatal(err)
	}
	addr := s.Addr()
	for i, mode := range []string{"fast", "immediate", "kill"} {
		if _, err := s.Admin().ExecContext(ctx, "INSERT INTO kept VALUES (1)"); err != nil {
			t.Fatal(err)
		}
		old := s.Pid()
		if err := s.Down(mode); err != nil {
			t.Fatal(err)
		}
		if err := s.Down(mode); err != nil {
			t.Fatalf("%s twice: %v", mode, err)
		}
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			t.Fatalf("%s: still listening", mode)
		}
		if left := childrenOf(old); len(left) != 0 {
			t.Fatalf("%s left children: %v", mode, left)
		}
		if err := s.Up(ctx); err != nil {
			t.Fatal(err)
		}
		if err := s.Up(ctx); err != nil {
			t.Fatalf("Up twice: %v", err)
		}
		if s.Addr() != addr || s.Pid() == old || s.Pid() == 0 {
			t.Fatalf("%s: address %s, pid %d after %s, %d", mode, s.Addr(), s.Pid(), addr, old)
		}
		if err := s.Restart(ctx, mode); err != nil {
			t.Fatal(err)
		}
		mustAsk(t, ctx, s.DSN(), "SELECT count(*) FROM kept", string(rune('1'+i)))
	}
	if err := s.Down("gently"); err == nil {
		t.Fatal("an unknown way to stop was taken")
	}
}

func TestServerThatEndedByItselfComesUpAgain(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	s := StartT(t, Options{})
	p, err := os.FindProcess(s.Pid())
	if err != nil {
		t.Fatal(err)
	}
	done := s.proc.done
	if err := p.Kill(); err != nil { // the postmaster only
		t.Fatal(err)
	}
	<-done
	if err := s.Up(ctx); err != nil {
		t.Fatal(err)
	}
	mustAsk(t, ctx, s.DSN(), "SELECT 1", "1")
}

func TestTLSIsVerifiableAndPlainStillWorks(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	s := StartT(t, Options{TLS: true})
	const used = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
	mustAsk(t, ctx, s.DSN(), used, "true")
	mustAsk(t, ctx, s.URL("sslmode", "verify-full", "sslrootcert", s.CACert()), used, "true")
	mustAsk(t, ctx, s.DSN("host", "localhost", "sslmode", "verify-full", "sslrootcert", s.CACert()), used, "true")
	mustAsk(t, ctx, s.DSN("sslmode", "disable"), used, "false")
}

func TestPasswordIsAskedForOverTCP(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	s := StartT(t, Options{Password: `p'w\ d%/@`})
	mustAsk(t, ctx, s.DSN(), "SELECT 1", "1")
	mustAsk(t, ctx, s.URL(), "SELECT 1", "1")
	if _, err := ask(ctx, s.DSN("password", "wrong"), "SELECT 1"); err == nil || !strings.Contains(err.Error(), "28P01") && !strings.Contains(err.Error(), "password") {
		t.Fatalf("a wrong password: %v", err)
	}
}

func TestServersStartInParallelAndLeaveNothing(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := t.TempDir()
	if os.Geteuid() == 0 { // the server's account has to get there
		var err error
		if dir, err = os.MkdirTemp("", "pgtest-parallel-"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s, err := Start(ctx, Options{Dir: dir})
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := ask(ctx, s.DSN(), "SELECT 1"); got != "1" {
				t.Error(got, err)
			}
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
			if err := s.Up(ctx); err == nil {
				t.Error("Up worked after Stop")
			}
		})
	}
	wg.Wait()
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestLongDirectoryStillHasASocket(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	base, err := os.MkdirTemp("", "pgtest-long-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(base, strings.Repeat("long", 20))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := StartT(t, Options{Dir: dir})
	mustAsk(t, ctx, s.DSN("host", s.SocketDir()), "SELECT 1", "1")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.SocketDir()); err == nil {
		t.Fatal("the socket's folder is still there")
	}
}

func TestFailedStartTellsWhatTheServerSaid(t *testing.T) {
	t.Parallel()
	_, err := Start(testContext(t), Options{Params: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Fatalf("error %v", err)
	}
}

func TestWithoutAServerTheErrorSaysSoAndWhatToDo(t *testing.T) {
	t.Setenv(binVariable, "")
	t.Setenv("PATH", t.TempDir())
	saved := wellKnown
	defer func() { wellKnown = saved }()
	wellKnown = nil
	_, err := findBinaries()
	if !errors.Is(err, ErrNoServer) || !strings.Contains(err.Error(), "make postgres") || !strings.Contains(err.Error(), binVariable) {
		t.Errorf("%v", err)
	}
}
