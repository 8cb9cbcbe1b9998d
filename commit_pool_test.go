package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// One session for everybody, and each connection dies somewhere: no caller waits
// for a slot that its own question needs, and each is told the truth.
func TestLostCommitsOfManyCallersOnOneSession(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		const dying = 40
		table := looseTable(t)
		cuts := rand.Perm(800) // where each connection dies
		db, proxy := through(t, server, "commit_check", mode, "max_open_conns", "1", "pool_timeout", "60s", "sslmode", "disable")
		must(t, begun(t, testContext(t), db).Commit()) // the ledger is there
		enough := func() bool {                        // connections have died, one of them in a COMMIT
			s := stats(t, db)
			return proxy.Dials() > dying && s.LostCommitted+s.LostAborted > 0
		}
		proxy.SetScript(func(conn int) faultnet.Script {
			if enough() {
				return nil
			}
			return faultnet.Script{{Dir: faultnet.ToClient, After: 400 + cuts[conn%len(cuts)], Do: faultnet.CutBoth}}
		})
		proxy.CutAll(false)
		var (
			mu            sync.Mutex
			callers       sync.WaitGroup
			done, notDone int
		)
		for caller := range 8 {
			callers.Go(func() {
				for n := 0; !enough(); n++ {
					id := caller*1000 + n
					committed, err := insertOnce(db, table, id)
					rows := -1
					if rerr := server.Admin().QueryRow(fmt.Sprintf("select count(*) from %s where id = %d", table, id)).Scan(&rows); rerr != nil {
						t.Error(rerr)
					}
					if committed && rows != 1 || !committed && rows != 0 {
						t.Errorf("%d: %d rows, %v", id, rows, err)
					}
					mu.Lock()
					if committed {
						done++
					} else {
						notDone++
					}
					mu.Unlock()
				}
			})
		}
		callers.Wait()
		s := stats(t, db)
		if s.OutcomesUnknown != 0 || s.LostCommitted+s.LostAborted == 0 || s.PeakInUse > 1 || s.InUse != 0 {
			t.Errorf("%+v", s)
		}
		t.Logf("%d done, %d not; of lost COMMITs %d were committed, %d not", done, notDone, s.LostCommitted, s.LostAborted)
	})
}

// insertOnce says what the caller would believe.
func insertOnce(db *sql.DB, table string, id int) (committed bool, err error) {
	tx, err := db.Begin()
	if err != nil {
		return false, err
	}
	defer tx.Rollback()
	if _, err := tx.Exec(fmt.Sprintf("insert into %s values (%d)", table, id)); err != nil {
		return false, err
	}
	err = tx.Commit()
	return err == nil, err
}

// Everybody else holds on to the sessions: the question waits as long as
// pool_timeout, says so, and can be put later.
func TestLostCommitInAFullPool(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		table := looseTable(t)
		db, proxy := through(t, server, "commit_check", mode, "max_open_conns", "2", "pool_timeout", "1s", "sslmode", "disable")
		_, got := commitBytes(t, db, proxy)
		tx := begun(t, testContext(t), db)
		mustExec(t, tx, "insert into "+table+" values (1)")
		held := pinned(t, db)
		must(t, held.PingContext(testContext(t)))
		waiting := make(chan *sql.Conn, 1)
		go func() { // the first in line gets the lost session's slot
			conn, err := db.Conn(testContext(t))
			if err == nil {
				err = conn.PingContext(testContext(t))
			}
			if err != nil {
				t.Error(err)
			}
			waiting <- conn
		}()
		eventually(t, "somebody waits", func() bool { return stats(t, db).Waiting == 1 })
		proxy.Arm(faultnet.ToClient, got-1, faultnet.CutClient)
		err := tx.Commit()
		proxy.Disarm()
		unknown := asUnknown(t, err)
		// The question's own time is as long; either may be over first.
		if full := (*pgpooled.PoolTimeoutError)(nil); !errors.As(unknown.Check, &full) || full.InUse != 2 {
			t.Errorf("check: %v", unknown.Check)
		}
		conn := <-waiting
		if conn == nil {
			t.FailNow()
		}
		must(t, conn.Close())
		if committed, err := unknown.Resolve(testContext(t)); err != nil || !committed {
			t.Errorf("Resolve: %t, %v", committed, err)
		}
	})
}

// db.Close does not wait for a question that may take long, and the question ends.
func TestCloseWhileTheFateOfACommitIsLookedFor(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		for _, silent := range []bool{false, true} {
			g := newGate(t, server)
			db, proxy := through(t, server, "commit_check", mode, "max_open_conns", "1", "pool_timeout", "50s", "close_timeout", "300ms")
			tx := begun(t, testContext(t), db)
			pid := pidOf(t, tx)
			mustExec(t, tx, "insert into "+g.table+" values (1)")
			done := committing(tx)
			awaitWaiting(t, server, pid)
			proxy.Cut(faultnet.CutClient)
			if silent {
				proxy.Freeze()
			} else {
				eventually(t, "another session asks", func() bool { return stats(t, db).Opens == 2 })
			}
			closed := make(chan error, 1)
			go func() { closed <- db.Close() }()
			unknown := asUnknown(t, result(t, done))
			if unknown.Check == nil {
				t.Error(unknown)
			}
			<-closed // cut or not: the question was a lease
			if committed, err := unknown.Resolve(testContext(t)); committed || !errors.Is(err, pgpooled.ErrClosed) {
				t.Errorf("Resolve after Close: %t, %v", committed, err)
			}
			proxy.Thaw()
			g.open()
			awaitBackendEnd(t, server, pid)
		}
	})
}

// The network is silent when Commit asks on a session that was idle: the caller is
// back within the grace of its context, which the question must not have twice.
func TestLostCommitOnASilentNetworkReturnsWithinTheGrace(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		const grace = 2 * time.Second
		table := looseTable(t)
		db, proxy := through(t, server, "commit_check", mode, "cancel_grace", grace.String(), "max_open_conns", "2", "sslmode", "disable")
		a, b := pinned(t, db), pinned(t, db)
		must(t, a.PingContext(testContext(t)))
		must(t, b.PingContext(testContext(t)))
		must(t, a.Close())
		must(t, b.Close())
		n, _ := commitBytes(t, db, proxy)
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		tx := begun(t, ctx, db)
		mustExec(t, tx, "insert into "+table+" values (1)")
		if s := stats(t, db); s.Idle != 1 {
			t.Fatalf("%+v", s)
		}
		proxy.Arm(faultnet.ToServer, n-1, faultnet.Stall)
		done := committing(tx)
		must(t, proxy.AwaitFired(testContext(t), 1))
		proxy.Freeze()
		cancel()
		start := time.Now()
		unknown := asUnknown(t, result(t, done))
		// Twice the grace if the question has a whole one of its own.
		if took := time.Since(start); took > grace*7/4 || unknown.Check == nil {
			t.Errorf("after %s: %v", took, unknown)
		}
		proxy.Thaw()
		if committed, err := unknown.Resolve(testContext(t)); err != nil || committed != (rowsIn(t, table) == 1) {
			t.Errorf("Resolve: %t, %v; %d rows", committed, err, rowsIn(t, table))
		}
	})
}

// A pinned conn whose COMMIT was lost answers with an error that says so, never
// from a session of somebody else's, and so do its statements.
func TestPinnedConnAfterALostCommit(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		for _, how := range []string{"cut", "terminated"} {
			g := newGate(t, server)
			db, proxy := through(t, server, "commit_check", mode, "sslmode", "disable", "pool_timeout", "20s")
			conn := pinned(t, db)
			mustExec(t, conn, "set application_name = 'test-mine'")
			pid := pidOf(t, conn)
			st := prepared(t, conn, "select current_setting('application_name')")
			tx, err := conn.BeginTx(testContext(t), nil)
			must(t, err)
			inTx := prepared(t, tx, "select 1")
			mustExec(t, tx, "insert into "+g.table+" values (1)")
			done := committing(tx)
			awaitWaiting(t, server, pid)
			if how == "cut" {
				proxy.Cut(faultnet.CutClient)
				g.open()
				if err := result(t, done); err != nil {
					t.Error(err)
				}
			} else {
				mustExec(t, server.Admin(), "select pg_terminate_backend($1)", pid)
				asLost(t, result(t, done))
				g.open()
			}
			for range 3 {
				var name string
				if err := st.QueryRow().Scan(&name); err == nil {
					t.Errorf("%s: the statement ran on the session %q", how, name)
				}
				if err := conn.QueryRowContext(testContext(t), "select current_setting('application_name')").Scan(&name); err == nil {
					t.Errorf("%s: the conn has the session %q", how, name)
				}
				if _, err := conn.BeginTx(testContext(t), nil); err == nil {
					t.Errorf("%s: the conn begins", how)
				}
			}
			_ = inTx.Close()
			_ = st.Close()
			_ = conn.Close()
			if s := stats(t, db); s.InUse != 0 {
				t.Errorf("%+v", s)
			}
			if n := queryInt(t, db, "select 1"); n != 1 {
				t.Error(n)
			}
		}
	})
}

// The context chooses the way per transaction; a read-only one has nothing to find.
func TestCommitCheckIsChosenPerTransaction(t *testing.T) {
	t.Parallel()
	dbname := server.Database(t)
	table := "truth"
	mustExec(t, open(t, "dbname", dbname), "create table truth (id int)")
	for i, test := range []struct {
		dsn    string
		with   func(context.Context) context.Context
		known  bool
		tokens bool
	}{
		{"off", func(ctx context.Context) context.Context { return ctx }, false, false},
		{"off", pgpooled.WithCommitCheck, true, false},
		{"off", pgpooled.WithCommitLedger, true, true},
		{"on", pgpooled.WithCommitLedger, true, true},
		{"ledger", pgpooled.WithCommitCheck, true, true},
	} {
		db, proxy := through(t, server, "dbname", dbname, "commit_check", test.dsn, "sslmode", "disable", "max_open_conns", "1")
		tokens := func() int {
			if queryInt(t, db, "select count(*) from pg_class where relname = 'pgpooled_ledger'") == 0 {
				return 0
			}
			return queryInt(t, db, "select count(*) from pgpooled_ledger")
		}
		before := tokens()
		run := func(ready func(*sql.Tx)) (got int, err error) {
			tx := begun(t, test.with(testContext(t)), db)
			mustExec(t, tx, "insert into "+table+" values (1)")
			ready(tx)
			_, b := bytesOf(proxy)
			err = tx.Commit()
			_, a := bytesOf(proxy)
			return a - b, err
		}
		got, err := run(func(*sql.Tx) {})
		must(t, err)
		_, err = run(func(*sql.Tx) { proxy.Arm(faultnet.ToClient, got-1, faultnet.CutClient) })
		proxy.Disarm()
		if test.known {
			if err != nil {
				t.Errorf("%d: %v", i, err)
			}
		} else if unknown := asUnknown(t, err); unknown.Check != nil {
			t.Errorf("%d: %v", i, unknown)
		} else if _, err := unknown.Resolve(testContext(t)); err == nil {
			t.Errorf("%d: resolved without a check", i)
		}
		if n := tokens() - before; n != 0 != test.tokens {
			t.Errorf("%d: %d tokens", i, n)
		}
	}
}
