package main

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
)

// callLimit is the deadline that each call of a user has: above pool_timeout, as
// an application would have it.
const callLimit = 15 * time.Second

// load is the users and what they learned.
type load struct {
	db      *sql.DB
	counter string // table: one row per user, which adds up what the user did
	journal string // table: one row per token, without a key, so that a second row shows
	users   []*user
	wrong   atomic.Int64 // answers that cannot be

	*tally
}

// user works alone on its own counter and its own tokens, so that it knows
// what each answer must be. Its fields belong to its goroutine until run is over.
type user struct {
	id   int
	rnd  *rand.Rand
	next int64 // token

	added, addedMaybe int64   // increments: confirmed, outcome unknown
	entered           int64   // tokens confirmed
	enteredMaybe      []int64 // tokens whose outcome is unknown
	refused           []int64 // tokens of which an error said that they are not there
}

func newLoad(db *sql.DB, name string, users int) *load {
	l := &load{db: db, counter: name, journal: name + "_journal", tally: newTally()}
	for id := range users {
		l.users = append(l.users, &user{id: id, rnd: rand.New(rand.NewPCG(uint64(id), 1))}) //nolint:gosec // not a secret
	}
	return l
}

func (l *load) tables() []string { return []string{l.counter, l.journal} }

func (l *load) createTables(ctx context.Context) error {
	for _, q := range []string{
		"create table " + l.counter + " (usr int primary key, n bigint not null) with (fillfactor = 20)",
		"create table " + l.journal + " (usr int not null, token bigint not null)",
	} {
		if _, err := l.db.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	_, err := l.db.ExecContext(ctx, "insert into "+l.counter+" select i, 0 from generate_series(0, $1::int - 1) i", len(l.users))
	return err
}

// run lets the users work for a while. Calls that are under way at the end are
// waited for, not cut.
func (l *load) run(ctx context.Context, length time.Duration) {
	end := time.Now().Add(length)
	var wg sync.WaitGroup
	for _, u := range l.users {
		wg.Go(func() {
			for ctx.Err() == nil && time.Now().Before(end) {
				if err := l.call(ctx, u); err != nil {
					sleep(ctx, 20*time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
}

// call makes one call of the mix and notes what came of it.
func (l *load) call(ctx context.Context, u *user) error {
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	began := time.Now()
	var op string
	var err error
	switch p := u.rnd.IntN(100); {
	case p < 60:
		op, err = "read", l.read(limited, u)
	case p < 75:
		op, err = "update", l.update(limited, u)
	case p < 90:
		op, err = "insert", l.insert(limited, u)
	default:
		op, err = "transaction", l.transaction(limited, u)
	}
	ended := time.Now()
	if ctx.Err() != nil {
		return ctx.Err() // Ctrl-C
	}
	l.add(op, began, began, ended, err)
	return err
}

// read looks at the user's own counter, which has one possible value, or a few
// after an unknown outcome.
func (l *load) read(ctx context.Context, u *user) error {
	var usr int
	var n int64
	err := l.db.QueryRowContext(ctx, "select usr, n from "+l.counter+" where usr = $1", u.id).Scan(&usr, &n)
	if err == nil && (usr != u.id || n < u.added || n > u.added+u.addedMaybe) {
		l.wrong.Add(1)
	}
	return err
}

func (l *load) update(ctx context.Context, u *user) error {
	res, err := l.db.ExecContext(ctx, "update "+l.counter+" set n = n + 1 where usr = $1", u.id)
	if err == nil {
		l.expectOneRow(res)
	}
	u.learn(err, true, false)
	return err
}

func (l *load) insert(ctx context.Context, u *user) error {
	u.next++
	res, err := l.db.ExecContext(ctx, "insert into "+l.journal+" values ($1, $2)", u.id, u.next)
	if err == nil {
		l.expectOneRow(res)
	}
	u.learn(err, false, true)
	return err
}

// transaction writes to both tables. Until its COMMIT is sent a failure means
// that nothing was done.
func (l *load) transaction(ctx context.Context, u *user) error {
	u.next++
	tx, err := l.db.BeginTx(ctx, nil)
	if err == nil {
		err = l.fill(ctx, tx, u)
		if err != nil {
			_ = tx.Rollback()
		}
	}
	if err != nil {
		u.refused = append(u.refused, u.next)
		return err
	}
	err = tx.Commit()
	u.learn(err, true, true)
	return err
}

func (l *load) fill(ctx context.Context, tx *sql.Tx, u *user) error {
	if _, err := tx.ExecContext(ctx, "insert into "+l.journal+" values ($1, $2)", u.id, u.next); err != nil {
		return err
	}
	res, err := tx.ExecContext(ctx, "update "+l.counter+" set n = n + 1 where usr = $1", u.id)
	if err == nil {
		l.expectOneRow(res)
	}
	return err
}

func (l *load) expectOneRow(res sql.Result) {
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		l.wrong.Add(1)
	}
}

// learn keeps the books by what the caller was told: done, perhaps, not done.
func (u *user) learn(err error, increment, token bool) {
	maybe := err != nil && outcomeUnknown(err)
	switch {
	case err == nil && increment:
		u.added++
	case maybe && increment:
		u.addedMaybe++
	}
	if !token {
		return
	}
	switch {
	case err == nil:
		u.entered++
	case maybe:
		u.enteredMaybe = append(u.enteredMaybe, u.next)
	default:
		u.refused = append(u.refused, u.next)
	}
}

// compare holds the books of the users against the tables.
func (l *load) compare(ctx context.Context, check *sql.DB) (t truth, err error) {
	t.wrong = l.wrong.Load()
	for _, u := range l.users {
		var n, rows, tokens, maybe, refused int64
		err := check.QueryRowContext(ctx, `select (select n from `+l.counter+` where usr = $1),
			count(*), count(distinct token),
			count(distinct token) filter (where token = any($2)), count(distinct token) filter (where token = any($3))
			from `+l.journal+` where usr = $1`, u.id, pq.Array(u.enteredMaybe), pq.Array(u.refused)).
			Scan(&n, &rows, &tokens, &maybe, &refused)
		if err != nil {
			return t, fmt.Errorf("comparing with the tables: %w", err)
		}
		t.increments.add(u.added, u.addedMaybe, n)
		t.tokens.add(u.entered, int64(len(u.enteredMaybe)), tokens-refused)
		// Tokens have names, so a lost one cannot hide behind an unknown one.
		t.lostTokens += max(0, u.entered-(tokens-maybe-refused))
		t.twice += rows - tokens
		t.refused += int64(len(u.refused))
		t.refusedDone += refused
	}
	return t, nil
}
