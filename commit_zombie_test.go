package pgpooled_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// The connection is lost while the server works on the COMMIT. Commit waits for
// how it ends.
func TestCommitFateOfATransactionThatIsStillCommitting(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		for _, ends := range []string{"commits", "is cancelled", "is terminated"} {
			t.Run(ends, func(t *testing.T) {
				t.Parallel()
				g := newGate(t, server)
				db, proxy := through(t, server, "commit_check", mode, "max_open_conns", "1", "pool_timeout", "30s", "sslmode", "disable")
				tx := begun(t, testContext(t), db)
				pid := pidOf(t, tx)
				mustExec(t, tx, "insert into "+g.table+" values (1)")
				done := committing(tx)
				awaitWaiting(t, server, pid)
				proxy.Cut(faultnet.CutClient)
				must(t, proxy.AwaitDials(testContext(t), 2))
				eventually(t, "another session asks", func() bool { return stats(t, db).Opens == 2 })
				select {
				case err := <-done:
					t.Fatalf("it cannot be known yet: %v", err)
				default:
				}
				switch ends {
				case "commits":
					g.open()
				case "is cancelled":
					mustExec(t, server.Admin(), "select pg_cancel_backend($1)", pid)
				case "is terminated":
					mustExec(t, server.Admin(), "select pg_terminate_backend($1)", pid)
				}
				err := result(t, done)
				if ends == "commits" {
					if err != nil || rowsIn(t, g.table) != 1 {
						t.Errorf("%d rows, %v", rowsIn(t, g.table), err)
					}
				} else if asLost(t, err); rowsIn(t, g.table) != 0 {
					t.Errorf("it was committed, and told %v", err)
				}
				if s := stats(t, db); s.LostCommitted+s.LostAborted != 1 || s.OutcomesUnknown != 0 {
					t.Errorf("%+v", s)
				}
			})
		}
	})
}

// The last byte of the COMMIT is late. Once the caller was told "not committed"
// it must not be committed any more.
func TestCommitThatComesLateIsRefused(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		table := looseTable(t)
		db, proxy := through(t, server, "commit_check", mode, "socket_timeout", "300ms", "pool_timeout", "30s", "sslmode", "disable")
		n, _ := commitBytes(t, db, proxy)
		tx := begun(t, testContext(t), db)
		pid := pidOf(t, tx)
		mustExec(t, tx, "insert into "+table+" values (1)")
		proxy.Arm(faultnet.ToServer, n-1, faultnet.Stall)
		asLost(t, tx.Commit())
		proxy.Thaw()
		awaitBackendEnd(t, server, pid)
		if n := rowsIn(t, table); n != 0 {
			t.Errorf("%d rows after \"not committed\"", n)
		}
	})
}

// The answer to the fence's own COMMIT is lost, wherever it is cut: asked again,
// it must not take its own row for the transaction's.
func TestCommitFateWhenTheQuestionIsCutToo(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		table := looseTable(t)
		db, proxy := through(t, server, "commit_check", mode, "pool_timeout", "30s", "sslmode", "disable", "max_open_conns", "1")
		n, _ := commitBytes(t, db, proxy)
		lost := 0
		for id := range 20 {
			tx := begun(t, testContext(t), db)
			mustExec(t, tx, fmt.Sprintf("insert into %s values (%d)", table, id))
			all := id % 2
			proxy.Arm(faultnet.ToServer, n-1+all, faultnet.CutBoth)
			fired, dials := proxy.Fired(), proxy.Dials()
			proxy.SetScript(func(conn int) faultnet.Script {
				switch conn - dials {
				case 0: // the startup takes 100 to 300 bytes each way, the question more
					return faultnet.Script{{Dir: faultnet.ToClient, After: 350 + id*8, Do: faultnet.CutClient}}
				case 1:
					return faultnet.Script{{Dir: faultnet.ToServer, After: 150 + id*20, Do: faultnet.CutClient}}
				}
				return nil
			})
			err := tx.Commit()
			proxy.SetScript(nil)
			proxy.Disarm()
			if proxy.Fired() > fired+1 {
				lost++
			}
			rows := queryInt(t, server.Admin(), fmt.Sprintf("select count(*) from %s where id = %d", table, id))
			if err == nil && rows == 1 {
				continue
			}
			if asLost(t, err); rows != 0 {
				t.Errorf("%d: %d rows, %v", id, rows, err)
			}
		}
		if lost < 10 {
			t.Errorf("only %d of 20 questions were cut", lost)
		}
	})
}

// A context that ends during COMMIT: no cancel request interrupts it, the caller
// is back within the grace, and can ask later, as often as it likes.
func TestContextThatEndsDuringACheckedCommit(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		g := newGate(t, server)
		db, _ := through(t, server, "commit_check", mode, "cancel_grace", "400ms", "pool_timeout", "20s")
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		tx := begun(t, ctx, db)
		pid := pidOf(t, tx)
		mustExec(t, tx, "insert into "+g.table+" values (1)")
		done := committing(tx)
		awaitWaiting(t, server, pid)
		cancel()
		unknown := asUnknown(t, result(t, done))
		if !errors.Is(unknown, context.Canceled) || unknown.Check == nil || unknown.Op != "commit" {
			t.Errorf("%+v", unknown)
		}
		short, stop := context.WithTimeout(context.Background(), deadline)
		defer stop()
		if committed, err := unknown.Resolve(short); err == nil || committed {
			t.Errorf("in progress, and told %t", committed)
		}
		if committed, err := unknown.Resolve(ctx); err == nil || committed {
			t.Errorf("with a context that is over: %t", committed)
		}

		var asking sync.WaitGroup
		for range 4 {
			asking.Go(func() {
				if committed, err := unknown.Resolve(testContext(t)); err != nil || !committed {
					t.Errorf("Resolve: %t, %v", committed, err)
				}
			})
		}
		g.open()
		asking.Wait()
		if committed, err := unknown.Resolve(testContext(t)); err != nil || !committed || rowsIn(t, g.table) != 1 {
			t.Errorf("Resolve: %t, %v; %d rows", committed, err, rowsIn(t, g.table))
		}
		if s := stats(t, db); s.LostCommitted != 1 || s.LostAborted != 0 || s.OutcomesUnknown != 1 {
			t.Errorf("one COMMIT was lost and found: %d found committed, %d not, %d unknown", s.LostCommitted, s.LostAborted, s.OutcomesUnknown)
		}
		if committed, err := new(pgpooled.OutcomeUnknownError).Resolve(testContext(t)); err == nil || committed {
			t.Error("an error without a COMMIT was resolved")
		}
	})
}

// A deadline that ends before COMMIT was sent, while the check still prepares it.
func TestContextThatEndsBeforeACheckedCommitIsSent(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	db, proxy := through(t, server, "commit_check", "on", "cancel_grace", "200ms", "sslmode", "disable")
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	tx := begun(t, ctx, db)
	pid := pidOf(t, tx)
	mustExec(t, tx, "insert into "+table+" values (1)")
	proxy.Arm(faultnet.ToServer, 0, faultnet.Stall)
	done := committing(tx)
	must(t, proxy.AwaitFired(testContext(t), 1))
	cancel()
	err := result(t, done)
	if lost := asLost(t, err); lost.Sent != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v", lost)
	}
	proxy.Thaw()
	awaitBackendEnd(t, server, pid)
	if n := rowsIn(t, table); n != 0 {
		t.Errorf("%d rows", n)
	}
}
