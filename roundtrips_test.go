package pgpooled_test

import (
	"context"
	"database/sql"
	"net"
	"sync/atomic"
	"testing"

	"github.com/pgpooled/pgpooled"
)

// turns counts how often a connection was written to after it was read from:
// round trips, as lib/pq has them.
type turns struct {
	net.Conn
	n     *atomic.Int64
	wrote atomic.Bool
}

func (c *turns) Write(b []byte) (int, error) {
	if !c.wrote.Swap(true) {
		c.n.Add(1)
	}
	return c.Conn.Write(b)
}

func (c *turns) Read(b []byte) (int, error) {
	c.wrote.Store(false)
	return c.Conn.Read(b)
}

type countingDialer struct{ n *atomic.Int64 }

func (d countingDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &turns{Conn: c, n: d.n}, nil
}

func (c *turns) NetConn() net.Conn { return c.Conn }

// openCounted opens a pool of one session, without TLS, whose turns are counted.
func openCounted(t *testing.T, kv ...string) (*sql.DB, *atomic.Int64) {
	t.Helper()
	n := new(atomic.Int64)
	db, err := pgpooled.Open(server.DSN(append([]string{"sslmode", "disable", "application_name", app(), "max_open_conns", "1"}, kv...)...), quiet, pgpooled.WithDialer(countingDialer{n}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db, n
}

// What a call costs on the wire, and what it allocates: neither depends on how
// busy the machine is, nor on the race detector. The limits are one above
// what was measured with Go 1.26.
func TestRoundTripsAndAllocationsOfEachKindOfCall(t *testing.T) { // not parallel: AllocsPerRun
	ctx := context.Background()
	table := newTable(t)
	mustExec(t, server.Admin(), "insert into "+table+" values (1, 'a')")
	scan := func(row *sql.Row) error { var v int; return row.Scan(&v) }
	var st *sql.Stmt
	for _, kind := range []struct {
		name   string
		dsn    []string
		trips  int64 // each
		allocs float64
		do     func(db *sql.DB) error
	}{
		{"Ping", nil, 1, 4, func(db *sql.DB) error { return db.Ping() }},
		{"query", nil, 1, 14, func(db *sql.DB) error { return scan(db.QueryRow("select 1")) }},
		{"query with an argument", nil, 1, 17, func(db *sql.DB) error {
			return scan(db.QueryRow("select id from "+table+" where id = $1", 1))
		}},
		{"query with an argument, context that can end", nil, 1, 28, func(db *sql.DB) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			return scan(db.QueryRowContext(ctx, "select id from "+table+" where id = $1", 1))
		}},
		{"query with an argument, no cache", []string{"statement_cache_capacity", "0"}, 2, 27, func(db *sql.DB) error {
			return scan(db.QueryRow("select id from "+table+" where id = $1", 1))
		}},
		{"query with an argument, pgbouncer=true", []string{"pgbouncer", "true"}, 1, 23, func(db *sql.DB) error {
			return scan(db.QueryRow("select id from "+table+" where id = $1", 1))
		}},
		{"exec", nil, 1, 8, func(db *sql.DB) error { _, err := db.Exec("update " + table + " set v = 'b'"); return err }},
		{"exec with an argument", nil, 1, 11, func(db *sql.DB) error {
			_, err := db.Exec("update "+table+" set v = $1", "b")
			return err
		}},
		{"db.Prepare, once", nil, 1, 19, func(db *sql.DB) (err error) {
			if st == nil {
				st, err = db.Prepare("select id from " + table + " where id = $1")
			}
			if err != nil {
				return err
			}
			return scan(st.QueryRow(1))
		}},
		{"db.Prepare, each time", nil, 1, 29, func(db *sql.DB) error {
			st, err := db.Prepare("select id from " + table + " where id = $1")
			if err != nil {
				return err
			}
			defer st.Close()
			return scan(st.QueryRow(1))
		}},
		{"transaction with an argument", nil, 3, 37, func(db *sql.DB) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			if err := scan(tx.QueryRow("select id from "+table+" where id = $1", 1)); err != nil {
				return err
			}
			return tx.Commit()
		}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			db, n := openCounted(t, kind.dsn...)
			for range often { // connects, proves, prepares
				if err := kind.do(db); err != nil {
					t.Fatal(err)
				}
			}
			const calls = 50
			from := n.Load()
			allocs := testing.AllocsPerRun(calls-1, func() { // and once before
				if err := kind.do(db); err != nil {
					t.Fatal(err)
				}
			})
			if got := n.Load() - from; got != calls*kind.trips {
				t.Errorf("%d round trips in %d calls, want %d each", got, calls, kind.trips)
			}
			t.Logf("%.0f allocations", allocs)
			if allocs > kind.allocs {
				t.Errorf("%.0f allocations, want at most %.0f", allocs, kind.allocs)
			}
			if st != nil {
				_ = st.Close()
				st = nil
			}
		})
	}
}
