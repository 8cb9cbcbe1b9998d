package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

func raise(tx *sql.Tx, code string) error {
	_, err := tx.Exec("do $$ begin raise exception using errcode = '" + code + "'; end $$")
	return err
}

func TestRunTxRepeatsWhatTheServerRolledBack(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"40001", "40P01"} {
		table := looseTable(t)
		db := open(t, "retry_base_delay", "1ms")
		calls := 0
		err := pgpooled.RunTx(testContext(t), db, nil, func(tx *sql.Tx) error {
			calls++
			if _, err := tx.Exec("insert into " + table + " values (1)"); err != nil {
				return err
			}
			if calls < 3 {
				return fmt.Errorf("wrapped: %w", raise(tx, code))
			}
			return nil
		})
		if err != nil || calls != 3 || rowsIn(t, table) != 1 || stats(t, db).TxRepeated != 2 {
			t.Errorf("%s: %v after %d calls, %d rows, %+v", code, err, calls, rowsIn(t, table), stats(t, db))
		}
	}
}

// Write skew that PostgreSQL finds at COMMIT, from many sides at once.
func TestRunTxRepeatsSerializationFailuresOfCommit(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	mustExec(t, server.Admin(), "insert into "+table+" values (1, '0')")
	db := open(t, "commit_check", "ledger", "max_open_conns", "4", "retry_base_delay", "1ms")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 5 {
				err := pgpooled.RunTx(testContext(t), db, &sql.TxOptions{Isolation: sql.LevelSerializable}, func(tx *sql.Tx) error {
					var v int
					if err := tx.QueryRow("select v::int from " + table + " where id = 1").Scan(&v); err != nil {
						return err
					}
					_, err := tx.Exec(fmt.Sprintf("update %s set v = '%d' where id = 1", table, v+1))
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if n := queryInt(t, server.Admin(), "select v::int from "+table); n != 20 {
		t.Errorf("counted to %d instead of 20", n)
	}
}

// The connection is cut at every byte of the whole transaction, in both
// directions: one row each, whatever happens.
func TestRunTxCutAnywhereInsertsOnce(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		table := looseTable(t)
		db, proxy := through(t, server, "commit_check", mode, "max_open_conns", "1", "retry_base_delay", "1ms", "sslmode", "disable", "pool_timeout", "30s")
		step := 7
		if long {
			step = 1
		}
		repeated, missed := 0, 0
		for after := 0; missed < 4; after += step {
			for _, dir := range []faultnet.Direction{faultnet.ToServer, faultnet.ToClient} {
				id, calls := 2*after+int(dir), 0
				fired := proxy.Fired()
				proxy.Arm(dir, after, faultnet.CutClient)
				err := pgpooled.RunTx(testContext(t), db, nil, func(tx *sql.Tx) error {
					calls++
					_, err := tx.Exec(fmt.Sprintf("insert into %s values (%d)", table, id))
					return err
				})
				proxy.Disarm()
				if missed++; proxy.Fired() > fired {
					missed = 0
				}
				if calls > 1 {
					repeated++
				}
				if n := queryInt(t, server.Admin(), fmt.Sprintf("select count(*) from %s where id = %d", table, id)); err != nil || n != 1 {
					t.Errorf("%s after %d: %d rows after %d calls, %v", dir, after, n, calls, err)
				}
			}
		}
		if s := stats(t, db); repeated == 0 || int(s.TxRepeated) < repeated || s.LostCommitted == 0 || s.InUse != 0 {
			t.Errorf("%d repeated; %+v", repeated, s)
		}
	})
}

// What cannot be found out is not repeated, unless it only reads.
func TestRunTxRepeatsAnUnknownOutcomeOnlyIfItReads(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	channel := fmt.Sprintf("channel%d", appCount.Add(1))
	db, proxy := through(t, server, "sslmode", "disable", "retry_base_delay", "1ms", "max_open_conns", "1")
	run := func(opts *sql.TxOptions, query string) (calls int, err error) {
		// What Commit gets, as RunTx does it.
		tx, err := db.BeginTx(pgpooled.WithCommitCheck(testContext(t)), opts)
		must(t, err)
		mustExec(t, tx, query)
		_, before := bytesOf(proxy)
		must(t, tx.Commit())
		_, after := bytesOf(proxy)
		err = pgpooled.RunTx(testContext(t), db, opts, func(tx *sql.Tx) error {
			calls++
			_, err := tx.Exec(query)
			if calls == 1 {
				proxy.Arm(faultnet.ToClient, after-before-1, faultnet.CutClient)
			}
			return err
		})
		proxy.Disarm()
		return calls, err
	}
	calls, err := run(&sql.TxOptions{ReadOnly: true}, "select * from "+table)
	if err != nil || calls != 2 {
		t.Errorf("read only: %d calls, %v", calls, err)
	}
	calls, err = run(nil, "notify "+channel)
	asUnknown(t, err)
	if calls != 1 {
		t.Errorf("notify: %d calls", calls)
	}
}

// An unknown outcome that f brings from elsewhere is f's own error: not the fate of
// this transaction, and nothing that may be done twice.
func TestRunTxDoesNotRepeatAnUnknownOutcomeOfAnotherTransaction(t *testing.T) {
	t.Parallel()
	db := open(t, "retry_base_delay", "1ms")
	elsewhere := &pgpooled.OutcomeUnknownError{Op: "commit", Cause: errors.New("another database")}
	calls := 0
	err := pgpooled.RunTx(testContext(t), db, &sql.TxOptions{ReadOnly: true}, func(*sql.Tx) error {
		if calls++; calls > 3 {
			return errors.New("again and again")
		}
		return elsewhere
	})
	if err != elsewhere || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func TestRunTxPassesPanicsAndExits(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	db := open(t, "max_open_conns", "1")
	type mine struct{ n int }
	insert := func(tx *sql.Tx) { mustExec(t, tx, "insert into "+table+" values (1)") }
	func() {
		defer func() {
			if v := recover(); v != (mine{7}) {
				t.Errorf("recovered %v", v)
			}
		}()
		_ = pgpooled.RunTx(testContext(t), db, nil, func(tx *sql.Tx) error { insert(tx); panic(mine{7}) })
	}()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = pgpooled.RunTx(testContext(t), db, nil, func(tx *sql.Tx) error { insert(tx); runtime.Goexit(); return nil })
	}()
	<-gone
	if n, s := rowsIn(t, table), stats(t, db); n != 0 || s.InUse != 0 || queryInt(t, db, "select 1") != 1 {
		t.Errorf("%d rows, %+v", n, s)
	}
}

func TestRunTxReturnsAnErrorOfItsFunctionAsItIs(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	db := open(t, "max_open_conns", "1")
	own := errors.New("own")
	calls := 0
	do := func(f func(*sql.Tx) error) error {
		calls = 0
		return pgpooled.RunTx(testContext(t), db, nil, func(tx *sql.Tx) error {
			calls++
			mustExec(t, tx, "insert into "+table+" values (1)")
			return f(tx)
		})
	}
	if err := do(func(*sql.Tx) error { return own }); err != own || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
	err := do(func(tx *sql.Tx) error { return raise(tx, "23514") })
	if answer, ok := err.(*pq.Error); !ok || answer.Code != "23514" || calls != 1 {
		t.Errorf("%d calls, %T %v", calls, err, err)
	}
	if err := do(func(tx *sql.Tx) error { _ = raise(tx, "23514"); return nil }); err != pq.ErrInFailedTransaction || calls != 1 {
		t.Errorf("%d calls, %T %v", calls, err, err)
	}
	if err := do(func(tx *sql.Tx) error { return tx.Rollback() }); err != sql.ErrTxDone || calls != 1 {
		t.Errorf("%d calls, %T %v", calls, err, err)
	}
	if n := rowsIn(t, table); n != 0 {
		t.Errorf("%d rows", n)
	}
	// f must not end the transaction. If it does, it is at least not done twice.
	mustExec(t, server.Admin(), "alter table "+table+" drop constraint "+table+"_pkey")
	if err := do(func(tx *sql.Tx) error { _, err := tx.Exec("commit"); return err }); err == nil || calls != 1 || rowsIn(t, table) != 1 {
		t.Errorf("%d calls, %d rows, %v", calls, rowsIn(t, table), err)
	}
}

func TestRunTxEndsWithItsContextAndItsAttempts(t *testing.T) {
	t.Parallel()
	db := open(t, "retry_max_attempts", "3", "retry_base_delay", "1ms")
	calls := 0
	fail := func(tx *sql.Tx) error { calls++; return raise(tx, "40001") }
	err := pgpooled.RunTx(testContext(t), db, nil, fail)
	var (
		attempts *pgpooled.AttemptsError
		answer   *pq.Error
	)
	if !errors.As(err, &attempts) || attempts.Attempts != 3 || calls != 3 || !errors.As(err, &answer) || answer.Code != "40001" {
		t.Errorf("%d calls, %v", calls, err)
	}

	// The only attempt's error stays the server's own.
	once := open(t, "retry_max_attempts", "1")
	err = pgpooled.RunTx(testContext(t), once, nil, fail)
	if answer, ok := err.(*pq.Error); !ok || answer.Code != "40001" || calls != 4 {
		t.Errorf("%d calls, %T %v", calls, err, err)
	}

	// The context ends in f, and in the pause.
	ctx, cancel := context.WithCancel(context.Background())
	calls = 0
	err = pgpooled.RunTx(ctx, db, nil, func(tx *sql.Tx) error {
		calls++
		cancel()
		_, err := tx.ExecContext(ctx, "select 1")
		return err
	})
	if !errors.Is(err, context.Canceled) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
	slow := open(t, "retry_base_delay", "1m", "retry_max_delay", "1h")
	ctx, cancel = context.WithCancel(context.Background())
	defer cancel()
	err = pgpooled.RunTx(ctx, slow, nil, func(tx *sql.Tx) error {
		go func() {
			eventually(t, "it pauses", func() bool { return stats(t, slow).TxRepeated == 1 })
			cancel()
		}()
		return raise(tx, "40001")
	})
	if !errors.Is(err, context.Canceled) || !errors.As(err, &answer) {
		t.Errorf("%v", err)
	}
	if s := stats(t, db); s.InUse != 0 {
		t.Errorf("%+v", s)
	}
}

// Any *sql.DB will do; without pgpooled below a lost COMMIT is lib/pq's business.
func TestRunTxOnAnotherDriver(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	db, err := sql.Open("postgres", server.DSN("application_name", app()))
	must(t, err)
	defer db.Close()
	calls := 0
	err = pgpooled.RunTx(testContext(t), db, nil, func(tx *sql.Tx) error {
		calls++
		mustExec(t, tx, "insert into "+table+" values (1)")
		if calls < 3 {
			return raise(tx, "40P01")
		}
		return nil
	})
	if err != nil || calls != 3 || rowsIn(t, table) != 1 {
		t.Errorf("%d calls, %d rows, %v", calls, rowsIn(t, table), err)
	}
}
