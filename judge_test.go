package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// through opens a database behind a proxy that can break the connection.
func through(t *testing.T, s *pgtest.Server, kv ...string) (*sql.DB, *faultnet.Proxy) {
	t.Helper()
	return throughWith(t, s, nil, kv...)
}

func throughWith(t *testing.T, s *pgtest.Server, opts []pgpooled.Option, kv ...string) (*sql.DB, *faultnet.Proxy) {
	t.Helper()
	proxy, err := faultnet.New(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	name := app()
	db, err := pgpooled.Open(s.DSN(append([]string{"host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "application_name", name}, kv...)...), append([]pgpooled.Option{quiet}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		// The proxy may keep the server's side of a connection that it cut.
		proxy.Close()
		if err := s.AwaitSessions(testContext(t), name, 0); err != nil {
			t.Error(err)
		}
	})
	return db, proxy
}

// counted is Bytes when all that was forwarded is counted: the peer may be
// quicker than the count.
func counted(proxy *faultnet.Proxy, dir faultnet.Direction) int {
	proxy.Freeze()
	defer proxy.Thaw()
	return proxy.Bytes(dir)
}

// The statement reaches the server, its answer is lost: lib/pq reports
// driver.ErrBadConn here and database/sql inserts a second row (lib/pq #939).
func TestAnInsertWhoseAnswerIsLostIsInsertedOnceAndReportedUnknown(t *testing.T) {
	t.Parallel()
	for _, tls := range []string{"disable", "require"} {
		for name, cut := range map[string]faultnet.Action{"FIN": faultnet.CutClient, "RST": faultnet.ResetClient} {
			for _, args := range [][]any{nil, {1}} {
				t.Run(fmt.Sprintf("%s/%s/%dargs", tls, name, len(args)), func(t *testing.T) {
					t.Parallel()
					table := newTable(t)
					mustExec(t, server.Admin(), "alter table "+table+" drop constraint "+table+"_pkey")
					db, proxy := through(t, server, "sslmode", tls)
					if err := db.Ping(); err != nil {
						t.Fatal(err)
					}
					query, after := "insert into "+table+" values (1)", 0
					if args != nil {
						query = "insert into " + table + " values ($1)"
						// The answer to Parse, which passes, has 26 bytes, and 22 more under TLS.
						after = map[string]int{"disable": 30, "require": 60}[tls]
					}
					proxy.Arm(faultnet.ToClient, after, cut)
					_, err := db.Exec(query, args...)
					var unknown *pgpooled.OutcomeUnknownError
					if !errors.As(err, &unknown) || errors.Is(err, driver.ErrBadConn) || unknown.Sent <= 0 {
						t.Fatalf("got %T %v", err, err)
					}
					if !errors.Is(err, io.EOF) && name == "FIN" {
						t.Errorf("the error does not name the cause: %v", err)
					}
					if _, err := db.Exec("select 1"); err != nil {
						t.Errorf("the pool is of no use afterwards: %v", err)
					}
					if n := queryInt(t, server.Admin(), "select count(*) from "+table); n > 1 || args == nil && n != 1 {
						t.Errorf("%d rows", n)
					}
				})
			}
		}
	}
}

// Every byte of the exchange, both ways: never two rows, never nil without one.
func TestAnInsertCutAtAnyByteIsNeverRepeatedAndNeverFalselyDone(t *testing.T) {
	t.Parallel()
	for _, args := range [][]any{nil, {1}} {
		for _, dir := range []faultnet.Direction{faultnet.ToServer, faultnet.ToClient} {
			t.Run(fmt.Sprintf("%dargs/%v", len(args), dir), func(t *testing.T) {
				t.Parallel()
				table := newTable(t)
				mustExec(t, server.Admin(), "alter table "+table+" drop constraint "+table+"_pkey")
				query := "insert into " + table + " values (1)"
				if args != nil {
					query = "insert into " + table + " values ($1)"
				}
				db, proxy := through(t, server)
				unknown, lost := 0, 0
				for after := 0; ; after++ {
					if err := db.Ping(); err != nil {
						t.Fatal(err)
					}
					before := queryInt(t, server.Admin(), "select count(*) from "+table)
					fired := proxy.Fired()
					proxy.Arm(dir, after, faultnet.CutClient)
					_, err := db.Exec(query, args...)
					proxy.Disarm()
					var u *pgpooled.OutcomeUnknownError
					rows := queryInt(t, server.Admin(), "select count(*) from "+table) - before
					switch {
					case err == nil && rows == 1:
					case errors.As(err, &u) && (rows == 0 || rows == 1):
						unknown++
					default:
						t.Fatalf("cut after byte %d: %d rows, %T %v", after, rows, err, err)
					}
					if err == nil && proxy.Fired() == fired {
						break // past the end of the exchange
					}
					lost++
				}
				if lost < 20 || unknown == 0 {
					t.Errorf("only %d cuts, %d unknown outcomes", lost, unknown)
				}
			})
		}
	}
}

func TestAStatementInATransactionWhoseConnectionIsLostSaysSo(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	db, proxy := through(t, server)
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "insert into "+table+" values (1)")
	proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	_, err = tx.Exec("insert into " + table + " values (2)")
	var lost *pgpooled.ConnLostError
	if !errors.As(err, &lost) || !lost.InTx || errors.Is(err, driver.ErrBadConn) {
		t.Fatalf("got %T %v", err, err)
	}
	if err := tx.Commit(); err == nil {
		t.Error("COMMIT of a lost transaction succeeded")
	}
	eventually(t, "the server rolled back", func() bool { return queryInt(t, server.Admin(), "select count(*) from "+table) == 0 })
}

func TestACommitWhoseAnswerIsLostIsUnknown(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	db, proxy := through(t, server)
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "insert into "+table+" values (1)")
	proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	var unknown *pgpooled.OutcomeUnknownError
	if err := tx.Commit(); !errors.As(err, &unknown) || unknown.Op != "commit" {
		t.Fatalf("got %T %v", err, err)
	}
	eventually(t, "the server committed", func() bool { return queryInt(t, server.Admin(), "select count(*) from "+table) == 1 })
}

func TestBeginAndPrepareAreRepeatedOnAnotherConnection(t *testing.T) {
	t.Parallel()
	db, proxy := through(t, server)
	for name, call := range map[string]func() error{
		"ping": db.Ping,
		"begin": func() error {
			tx, err := db.Begin()
			if err == nil {
				err = tx.Rollback()
			}
			return err
		},
		"prepare": func() error {
			st, err := db.Prepare("select 1")
			if err == nil {
				err = st.Close()
			}
			return err
		},
	} {
		if err := db.Ping(); err != nil {
			t.Fatal(err)
		}
		fired := proxy.Fired()
		proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if proxy.Fired() == fired {
			t.Errorf("%s: nothing was cut", name)
		}
	}
}

func TestIdleSessionsThatTheServerClosedAreNeverHandedOut(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{TLS: true})
	for _, tls := range []string{"disable", "require"} {
		for _, mode := range []string{"fast", "immediate", "kill"} {
			db, _ := openOn(t, s, "sslmode", tls, "pool_timeout", "30s", "min_idle_conns", "4")
			eventually(t, "four warm sessions", func() bool { return stats(t, db).Idle == 4 })
			if mode == "kill" {
				if err := s.Down(mode); err != nil {
					t.Fatal(err)
				}
				if err := s.Up(testContext(t)); err != nil {
					t.Fatal(err)
				}
			} else if err := s.Restart(testContext(t), mode); err != nil {
				t.Fatal(err)
			}
			for range 8 {
				if _, err := db.Exec("select 1"); err != nil {
					t.Errorf("%s after restart %s: %v", tls, mode, err)
				}
			}
			if st := stats(t, db); st.ClosedDead == 0 || st.OutcomesUnknown != 0 {
				t.Errorf("%s after restart %s: %+v", tls, mode, st)
			}
			db.Close()
		}
	}
}

func TestACallWhoseContextEndsReturnsOnASilentNetwork(t *testing.T) {
	t.Parallel()
	for _, tls := range []string{"disable", "require"} {
		db, proxy := through(t, server, "sslmode", tls, "cancel_grace", "200ms")
		for name, call := range map[string]func(context.Context) error{
			"ping": db.PingContext,
			"exec": func(ctx context.Context) error { _, err := db.ExecContext(ctx, "select 1"); return err },
			"exec with argument": func(ctx context.Context) error {
				_, err := db.ExecContext(ctx, "select $1::int", 1)
				return err
			},
			"begin": func(ctx context.Context) error { _, err := db.BeginTx(ctx, nil); return err },
		} {
			if err := db.Ping(); err != nil {
				t.Fatal(err)
			}
			proxy.Freeze()
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			done := make(chan error, 1)
			go func() { done <- call(ctx) }()
			select {
			case err := <-done:
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s, %s: %v", name, tls, err)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%s, %s: hangs", name, tls)
			}
			cancel()
			proxy.Thaw()
		}
	}
}

func TestAStatementIsCancelledOnTheServerAndItsSessionDiscarded(t *testing.T) {
	t.Parallel()
	for _, tls := range []string{"disable", "require"} {
		db := open(t, "sslmode", tls, "max_open_conns", "1")
		pid := queryInt(t, db, "select pg_backend_pid()")
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		_, err := db.ExecContext(ctx, "select pg_sleep(60)")
		cancel()
		var answer *pq.Error
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &answer) || answer.Code != "57014" {
			t.Errorf("%s: %T %v", tls, err, err)
		}
		if now := queryInt(t, db, "select pg_backend_pid()"); now == pid {
			t.Errorf("%s: the session was used again", tls)
		}
	}
}

// The transaction's context ends while a statement runs that has none.
func TestTheContextOfATransactionEndsItsStatements(t *testing.T) {
	t.Parallel()
	db := open(t)
	if err := db.Ping(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("select pg_sleep(60)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %T %v", err, err)
	}
	if err := tx.Commit(); err == nil {
		t.Error("COMMIT succeeded")
	}
}
