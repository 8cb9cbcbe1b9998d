package pgpooled_test

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"testing"

	"github.com/pgpooled/pgpooled/internal/cutmatrix"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// warmer are the numbers of rows that only make a session keep a text.
const warmer = 1

// TestNoCallCutAtAnyByte... meets new sessions only, which keep nothing yet. Here
// the call comes after others with its text, which prove the session direct,
// prepare the text, and close another statement to make room for it: all of that
// is cut as well. Its row is there once or not at all, and the caller knows.
func TestNoCallOfAKeptStatementCutAtAnyByteIsDoneTwiceOrFalselyReported(t *testing.T) {
	t.Parallel()
	insert := func(ctx context.Context, db *sql.DB, text string, id int) error {
		_, err := db.ExecContext(ctx, text, id)
		return err
	}
	after := func(before int) func(context.Context, *sql.DB, string, int) (int, error) {
		return func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			text := "insert into " + table + " values ($1)"
			for range before {
				_ = insert(ctx, db, text, warmer)
			}
			return 0, insert(ctx, db, text, id)
		}
	}
	cutMatrix(t, cutmatrix.Kind{Name: "INSERT that is prepared", Do: after(1)})
	for _, kind := range []cutmatrix.Kind{
		{Name: "INSERT that was prepared", Do: after(2)},
		{Name: "INSERT that was prepared, in a transaction", Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			text := "insert into " + table + " values ($1)"
			_, _ = after(1)(ctx, db, table, warmer)
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return 0, err
			}
			defer tx.Rollback()
			if _, err := tx.ExecContext(ctx, text, id); err != nil {
				return 0, err
			}
			return 0, tx.Commit()
		}},
		{Name: "SELECT that was prepared", Reads: true, Do: func(ctx context.Context, db *sql.DB, table string, _ int) (n int, err error) {
			for range 3 {
				n = 0
				rows, err := db.QueryContext(ctx, "select generate_series(1, $1::int)", 5)
				if err != nil {
					return 0, err
				}
				for rows.Next() {
					n++
				}
				if err := rows.Close(); err != nil || rows.Err() != nil {
					return n, rows.Err()
				}
			}
			return n, nil
		}},
		{Name: "INSERT without arguments that was prepared", Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			text := fmt.Sprintf("insert into %s values (%d)", table, id)
			keepText(ctx, db, text)
			_, err := db.ExecContext(ctx, text)
			return 0, err
		}},
		{Name: "SELECT without arguments that was prepared", Reads: true, Do: func(ctx context.Context, db *sql.DB, table string, _ int) (n int, err error) {
			keepText(ctx, db, "select generate_series(1, 5)")
			rows, err := db.QueryContext(ctx, "select generate_series(1, 5)")
			if err != nil {
				return 0, err
			}
			defer rows.Close()
			for rows.Next() {
				n++
			}
			return n, rows.Err()
		}},
	} {
		cutMatrixOf(t, keeping("10"), kind) // under TLS the proxy's ports prove nothing
	}
	cutMatrixOf(t, keeping("1"), cutmatrix.Kind{Name: "INSERT that takes another's place", Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
		for range 2 {
			_ = insert(ctx, db, "insert into "+table+" values ($1) on conflict do nothing", warmer)
		}
		_, _ = db.ExecContext(ctx, outdates)
		return after(1)(ctx, db, table, id)
	}})
}

// keepText has a session keep a text that it has not seen.
func keepText(ctx context.Context, db *sql.DB, text string) {
	if st, err := db.PrepareContext(ctx, text); err == nil {
		_ = st.Close()
	}
}

// outdates makes a session's kept statements out of date, which leaves their
// place to the next text.
const outdates = "discard temp"

func keeping(capacity string) cutmatrix.Driver {
	d := pooled
	d.Open = func(s *pgtest.Server, limit int, kv ...string) (*sql.DB, error) {
		return pooled.Open(s, limit, append(kv, "statement_cache_capacity", capacity)...)
	}
	return d
}

// A write before which a statement is closed, and its own is prepared, has not
// run when either is cut: it runs elsewhere, and nobody has to wonder.
func TestAWriteCutWhileItIsPreparedIsNotInDoubt(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		value  string
		args   []any
		keeps  int // texts, at most
		before int // calls with the text before it is prepared
	}{
		{"with an argument", "$1", []any{7}, 1, 1},
		{"without arguments", "7", nil, 2, 7},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			proxy, err := faultnet.New(server.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer proxy.Close()
			table := looseTable(t)
			name := app()
			db, err := keeping(strconv.Itoa(test.keeps)).Open(server, 1, cutmatrix.Through(proxy, name, false)...)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			// Texts of one length: a session of which nothing is known has seen none.
			insert := func(n int) string {
				return fmt.Sprintf("insert into %s values (%s + 100 * %02d)", table, test.value, n)
			}
			const closing = 7 + 5 // a Close of a name of one letter, a Sync
			preparing := 1 + 4 + 2 + len(insert(0)) + 1 + 2 + 7 + 5
			for after := range closing + preparing {
				for n := range 2 * test.keeps {
					askFor(t, db, fmt.Sprintf("select $1::int + 0 * %d", n/2), 7)
				}
				mustExec(t, db, outdates)
				for range test.before {
					mustExec(t, db, insert(after), test.args...)
				}
				fired := proxy.Fired()
				proxy.Arm(faultnet.ToServer, after, faultnet.CutClient)
				if _, err := db.Exec(insert(after), test.args...); err != nil {
					t.Errorf("byte %d: %v", after, err)
				}
				proxy.Disarm()
				if proxy.Fired() == fired {
					t.Errorf("byte %d: not cut", after)
				}
			}
			_ = db.Close()
			if err := server.AwaitSessions(testContext(t), name, 0); err != nil {
				t.Fatal(err)
			}
			once := fmt.Sprintf("select count(*) from (select id from %s group by id having count(*) = %d) one", table, test.before+1)
			if n := queryInt(t, server.Admin(), once); n != closing+preparing {
				t.Errorf("%d of %d calls were done once", n, closing+preparing)
			}
		})
	}
}
