package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/lib/pq"
)

// work is what users do. call may run in many goroutines.
type work interface {
	fmt.Stringer
	prepare(ctx context.Context, db *sql.DB) error
	call(ctx context.Context, db *sql.DB, user int) (op string, err error)
	cleanUp(db *sql.DB) error
}

func newWork(kind, table string, users int) work {
	if kind == "read" {
		return readWork{}
	}
	return &tableWork{kind: kind, table: table, users: users}
}

// readWork needs nothing to be there.
type readWork struct{}

func (readWork) String() string                         { return "read" }
func (readWork) prepare(context.Context, *sql.DB) error { return nil }
func (readWork) cleanUp(*sql.DB) error                  { return nil }

func (readWork) call(ctx context.Context, db *sql.DB, user int) (string, error) {
	var got int
	err := db.QueryRowContext(ctx, "select $1::int", user).Scan(&got)
	if err == nil && got != user {
		err = fmt.Errorf("asked for %d, the answer is %d: a pooler in transaction mode mixes up clients without pgbouncer=true", user, got)
	}
	return "read", err
}

// tableWork has a table: a row to update for each user, and rows that it adds.
type tableWork struct {
	kind, table string
	users       int
	made        bool
}

func (w *tableWork) String() string { return w.kind }

// prepare makes the table and nothing else: what is there is not ours.
func (w *tableWork) prepare(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, "create table "+w.table+" (usr int not null, n bigint not null)")
	var answer *pq.Error
	if errors.As(err, &answer) && answer.Code == "42P07" {
		return fmt.Errorf("the table %s exists already and is not touched: another run uses it, or one that was killed left it; drop it yourself, or give --table another name", w.table)
	}
	if err != nil {
		return fmt.Errorf("making the table %s: %w", w.table, err)
	}
	w.made = true
	_, err = db.ExecContext(ctx, fmt.Sprintf("create unique index on %s (usr) where usr >= 0; insert into %s select i, 0 from generate_series(0, %d) i",
		w.table, w.table, w.users-1))
	if err != nil {
		return errors.Join(fmt.Errorf("filling the table %s: %w", w.table, err), w.cleanUp(db))
	}
	return nil
}

func (w *tableWork) cleanUp(db *sql.DB) error {
	if !w.made {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	if _, err := db.ExecContext(ctx, "drop table "+w.table); err != nil {
		return fmt.Errorf("the table %s is still there: %w", w.table, err)
	}
	w.made = false
	return nil
}

func (w *tableWork) call(ctx context.Context, db *sql.DB, user int) (string, error) {
	p := rand.IntN(100) //nolint:gosec // not a secret
	if w.kind == "write" {
		p = 60 + p*40/100
	}
	switch {
	case p < 60:
		var n int64
		return "read", db.QueryRowContext(ctx, "select n from "+w.table+" where usr = $1 and usr >= 0", user).Scan(&n)
	case p < 75:
		return "update", w.update(ctx, db, user)
	case p < 90:
		return "insert", w.insert(ctx, db, user)
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return "transaction", err
	}
	if err = errors.Join(w.insert(ctx, tx, user), w.update(ctx, tx, user)); err != nil {
		_ = tx.Rollback()
		return "transaction", err
	}
	return "transaction", tx.Commit()
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func (w *tableWork) update(ctx context.Context, db execer, user int) error {
	_, err := db.ExecContext(ctx, "update "+w.table+" set n = n + 1 where usr = $1 and usr >= 0", user)
	return err
}

// insert adds a row below zero, out of the index that updates go by.
func (w *tableWork) insert(ctx context.Context, db execer, user int) error {
	_, err := db.ExecContext(ctx, "insert into "+w.table+" values ($1, 0)", -1-user)
	return err
}

// fileWork sends a text of the user's.
type fileWork struct{ text string }

func (*fileWork) String() string                         { return "sql" }
func (*fileWork) prepare(context.Context, *sql.DB) error { return nil }
func (*fileWork) cleanUp(*sql.DB) error                  { return nil }

func (w *fileWork) call(ctx context.Context, db *sql.DB, _ int) (string, error) {
	rows, err := db.QueryContext(ctx, w.text)
	if err != nil {
		return "sql", err
	}
	defer rows.Close()
	for more := true; more; more = rows.NextResultSet() {
		for rows.Next() {
		}
	}
	return "sql", rows.Err()
}
