package pgpooled_test

import (
	"database/sql"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// client is a pool of one session through a PgBouncer, and what it logs.
func client(t *testing.T, b *pgtest.Bouncer, kv ...string) (*sql.DB, *journal) {
	t.Helper()
	log := &journal{min: slog.LevelInfo}
	db, err := pgpooled.Open(b.DSN(append([]string{"max_open_conns", "1"}, kv...)...), log.option())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db, log
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
// TLS. Where it is forced on, a name that is taken switches it off.
func TestTwoClientsOfAPoolerNeverRunEachOthersStatement(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"transaction", "session"} {
		for _, tls := range []string{"disable", "require"} {
			for _, how := range []string{"", "pgbouncer=true", "statement_cache_capacity=10"} {
				t.Run(mode+" "+tls+" "+how, func(t *testing.T) {
					t.Parallel()
					size := 1
					if mode == "session" {
						size = 2
					}
					b := pgtest.BouncerT(t, server, pgtest.BouncerOptions{Mode: mode, Size: size})
					kv := []string{"sslmode", tls}
					if key, v, ok := strings.Cut(how, "="); ok {
						kv = append(kv, key, v)
					}
					one, _ := client(t, b, kv...)
					two, log := client(t, b, kv...)
					if wrong, failed := takingTurns(t, one, two); wrong+failed > 0 {
						t.Errorf("%d answers of somebody else, %d errors", wrong, failed)
					}
					// Without TLS it can be told for certain, and is said once.
					warned := 0
					if how == "" && tls == "disable" {
						warned = 1
					}
					eventually(t, "one warning of a pooler, if any", func() bool { return log.count("there is a pooler") == warned })
					kept, off := named(t, one), log.count("statement cache is off")
					switch forced := strings.HasPrefix(how, "statement_cache"); {
					case forced && mode == "transaction":
						eventually(t, "one warning", func() bool { return log.count("statement cache is off") == 1 })
					case forced != (kept > 0) || off > 0:
						t.Errorf("%d statements on the server, %d warnings", kept, off)
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
	b := pgtest.BouncerT(t, server, pgtest.BouncerOptions{Mode: "transaction", Size: 2})
	for _, tls := range []string{"disable", "require"} {
		var wg sync.WaitGroup
		for n := range 3 {
			db, _ := client(t, b, "sslmode", tls, "pgbouncer", "true")
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
		db, _ := client(t, b, "sslmode", tls)
		if n := named(t, db); n != 0 {
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
