package pgtest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/lib/pq"
)

// AdminName is the application_name of the Admin pool.
const AdminName = "pgtest-admin"

// openAdmin uses the Unix socket, so that nothing a test does to TCP, TLS or
// passwords gets in its way, and a superuser, who finds a reserved connection
// when the server is full.
func (s *Server) openAdmin() *sql.DB {
	c, err := pq.NewConnector(s.DSN("host", s.sock, "sslmode", "disable", "password", "", "application_name", AdminName, "connect_timeout", "20"))
	if err != nil {
		panic("pgtest: own DSN: " + err.Error())
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(3)
	return db
}

// Admin is a plain lib/pq pool of a superuser, application_name pgtest-admin,
// at most three connections. Stop closes it.
func (s *Server) Admin() *sql.DB { return s.admin }

// CreateDatabase makes an empty database with a name of its own. drop removes
// it with whatever is still connected to it; a server that is down is no
// error.
func (s *Server) CreateDatabase(ctx context.Context) (name string, drop func(), err error) {
	s.mu.Lock() // a start or a stop that is under way ends first
	down, stopped := s.proc == nil, s.stopped
	s.mu.Unlock()
	if stopped {
		return "", nil, fmt.Errorf("%w: it makes no databases", errStopped)
	}
	if down {
		return "", nil, errors.New("pgtest: the server is down: start it before you ask for a database")
	}
	var version int
	if err := s.admin.QueryRowContext(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return "", nil, fmt.Errorf("pgtest: create database: %w", err)
	}
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails
	name = "t" + hex.EncodeToString(b[:])
	create := "CREATE DATABASE " + name + " TEMPLATE template0"
	if version >= 150000 {
		create += " STRATEGY file_copy"
	}
	if _, err := s.admin.ExecContext(ctx, create); err != nil {
		return "", nil, fmt.Errorf("pgtest: create database: %w", err)
	}
	drop = func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		force := ""
		if version >= 130000 {
			force = " WITH (FORCE)"
		} else {
			_, _ = s.admin.ExecContext(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
		}
		_, _ = s.admin.ExecContext(ctx, "DROP DATABASE IF EXISTS "+name+force)
	}
	return name, drop, nil
}

// CountSessions counts the sessions with this application_name, as the server
// sees them.
func (s *Server) CountSessions(ctx context.Context, applicationName string) (int, error) {
	var n int
	err := s.admin.QueryRowContext(ctx, `SELECT count(*) FROM pg_stat_activity
		WHERE application_name = $1 AND backend_type = 'client backend' AND pid <> pg_backend_pid()`,
		applicationName).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("pgtest: count sessions: %w", err)
	}
	return n, nil
}

// TB is the part of testing.TB that StartT and Database need. It is spelled
// out so that a program using this package does not link package testing.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
	Cleanup(func())
}

// StartT starts a server for a test and stops it at the end. A missing
// PostgreSQL fails the test: a skip would pass for a success.
func StartT(t TB, o Options) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	s, err := Start(ctx, o)
	if err != nil {
		t.Fatalf("no PostgreSQL for this test: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Logf("%v", err)
		}
	})
	return s
}

// Database is CreateDatabase for a test: its name, for DSN("dbname", name).
func (s *Server) Database(t TB) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	name, drop, err := s.CreateDatabase(ctx)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(drop)
	return name
}

// AwaitSessions waits until the server counts exactly want sessions with this
// application_name, and says how many there are if ctx ends first.
func (s *Server) AwaitSessions(ctx context.Context, applicationName string, want int) error {
	seen := "unknown"
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := s.CountSessions(ctx, applicationName)
		if err == nil && n == want {
			return nil
		}
		if err == nil {
			seen = strconv.Itoa(n)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("pgtest: sessions of %q: want %d, last count %s: %w", applicationName, want, seen, ctx.Err())
		}
	}
}
