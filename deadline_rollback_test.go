package pgpooled_test

import (
	"context"
	"errors"
	"testing"

	"github.com/pgpooled/pgpooled"
)

// The context of one statement ends, its transaction is rolled back: that is no
// failure, though lib/pq no longer sends anything on the connection. A COMMIT in
// its place is one.
func TestDeadlineOfAStatementLetsItsTransactionRollBack(t *testing.T) {
	noLeaks(t)
	t.Run("kinds", func(t *testing.T) {
		for _, kind := range sessionKinds() {
			t.Run(kind.name, func(t *testing.T) {
				t.Parallel()
				table := newTable(t)
				mustExec(t, server.Admin(), "insert into "+table+" values (1, 'before')")
				for _, c := range []struct {
					text string
					args []any
				}{{"select pg_sleep(60)", nil}, {"select pg_sleep($1)", []any{60}}, {"update " + table + " set v = pg_sleep($1)::text", []any{60}}} {
					for _, commit := range []bool{false, true} {
						db, name := openAs(t, "max_open_conns", "1", "sslmode", kind.tls)
						kind.ready(t, db)
						tx, err := db.Begin()
						if err != nil {
							t.Fatal(err)
						}
						mustExec(t, tx, "update "+table+" set v = 'after'")
						ctx, cancel := context.WithCancel(context.Background())
						done := make(chan error, 1)
						go func() { _, err := tx.ExecContext(ctx, c.text, c.args...); done <- err }()
						eventually(t, "the statement runs", func() bool { return running(t, name) == 1 })
						cancel()
						if err := <-done; !errors.Is(err, context.Canceled) {
							t.Errorf("%s: %v", c.text, err)
						}
						var lost *pgpooled.ConnLostError
						if commit {
							if err := tx.Commit(); !errors.As(err, &lost) {
								t.Errorf("%s: COMMIT: %v", c.text, err)
							}
						} else if err := tx.Rollback(); err != nil {
							t.Errorf("%s: ROLLBACK: %v", c.text, err)
						}
						mustExec(t, db, "update "+table+" set v = v") // on another session, the row is free again
						if n := queryInt(t, db, "select count(*) from "+table+" where v = 'before'"); n != 1 {
							t.Errorf("%s: not rolled back", c.text)
						}
					}
				}
			})
		}
	})
}

// A text has ended the transaction before: what ROLLBACK would have said is not
// known.
func TestDeadlineDoesNotHideThatATransactionWasOver(t *testing.T) {
	t.Parallel()
	db, name := openAs(t, "max_open_conns", "1")
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "commit")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { _, err := tx.ExecContext(ctx, "select pg_sleep(60)"); done <- err }()
	eventually(t, "the statement runs", func() bool { return running(t, name) == 1 })
	cancel()
	<-done
	if err := tx.Rollback(); err == nil {
		t.Error("rolled back, after a COMMIT")
	}
}
