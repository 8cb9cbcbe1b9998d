// Package pgpooledtest runs a real, throwaway PostgreSQL for the tests of a
// program, and breaks its network when a test asks for it.
//
//	import _ "github.com/pgpooled/pgpooled" // if the program itself does not
//
//	func TestOrders(t *testing.T) {
//		s := pgpooledtest.Start(t)
//		db, err := sql.Open("pgpooled", s.Database(t, "max_open_conns", "5"))
//		...
//		err = s.Restart(t.Context(), pgpooledtest.Fast)
//		...
//	}
//
// A server is a child of the test's process. It listens on 127.0.0.1 only,
// keeps its data in memory where it can, and is gone with its directory at the
// end of the test, also if the process is killed (its directory then goes with
// the next start). The first start on a machine runs initdb, a second or so;
// those after it take a tenth of a second.
//
// The server's programs are found on the PATH, by pg_config, and where Debian,
// Red Hat, SUSE, Alpine, FreeBSD, Homebrew and Postgres.app put them;
// PGPOOLED_TEST_PG_BIN names another folder. If there are none the test fails
// and says how to install them. It is never skipped: a test that did not happen
// is not green. Linux, macOS and FreeBSD; on Windows, inside WSL. Under root the
// server runs as the user postgres, else as nobody.
package pgpooledtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// TB is what this package needs of a testing.TB. Something else with these four
// methods can stand in where there is none, in an Example for instance.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
	Cleanup(func())
}

// Option changes how a server is started.
type Option struct{ set func(*pgtest.Options) }

// WithTLS switches TLS on, with a certificate for localhost and 127.0.0.1 of a CA
// made for it ([Server.CACert]). Plain connections are still accepted, but DSN and
// URL say sslmode=require. The default is no TLS.
func WithTLS() Option { return Option{func(o *pgtest.Options) { o.TLS = true }} }

// WithPassword gives user postgres a password, which is then asked for
// (SCRAM-SHA-256). The default is that everybody on this machine is let in.
func WithPassword(password string) Option {
	return Option{func(o *pgtest.Options) { o.Password = password }}
}

// WithMaxConnections sets max_connections; the default is 200. PostgreSQL keeps 3
// of them for superusers, and user postgres is one.
func WithMaxConnections(n int) Option {
	return Option{func(o *pgtest.Options) { o.MaxConnections = n }}
}

// WithParam sets one parameter of postgresql.conf and wins over this package's
// own: fsync and full_page_writes are off, shared_buffers is 32MB.
func WithParam(name, value string) Option {
	return Option{func(o *pgtest.Options) {
		if o.Params == nil {
			o.Params = make(map[string]string)
		}
		o.Params[name] = value
	}}
}

// StopMode is how a server is stopped.
type StopMode string

// The ways to stop a server.
const (
	Fast      StopMode = "fast"      // sessions are told and ended: a restart by hand
	Immediate StopMode = "immediate" // at once; the next start recovers
	Kill      StopMode = "kill"      // SIGKILL to each of its processes: a power cut
)

// Server is a throwaway PostgreSQL. Its methods may be called from any goroutine;
// those that start and stop it take turns.
type Server struct {
	s *pgtest.Server
}

// Start starts a server for one test, and its subtests, and stops it at their
// end. It ends the test with t.Fatalf if there is no PostgreSQL, or if it does
// not take connections within 90 seconds.
func Start(t TB, opts ...Option) *Server {
	t.Helper()
	s, err := New(context.Background(), opts...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Logf("%v", err)
		}
	})
	return s
}

// New is Start where there is no test: in TestMain, for one server that all tests
// of a package share. The caller calls Close. It returns when connections are
// taken, or with an error after 90 seconds, or when ctx ends.
func New(ctx context.Context, opts ...Option) (*Server, error) {
	o := pgtest.Options{}
	for _, opt := range opts {
		opt.set(&o)
	}
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	s, err := pgtest.Start(ctx, o)
	if err != nil {
		return nil, explain(err)
	}
	return &Server{s: s}, nil
}

// explain says what to do where the programs are missing.
func explain(err error) error {
	if errors.Is(err, pgtest.ErrNoServer) {
		return errors.New(`pgpooledtest: no PostgreSQL server is installed here (initdb and postgres). Install one:
	Debian, Ubuntu   apt-get install --no-install-recommends postgresql
	Fedora, Red Hat  dnf install postgresql-server
	Alpine           apk add postgresql
	macOS            brew install postgresql
or name the folder of its programs in PGPOOLED_TEST_PG_BIN`)
	}
	return fmt.Errorf("pgpooledtest: %w", err)
}

// Close stops the server for good and removes its directory. It may be called
// again, and is not needed after [Start].
func (s *Server) Close() error { return s.s.Stop() }

// DSN is the key=value connection string of user postgres, a superuser, and
// database postgres. kv are pairs of key and value that replace or add; an empty
// value leaves its key out. It panics on half a pair.
func (s *Server) DSN(kv ...string) string { return s.s.DSN(kv...) }

// URL is DSN as a postgres:// URL.
func (s *Server) URL(kv ...string) string { return s.s.URL(kv...) }

// Database makes an empty database and returns its URL, with kv as in DSN. At the
// end of the test it is dropped, with whatever is still connected to it. The
// server must be up.
func (s *Server) Database(t TB, kv ...string) string {
	t.Helper()
	name := s.s.Database(t)
	return s.s.URL(append([]string{"dbname", name}, kv...)...)
}

// Addr is host:port. It stays the same when the server is restarted.
func (s *Server) Addr() string { return s.s.Addr() }

// CACert is the path of the CA's certificate (PEM), for sslrootcert; empty
// without [WithTLS].
func (s *Server) CACert() string { return s.s.CACert() }

// Admin is a plain lib/pq pool of user postgres, over the Unix socket: it works
// through [Server.Terminate] and when the server is full. Close closes it. It has
// application_name pgtest-admin and at most three connections.
func (s *Server) Admin() *sql.DB { return s.s.Admin() }

// Restart is Stop and Start: when it returns connections are taken again, on the
// same port.
func (s *Server) Restart(ctx context.Context, mode StopMode) error {
	return s.s.Restart(ctx, string(mode))
}

// Stop stops the server and keeps its data and its port. It waits for the
// process, 20 seconds at most before it is killed, which is an error. A server
// that is down already is none.
func (s *Server) Stop(mode StopMode) error { return s.s.Down(string(mode)) }

// Start starts a server that is down, on its old port, and returns when
// connections are taken, or with an error after 90 seconds, or when ctx ends. A
// server that is up is no error.
func (s *Server) Start(ctx context.Context) error { return s.s.Up(ctx) }

// Terminate ends the sessions with this application_name, as an administrator
// would, or those of everybody but Admin for "". It returns how many when the
// server has let go of them; one that needs longer than 20 seconds does not count.
func (s *Server) Terminate(ctx context.Context, applicationName string) (int, error) {
	var n int
	err := s.s.Admin().QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 20000))
		FROM (SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> $2
			AND ($1 = '' OR application_name = $1) OFFSET 0) s`, applicationName, pgtest.AdminName).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("pgpooledtest: terminate: %w", err)
	}
	return n, nil
}
