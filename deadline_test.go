package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"
	"go.uber.org/goleak"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

const (
	deadline = 150 * time.Millisecond // of the contexts
	grace    = 200 * time.Millisecond // cancel_grace

	// late is many times what is allowed, and far below the ten seconds after
	// which lib/pq gives up a cancel request.
	late = 20 * (deadline + grace)
)

// noLeaks checks that no goroutine, and so no timer's function, outlives what
// the test did. Such a test runs alone.
func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// intime runs a call and fails the test if it does not return in time.
func intime(t *testing.T, what string, call func() error) error {
	t.Helper()
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- call() }()
	select {
	case err := <-done:
		if took := time.Since(start); took > late {
			t.Errorf("%s: took %s", what, took)
		}
		return err
	case <-time.After(40 * time.Second):
		t.Fatalf("%s: hangs", what)
		return nil
	}
}

// silenced is one call: ready prepares it on a network that works and returns
// the call, which is made when the network is silent.
type silenced struct {
	name  string
	ready func(t *testing.T, ctx context.Context, db *sql.DB, table string) func() error

	any   bool // its error may be nil or anything: only the time counts
	write bool // sent and without an answer, so its outcome is unknown
	anew  bool // so it is where the session keeps statements
}

func silencedCalls() []silenced {
	return []silenced{
		{name: "ping", ready: func(_ *testing.T, ctx context.Context, db *sql.DB, _ string) func() error {
			return func() error { return db.PingContext(ctx) }
		}},
		{name: "exec", write: true, ready: func(_ *testing.T, ctx context.Context, db *sql.DB, table string) func() error {
			return func() error { _, err := db.ExecContext(ctx, "insert into "+table+" values (1)"); return err }
		}},
		{name: "exec with argument", write: true, ready: func(_ *testing.T, ctx context.Context, db *sql.DB, table string) func() error {
			return func() error { _, err := db.ExecContext(ctx, "insert into "+table+" values ($1)", 2); return err }
		}},
		{name: "query", ready: func(_ *testing.T, ctx context.Context, db *sql.DB, _ string) func() error {
			return func() error { return db.QueryRowContext(ctx, "select $1::int", 1).Scan(new(int)) }
		}},
		{name: "prepare", ready: func(_ *testing.T, ctx context.Context, db *sql.DB, _ string) func() error {
			return func() error { _, err := db.PrepareContext(ctx, "select 1"); return err }
		}},
		{name: "prepared exec, prepared anew", anew: true, ready: func(t *testing.T, ctx context.Context, db *sql.DB, table string) func() error {
			st := prepared(t, db, "insert into "+table+" values ($1)")
			return func() error { _, err := st.ExecContext(ctx, 3); return err }
		}},
		{name: "prepared exec", write: true, ready: func(t *testing.T, ctx context.Context, db *sql.DB, table string) func() error {
			st := prepared(t, pinned(t, db), "insert into "+table+" values ($1)")
			return func() error { _, err := st.ExecContext(ctx, 3); return err }
		}},
		{name: "prepared query", ready: func(t *testing.T, ctx context.Context, db *sql.DB, _ string) func() error {
			st := prepared(t, pinned(t, db), "select $1::int")
			return func() error { return st.QueryRowContext(ctx, 4).Scan(new(int)) }
		}},
		{name: "begin", ready: func(_ *testing.T, ctx context.Context, db *sql.DB, _ string) func() error {
			return func() error { _, err := db.BeginTx(ctx, nil); return err }
		}},
		{name: "exec in a transaction", ready: func(t *testing.T, ctx context.Context, db *sql.DB, table string) func() error {
			tx := begun(t, context.Background(), db)
			return func() error { _, err := tx.ExecContext(ctx, "insert into "+table+" values (5)"); return err }
		}},
		{name: "commit", write: true, ready: func(t *testing.T, ctx context.Context, db *sql.DB, _ string) func() error {
			return begun(t, ctx, db).Commit
		}},
		{name: "rollback", any: true, ready: func(t *testing.T, ctx context.Context, db *sql.DB, _ string) func() error {
			return begun(t, ctx, db).Rollback
		}},
		{name: "COPY", ready: func(t *testing.T, ctx context.Context, db *sql.DB, table string) func() error {
			tx := begun(t, ctx, db)
			//lint:ignore SA1019 applications use it, and COPY goes through Prepare
			st, err := tx.Prepare(pq.CopyIn(table, "id"))
			if err != nil {
				t.Fatal(err)
			}
			return func() error {
				if _, err := st.ExecContext(ctx, 6); err != nil {
					return err
				}
				_, err := st.ExecContext(ctx)
				return err
			}
		}},
		{name: "rows in mid-flight", ready: func(t *testing.T, ctx context.Context, db *sql.DB, _ string) func() error {
			rows := someRows(t, ctx, db)
			return func() error {
				for rows.Next() {
				}
				return rows.Err()
			}
		}},
		{name: "rows.Close", any: true, ready: func(t *testing.T, ctx context.Context, db *sql.DB, _ string) func() error {
			return someRows(t, ctx, db).Close
		}},
		{name: "closing a statement", any: true, ready: func(t *testing.T, _ context.Context, db *sql.DB, _ string) func() error {
			return prepared(t, pinned(t, db), "select 1").Close
		}},
		{name: "closing a sql.Conn with a statement", any: true, ready: func(t *testing.T, _ context.Context, db *sql.DB, _ string) func() error {
			conn := pinned(t, db)
			prepared(t, conn, "select 1")
			return conn.Close
		}},
		{name: "waiting for a connection", ready: func(t *testing.T, ctx context.Context, db *sql.DB, _ string) func() error {
			for range 3 { // all of them
				begun(t, context.Background(), db)
			}
			return func() error { return db.PingContext(ctx) }
		}},
		{name: "closing the pool", any: true, ready: func(_ *testing.T, _ context.Context, db *sql.DB, _ string) func() error {
			return db.Close
		}},
		{name: "closing the pool under a call", any: true, ready: func(t *testing.T, _ context.Context, db *sql.DB, _ string) func() error {
			rows := someRows(t, context.Background(), db)
			return func() error {
				err := db.Close()
				_ = rows.Close()
				return err
			}
		}},
	}
}

func pinned(t *testing.T, db *sql.DB) *sql.Conn {
	t.Helper()
	conn, err := db.Conn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

type preparer interface {
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

func prepared(t *testing.T, p preparer, query string) *sql.Stmt {
	t.Helper()
	st, err := p.PrepareContext(context.Background(), query)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func begun(t *testing.T, ctx context.Context, db *sql.DB) *sql.Tx {
	t.Helper()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback() })
	return tx
}

func someRows(t *testing.T, ctx context.Context, db *sql.DB) *sql.Rows {
	t.Helper()
	rows, err := db.QueryContext(ctx, "select generate_series(1, 200000), repeat('x', 500)")
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	t.Cleanup(func() { rows.Close() })
	return rows
}

// sessionKind is the kind of session on which a context ends: lib/pq watches each
// call's on a new one, and one for all calls on one that was proven direct.
type sessionKind struct {
	name, tls string
	proven    bool
}

func sessionKinds() (kinds []sessionKind) {
	for _, tls := range []string{"disable", "require"} {
		kinds = append(kinds, sessionKind{tls, tls, false}, sessionKind{tls + ", asked for proof", tls, true})
	}
	return kinds
}

// keeps: under TLS a proxy's ports prove nothing.
func (k sessionKind) keeps() bool { return k.proven && k.tls == "disable" }

// ready makes db have a session of the kind.
func (k sessionKind) ready(t *testing.T, db *sql.DB) {
	t.Helper()
	if err := db.Ping(); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if k.proven {
			askFor(t, db, "select $1::int", 7)
		}
	}
}

// lib/pq #620: it waits for a cancel request that nobody answers.
func TestDeadlineEveryCallReturnsOnASilentNetwork(t *testing.T) {
	noLeaks(t)
	t.Run("calls", func(t *testing.T) {
		for _, kind := range sessionKinds() {
			for _, c := range silencedCalls() {
				t.Run(kind.name+"/"+c.name, func(t *testing.T) {
					t.Parallel()
					table := newTable(t)
					db, proxy := through(t, server, "sslmode", kind.tls, "cancel_grace", grace.String(), "close_timeout", grace.String(), "max_open_conns", "3")
					kind.ready(t, db)
					// It ends when the call is under way.
					ctx, cancel := context.WithCancelCause(context.Background())
					defer cancel(nil)
					ended := &endsAt{Context: ctx}
					call := c.ready(t, ended, db, table)
					t.Cleanup(proxy.Thaw) // before what ready wants to clean up
					proxy.Freeze()
					timer := time.AfterFunc(deadline, func() { ended.over.Store(true); cancel(context.DeadlineExceeded) })
					defer timer.Stop()
					err := intime(t, c.name, call)
					var unknown *pgpooled.OutcomeUnknownError
					switch {
					case c.any:
					case !errors.Is(err, context.DeadlineExceeded), errors.Is(err, driver.ErrBadConn):
						t.Errorf("%T %v", err, err)
					case errors.As(err, &unknown) != (c.write || c.anew && kind.keeps()):
						t.Errorf("unknown=%t: %v", unknown != nil, err)
					}
				})
			}
		}
	})
}

// endsAt is a context whose deadline passes when the test says so.
type endsAt struct {
	context.Context
	over atomic.Bool
}

func (e *endsAt) Err() error {
	if err := e.Context.Err(); err == nil || !e.over.Load() {
		return err
	}
	return context.DeadlineExceeded
}

// connectBytes is how many bytes the server sends over TLS until it is ready.
// The last 530 or so begin inside SCRAM.
func connectBytes(t *testing.T, s *pgtest.Server) int {
	t.Helper()
	db, proxy := through(t, s, "sslmode", "require", "password", "right")
	conn := pinned(t, db)
	defer conn.Close()
	return proxy.Bytes(faultnet.ToClient)
}

func TestDeadlineNewConnectionsAtEachStage(t *testing.T) {
	s := pgtest.StartT(t, pgtest.Options{TLS: true, Password: "right"})
	full := connectBytes(t, s)
	noLeaks(t)
	t.Run("stages", func(t *testing.T) {
		for name, test := range map[string]struct {
			tls   string
			after int // bytes of the server's that pass
		}{
			"TCP accepted and silent":     {"disable", 0},
			"authentication half way":     {"disable", 60},
			"silent before TLS":           {"require", 0},
			"TLS half way":                {"require", 400},
			"authentication half way/TLS": {"require", full - 530},
		} {
			for _, bound := range []string{"context", "pool_timeout"} {
				t.Run(name+"/"+bound, func(t *testing.T) {
					t.Parallel()
					db, proxy := through(t, s, "sslmode", test.tls, "password", "right", "connect_timeout", "10s",
						"pool_timeout", map[string]string{"context": "30s", "pool_timeout": deadline.String()}[bound])
					proxy.SetScript(func(int) faultnet.Script {
						return faultnet.Script{{Dir: faultnet.ToClient, After: test.after, Do: faultnet.Stall}}
					})
					ctx, cancel := context.WithCancelCause(context.Background())
					defer cancel(nil)
					ended := &endsAt{Context: ctx}
					if bound == "context" { // it ends when the connection has come to that stage
						go func() {
							if test.after == 0 {
								_ = proxy.AwaitDials(testContext(t), 1)
							} else {
								_ = proxy.AwaitFired(testContext(t), 1)
							}
							ended.over.Store(true)
							cancel(context.DeadlineExceeded)
						}()
					}
					err := intime(t, name, func() error { _, err := db.ExecContext(ended, "select 1"); return err })
					want := map[string]error{"context": context.DeadlineExceeded, "pool_timeout": pgpooled.ErrPoolTimeout}[bound]
					if !errors.Is(err, want) || errors.Is(err, driver.ErrBadConn) {
						t.Errorf("%T %v", err, err)
					}
				})
			}
		}
	})
}

func TestSocketTimeoutBoundsWhatTheServerDoesNotTake(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	for _, tls := range []string{"disable", "require"} {
		db, proxy := through(t, server, "sslmode", tls, "socket_timeout", "300ms", "tcp_user_timeout", "0")
		if err := db.Ping(); err != nil {
			t.Fatal(err)
		}
		proxy.Freeze()
		done := make(chan error, 1)
		go func() {
			_, err := db.Exec("insert into " + table + " values (1, '" + strings.Repeat("x", 32<<20) + "')")
			done <- err
		}()
		select {
		case err := <-done:
			var unknown *pgpooled.OutcomeUnknownError
			if !errors.As(err, &unknown) || !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "nothing was taken for socket_timeout (300ms)") {
				t.Errorf("%T %v", err, err)
			}
		case <-time.After(40 * time.Second):
			t.Fatal("hangs")
		}
		proxy.Thaw()
	}
}
