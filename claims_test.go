package pgpooled_test

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// A transaction of BeginTx that a statement's text has ended is no protection:
// what runs afterwards commits by itself.
func TestOutcomeOfAStatementAfterATextEndedTheTransactionIsUnknown(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"commit", "rollback", "abort work", "commit; begin; rollback"} {
		for _, inOne := range []bool{false, true} {
			table := looseTable(t)
			db, proxy := through(t, server, "sslmode", "disable")
			tx, err := db.Begin()
			if err != nil {
				t.Fatal(err)
			}
			text := "insert into " + table + " values (1)"
			if inOne {
				text = end + "; " + text
			} else {
				mustExec(t, tx, end)
			}
			proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
			_, err = tx.Exec(text)
			var unknown *pgpooled.OutcomeUnknownError
			if !errors.As(err, &unknown) || errors.Is(err, driver.ErrBadConn) {
				t.Errorf("%s, in one %t: %T %v", end, inOne, err, err)
			}
			eventually(t, "the row is there", func() bool { return rowsIn(t, table) == 1 })
			_ = tx.Rollback()
		}
	}
}

func TestOutcomeARollbackToASavepointEndsNoTransaction(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	db, proxy := through(t, server, "sslmode", "disable")
	for _, back := range []string{"rollback to a", "rollback work to savepoint a", "ROLLBACK TRANSACTION TO a"} {
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, tx, "savepoint a")
		mustExec(t, tx, back)
		proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
		_, err = tx.Exec("insert into " + table + " values (1)")
		var lost *pgpooled.ConnLostError
		if !errors.As(err, &lost) || !lost.InTx {
			t.Errorf("%s: %T %v", back, err, err)
		}
		_ = tx.Rollback()
	}
}

// tx.Commit has nothing to commit any more; that says nothing of what the text did.
func TestOutcomeACommitAfterATextCommittedDoesNotSayNotCommitted(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	db := open(t)
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "insert into "+table+" values (1)")
	mustExec(t, tx, "commit")
	if err = tx.Commit(); err == nil || strings.Contains(err.Error(), "not committed") || errors.Is(err, driver.ErrBadConn) {
		t.Errorf("%T %v", err, err)
	}
	if n := rowsIn(t, table); n != 1 {
		t.Errorf("%d rows", n)
	}
}

// lib/pq stops in the middle of an answer that it does not understand and keeps
// the rest for whoever calls next.
func TestAnAnswerThatWasNotUnderstoodIsNotLeftToTheNextCaller(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	db := open(t, "max_open_conns", "1")
	mustExec(t, db, "insert into "+table+" values (1)")
	for _, query := range []string{
		"select 1; copy (select 1 where false) to stdout",
		"select 1; copy " + table + " from stdin",
	} {
		done := make(chan error, 1)
		go func() {
			rows, err := db.Query(query)
			if err == nil {
				for rows.Next() || rows.NextResultSet() {
				}
				err = rows.Err()
				_ = rows.Close()
			}
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%s: no error", query)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: hangs", query)
		}
		_, err := db.Exec("insert into " + table + " values (1)")
		if answer, ok := err.(*pq.Error); !ok || answer.Code != "23505" {
			t.Errorf("%s: an innocent caller violated a key and was told %T %v", query, err, err)
		}
	}
}

// lib/pq reads the answer to a COPY in a goroutine of its own, and would read
// beside it for any other statement.
func TestNothingElseRunsWhileACopyIsFed(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	for name, call := range map[string]func(*sql.Tx, *sql.Stmt) error{
		"exec": func(tx *sql.Tx, _ *sql.Stmt) error {
			_, err := tx.Exec("insert into " + table + " values (9)")
			return err
		},
		"prepare":       func(tx *sql.Tx, _ *sql.Stmt) error { _, err := tx.Prepare("select 1"); return err },
		"prepared exec": func(_ *sql.Tx, st *sql.Stmt) error { _, err := st.Exec(); return err },
		"prepared query": func(_ *sql.Tx, st *sql.Stmt) error {
			rows, err := st.Query()
			if err == nil {
				rows.Close()
			}
			return err
		},
		"closing": func(_ *sql.Tx, st *sql.Stmt) error { _ = st.Close(); return io.EOF },
	} {
		db := open(t, "socket_timeout", "5s")
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		other, err := tx.Prepare("insert into " + table + " values (9)")
		if err != nil {
			t.Fatal(err)
		}
		//lint:ignore SA1019 applications use it, and COPY goes through Prepare
		st, err := tx.Prepare(pq.CopyIn(table, "id"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Exec(1); err != nil {
			t.Fatal(err)
		}
		err = intime(t, name, func() error { return call(tx, other) })
		if err == nil {
			t.Errorf("%s: let through", name)
		}
		if _, err := st.Exec(); err != nil {
			t.Errorf("%s: COPY: %v", name, err)
		}
		if err := tx.Commit(); err != nil {
			t.Errorf("%s: COMMIT: %v", name, err)
		}
		if n := rowsIn(t, table); n != 1 {
			t.Errorf("%s: %d rows", name, n)
		}
		mustExec(t, server.Admin(), "truncate "+table)
	}
}

// database/sql shows what Next said; what wraps pgpooled sees Close as well.
func TestOutcomeRowsThatBrokeSaySoOnceAndWhenTheyAreClosed(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	db, proxy := through(t, server)
	ctx := pgpooled.WithIdempotent(testContext(t))
	err := pinned(t, db).Raw(func(c any) error {
		rows, err := c.(driver.QueryerContext).QueryContext(ctx, "insert into "+table+" select generate_series(1, 100000) returning id, repeat('x', 100)", nil)
		if err != nil {
			return err
		}
		proxy.Cut(faultnet.ResetClient)
		dest := make([]driver.Value, 2)
		for err == nil {
			err = rows.Next(dest)
		}
		var unknown, again *pgpooled.OutcomeUnknownError
		if !errors.As(err, &unknown) || errors.Is(err, driver.ErrBadConn) {
			t.Errorf("Next: %T %v", err, err)
		}
		if err := rows.Close(); !errors.As(err, &again) || again != unknown {
			t.Errorf("Close: %T %v", err, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if n := stats(t, db).OutcomesUnknown; n != 1 {
		t.Errorf("%d unknown outcomes", n)
	}
}
