package pgpooled_test

import (
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// pooler is a PgBouncer before a server of its own, whose prepared statements
// are then all from here.
func pooler(t *testing.T, mode string, size int) *pgtest.Bouncer {
	t.Helper()
	s := pgtest.StartT(t, pgtest.Options{TLS: true})
	return pgtest.BouncerT(t, s, pgtest.BouncerOptions{Mode: mode, Size: size})
}

// client is a pool of one session through a PgBouncer.
func client(t *testing.T, b *pgtest.Bouncer, kv ...string) *sql.DB {
	t.Helper()
	db, err := pgpooled.Open(b.DSN(append([]string{"max_open_conns", "1"}, kv...)...), quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

// takingTurns has two clients ask in turns, each with texts of its own and with
// one that both have, and counts answers that are somebody else's and errors.
func takingTurns(t *testing.T, a, b *sql.DB) (wrong, failed int) {
	t.Helper()
	for round := range 6 {
		for n, db := range []*sql.DB{a, b} {
			for _, text := range []string{fmt.Sprintf("select %d, $1::int", n), fmt.Sprintf("select %d + 0, $1::int", n), "select $2::int, $1::int"} {
				args := []any{round}
				if strings.Contains(text, "$2") {
					args = append(args, n)
				}
				var who, got int
				switch err := db.QueryRow(text, args...).Scan(&who, &got); {
				case err != nil:
					failed++
				case who != n || got != round:
					wrong++
				}
			}
		}
	}
	return wrong, failed
}

// Behind a pooler in transaction mode statement 1 may be somebody else's: a
// SELECT that deleted a row was seen. The cache must find out, with and without
// TLS; with the cache forced on it shows what happens if it does not.
func TestTwoClientsOfAPoolerNeverRunEachOthersStatement(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"transaction", "session"} {
		for _, tls := range []string{"disable", "require"} {
			for _, how := range [][]string{{}, {"pgbouncer", "true"}, {"statement_cache_capacity", "10"}} {
				t.Run(fmt.Sprint(mode, tls, how), func(t *testing.T) {
					t.Parallel()
					size := 1
					if mode == "session" {
						size = 2
					}
					b := pooler(t, mode, size)
					kv := append([]string{"sslmode", tls}, how...)
					one, two := client(t, b, kv...), client(t, b, kv...)
					wrong, failed := takingTurns(t, one, two)
					kept := named(t, one)
					if forced := len(how) > 0 && how[0] == "statement_cache_capacity"; forced && mode == "transaction" {
						if wrong+failed == 0 {
							t.Error("with the cache forced on nothing went wrong: this test would not see it")
						}
						return
					} else if forced {
						if wrong+failed > 0 || kept == 0 {
							t.Errorf("a session of its own: %d wrong, %d failed, %d statements", wrong, failed, kept)
						}
						return
					}
					if wrong+failed > 0 || kept > 0 {
						t.Errorf("%d answers of somebody else, %d errors; %d statements on the server", wrong, failed, kept)
					}
				})
			}
		}
	}
}

// With pgbouncer=true it also holds for callers that do not wait for each other,
// on more server connections than one: each call is one message group. And
// db.Prepare names no statement.
func TestPgBouncerTrueKeepsConcurrentCallsApart(t *testing.T) {
	t.Parallel()
	b := pooler(t, "transaction", 2)
	for _, tls := range []string{"disable", "require"} {
		var wg sync.WaitGroup
		for n := range 3 {
			db := client(t, b, "sslmode", tls, "pgbouncer", "true")
			st, err := db.Prepare(fmt.Sprintf("select %d, $1::int", n))
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				defer st.Close()
				for i := range 100 {
					var who, got int
					err := db.QueryRow(fmt.Sprintf("select %d, $1::int", n), i).Scan(&who, &got)
					if err != nil || who != n || got != i {
						t.Errorf("client %d, call %d: %d, %d, %v", n, i, who, got, err)
						return
					}
					if err := st.QueryRow(i).Scan(&who, &got); err != nil || who != n || got != i {
						t.Errorf("client %d, prepared, call %d: %d, %d, %v", n, i, who, got, err)
						return
					}
				}
			})
		}
		wg.Wait()
		if n := named(t, client(t, b, "sslmode", tls)); n != 0 {
			t.Errorf("%d statements on the server", n)
		}
	}
}

// What only forwards bytes leaves the process that greets in place. Under TLS
// the greeting cannot be read, and the ports do not agree: no cache.
func TestTheProofThroughAForwarder(t *testing.T) {
	t.Parallel()
	proxy, err := faultnet.New(server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	for tls, want := range map[string]int{"disable": 1, "require": 0} {
		db := open(t, "host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "sslmode", tls, "max_open_conns", "1")
		for range 5 {
			askFor(t, db, "select $1::int", 7)
		}
		if n := named(t, db); n != want {
			t.Errorf("%s: %d statements, want %d", tls, n, want)
		}
	}
	db := open(t, "host", server.SocketDir(), "sslmode", "disable", "max_open_conns", "1")
	for range 5 {
		askFor(t, db, "select $1::int", 7)
	}
	if n := named(t, db); n != 1 {
		t.Errorf("Unix socket: %d statements", n)
	}
}
