package pgpooled_test

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// What the server, or lib/pq, says of a COMMIT reaches the caller as without the
// check, and the session serves the next one.
func TestCheckedCommitThatIsRefusedSaysWhatItAlwaysSaid(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		log := &journal{}
		table := newTable(t)
		mustExec(t, server.Admin(), "alter table "+table+" drop constraint "+table+"_pkey, add unique (id) deferrable initially deferred")
		db := openWith(t, server.DSN("application_name", app(), "commit_check", mode, "max_open_conns", "2"), log.option())
		code := func(what string, err error, want string) {
			t.Helper()
			if answer, ok := err.(*pq.Error); !ok || string(answer.Code) != want {
				t.Errorf("%s: want %s, got %T %v", what, want, err, err)
			}
		}

		tx := begun(t, testContext(t), db)
		mustExec(t, tx, "insert into "+table+" values (1), (1)")
		code("deferred constraint", tx.Commit(), "23505")

		tx = begun(t, testContext(t), db)
		mustExec(t, tx, "insert into "+table+" values (2)")
		_, err := tx.Exec("select 1/0")
		code("division", err, "22012")
		if err := tx.Commit(); err != pq.ErrInFailedTransaction { // as callers compare it
			t.Errorf("%T %v", err, err)
		}

		serial := &sql.TxOptions{Isolation: sql.LevelSerializable}
		one, err := db.BeginTx(testContext(t), serial)
		must(t, err)
		two, err := db.BeginTx(testContext(t), serial)
		must(t, err)
		for id, tx := range []*sql.Tx{one, two} {
			queryInt(t, tx, "select count(*) from "+table)
			mustExec(t, tx, fmt.Sprintf("insert into %s values (%d)", table, id+10))
		}
		must(t, one.Commit())
		code("serialization failure", two.Commit(), "40001")

		tx = begun(t, testContext(t), db)
		mustExec(t, tx, "insert into "+table+" values (3)")
		must(t, tx.Rollback())

		if n := rowsIn(t, table); n != 1 {
			t.Errorf("%d rows", n)
		}
		if s := stats(t, db); s.OutcomesUnknown+s.LostCommitted+s.LostAborted != 0 || s.Opens != 2 {
			t.Errorf("%+v", s)
		}
		if log.count("would be unknown") != 0 {
			t.Errorf("a refused COMMIT is no fault of the check: %s", log)
		}
	})
}

// The token makes no serializable transactions conflict that would not without.
func TestLedgerMakesNoConflicts(t *testing.T) {
	t.Parallel()
	db := open(t, "commit_check", "ledger", "max_open_conns", "4")
	table := newTable(t)
	for round := range 30 {
		var txs []*sql.Tx
		for id := range 4 {
			tx, err := db.BeginTx(testContext(t), &sql.TxOptions{Isolation: sql.LevelSerializable})
			must(t, err)
			mustExec(t, tx, fmt.Sprintf("insert into %s values (%d)", table, 4*round+id))
			txs = append(txs, tx)
		}
		for _, tx := range txs {
			must(t, tx.Commit())
		}
	}
}

// The caller ended the transaction by text. Commit must not say what is not true,
// and the check must not make it worse.
func TestCheckedCommitOfATransactionThatWasEndedByText(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Params: map[string]string{"max_prepared_transactions": "5"}})
	mustExec(t, s.Admin(), "create table truth (id int)")
	for _, mode := range append([]string{"off"}, checks...) {
		for _, end := range []string{"commit", "prepare transaction 'p" + mode + "'", "rollback"} {
			db, _ := openOn(t, s, "commit_check", mode)
			tx := begun(t, testContext(t), db)
			mustExec(t, tx, "insert into truth values (1)")
			mustExec(t, tx, end)
			err := tx.Commit()
			var lost *pgpooled.ConnLostError
			if err == nil || errors.As(err, &lost) || !strings.Contains(err.Error(), "unexpected transaction status") {
				t.Errorf("%s, %s: %T %v", mode, end, err, err)
			}
			if n := stats(t, db).OutcomesUnknown; n != 0 {
				t.Errorf("%s, %s: %d unknown", mode, end, n)
			}
		}
	}
	if n := queryInt(t, s.Admin(), "select count(*) from truth"); n != 3 {
		t.Errorf("%d rows", n)
	}
	if n := queryInt(t, s.Admin(), "select count(*) from pg_prepared_xacts"); n != 3 {
		t.Errorf("%d prepared", n)
	}
}

// Savepoints of the caller, one with the check's own name, stay what they are.
func TestCheckedCommitWithSavepoints(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		table := looseTable(t)
		db, proxy := through(t, server, "commit_check", mode, "sslmode", "disable")
		err := commitWithoutAnswer(t, db, proxy,
			"insert into "+table+" values (1)",
			"savepoint pgpooled_commit_check", "insert into "+table+" values (2)",
			"savepoint a", "insert into "+table+" values (3)", "rollback to a",
			"savepoint b", "savepoint pgpooled_commit_check", "insert into "+table+" values (4)")
		if err != nil {
			t.Error(err)
		}
		if n, three := rowsIn(t, table), queryInt(t, server.Admin(), "select count(*) from "+table+" where id = 3"); n != 9 || three != 0 {
			t.Errorf("%d rows, %d undone ones", n, three)
		}

		// All that wrote is undone: nothing but the id is left.
		if err := commitWithoutAnswer(t, db, proxy, "savepoint a", "insert into "+table+" values (3)", "rollback to a"); err != nil {
			t.Error(err)
		}
	})
}

// A transaction without an id is not one without an effect: NOTIFY.
func TestCommitFateOfATransactionThatOnlyNotifies(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		l := pq.NewListener(server.DSN("application_name", app()), deadline, late, nil)
		defer l.Close()
		channel := fmt.Sprintf("channel%d", appCount.Add(1))
		must(t, l.Listen(channel))
		db, proxy := through(t, server, "commit_check", mode, "sslmode", "disable")
		err := commitWithoutAnswer(t, db, proxy, "notify "+channel)
		for range 3 {
			select {
			case <-l.Notify:
			case <-testContext(t).Done():
				t.Fatal("not notified")
			}
		}
		if mode == "ledger" {
			if err != nil {
				t.Error(err)
			}
			return
		}
		unknown := asUnknown(t, err)
		if unknown.Check == nil || !strings.Contains(unknown.Check.Error(), "no id") {
			t.Errorf("%v", unknown)
		}
	})
}

// A function of another server does its work at once and leaves no id here.
// dblink comes with PostgreSQL's contrib modules: PGPOOLED_TEST_LONG=1 needs them.
func TestCommitFateOfATransactionThatOnlyCallsAnotherServer(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	effect := "copy (select 1) to program 'cat >/dev/null'"
	dbname := server.Database(t)
	if long {
		if _, err := open(t, "dbname", dbname).Exec("create extension dblink"); err != nil {
			t.Fatalf("install PostgreSQL's contrib modules (dblink) for the long tests: %v", err)
		}
		effect = fmt.Sprintf("select dblink_exec('host=%s port=%d dbname=postgres user=postgres application_name=%s', 'insert into %s values (1)')",
			server.SocketDir(), server.Port(), app(), table)
	}
	db, proxy := through(t, server, "dbname", dbname, "commit_check", "on", "sslmode", "disable")
	unknown := asUnknown(t, commitWithoutAnswer(t, db, proxy, effect))
	if unknown.Check == nil || !strings.Contains(unknown.Check.Error(), "no id") {
		t.Errorf("%v", unknown)
	}
	if n := rowsIn(t, table); long && n != 3 {
		t.Errorf("%d rows", n)
	}
}
