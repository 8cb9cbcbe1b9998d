package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

// told is what a caller knows of its write.
type told int16

const (
	toldDone    told = iota // nil: it has to be there, once
	toldFailed              // an error that does not say otherwise, or rolled back: it must not be there
	toldUnknown             // OutcomeUnknownError: it may be there, once
	// A statement that may be repeated and failed in the end: an earlier try may
	// have done it, and trying again does no harm. There or not, once.
	toldTryAgain
)

func toldBy(err error, idempotent bool) told {
	var unknown *pgpooled.OutcomeUnknownError
	switch {
	case err == nil:
		return toldDone
	case errors.As(err, &unknown):
		return toldUnknown
	case idempotent:
		return toldTryAgain
	}
	return toldFailed
}

// book compares what callers were told with what the server has. Each write has
// a token, and its table no unique key. A write is looked up once soon after it
// was told, and again with all others when the last session is gone. In between
// it is kept in the server, not here: this process's heap is watched.
type book struct {
	tokens atomic.Int64

	mu      sync.Mutex // guards the following
	pending []entry
	found   []string // what is wrong, the first few
	wrong   int
	tally   [4]int // looked up so far, by what was told
}

type entry struct {
	token int64
	told  told
	at    time.Time
	err   string // of a write that failed, for the message
}

const schema = `
	create table soak_write (token bigint);
	create index on soak_write (token);
	create table soak_upsert (token bigint primary key);
	create view soak_all as select token from soak_write union all select token from soak_upsert;
	create table soak_told (token bigint primary key, told smallint)`

func (b *book) token() int64 { return b.tokens.Add(1) }

func (b *book) tell(token int64, t told, err error) {
	e := entry{token: token, told: t, at: time.Now()}
	if err != nil {
		e.err = err.Error()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending = append(b.pending, e)
}

// batch is the most that is looked up at once.
const batch = 2000

// check looks up what was told before, and moves it to the server's own table.
// Its error is that of the server, which may be away: then it is asked later.
func (b *book) check(ctx context.Context, db *sql.DB, before time.Time) (more bool, err error) {
	b.mu.Lock()
	n := 0
	for n < len(b.pending) && n < batch && b.pending[n].at.Before(before) {
		n++
	}
	entries := b.pending[:n:n]
	b.mu.Unlock()
	if n == 0 {
		return false, nil
	}
	tokens, tolds := make([]int64, n), make([]int64, n)
	for i, e := range entries {
		tokens[i], tolds[i] = e.token, int64(e.told)
	}
	there, err := lookUp(ctx, db, tokens)
	if err != nil {
		return false, err
	}
	// The answer of this may be lost as well.
	if _, err := db.ExecContext(ctx, `insert into soak_told select * from unnest($1::bigint[], $2::smallint[]) on conflict do nothing`,
		pq.Array(tokens), pq.Array(tolds)); err != nil {
		return false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range entries {
		b.tally[e.told]++
		b.judgeLocked(e, there[e.token])
	}
	b.pending = append([]entry(nil), b.pending[n:]...)
	return len(b.pending) > 0 && b.pending[0].at.Before(before), nil
}

func lookUp(ctx context.Context, db *sql.DB, tokens []int64) (map[int64]int, error) {
	rows, err := db.QueryContext(ctx, `select t.token, (select count(*) from soak_all a where a.token = t.token)
		from unnest($1::bigint[]) t(token)`, pq.Array(tokens))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	there := make(map[int64]int, len(tokens))
	for rows.Next() {
		var token int64
		var n int
		if err := rows.Scan(&token, &n); err != nil {
			return nil, err
		}
		there[token] = n
	}
	return there, rows.Err()
}

func (b *book) judgeLocked(e entry, n int) {
	switch {
	case n > 1:
		b.wrongLocked("write %d is there %d times (%s)", e.token, n, e.err)
	case e.told == toldDone && n == 0:
		b.wrongLocked("write %d was confirmed and is not there", e.token)
	case e.told == toldFailed && n > 0:
		b.wrongLocked("write %d is there, and its caller was told: %s", e.token, e.err)
	}
}

func (b *book) wrongLocked(format string, args ...any) {
	b.wrong++
	if len(b.found) < 10 {
		b.found = append(b.found, fmt.Sprintf(format, args...))
	}
}

// truth is what the server had at the end, over all writes.
type truth struct {
	Writes         int
	Confirmed      int
	Failed         int
	Unknown        int // of these done: UnknownDone
	UnknownDone    int
	TryAgain       int // WithIdempotent, failed in the end; of these done: TryAgainDone
	TryAgainDone   int
	Twice          int
	Lost           int // confirmed, not there
	Lied           int // failed or rolled back, there
	Strangers      int // there, and nobody was told
	WrongMeanwhile int // found wrong by a look-up during the run
	Examples       []string
}

func (t truth) holds() bool {
	return t.Twice+t.Lost+t.Lied+t.Strangers+t.WrongMeanwhile == 0 && t.Writes > 0
}

// final is called when no session is left that could still write.
func (b *book) final(ctx context.Context, db *sql.DB) (truth, error) {
	var t truth
	for {
		more, err := b.check(ctx, db, time.Now().Add(time.Hour))
		if err != nil {
			return t, err
		}
		if !more {
			break
		}
	}
	err := db.QueryRowContext(ctx, `
		with there as (select token, count(*) as n from soak_all group by token),
			both_sides as (select told, coalesce(n, 0) as n from soak_told full join there using (token))
		select count(*) filter (where told is not null),
			count(*) filter (where told = 0),
			count(*) filter (where told = 1),
			count(*) filter (where told = 2), count(*) filter (where told = 2 and n > 0),
			count(*) filter (where told = 3), count(*) filter (where told = 3 and n > 0),
			count(*) filter (where n > 1),
			count(*) filter (where told = 0 and n = 0),
			count(*) filter (where told = 1 and n > 0),
			count(*) filter (where told is null)
		from both_sides`).Scan(&t.Writes, &t.Confirmed, &t.Failed, &t.Unknown, &t.UnknownDone, &t.TryAgain, &t.TryAgainDone,
		&t.Twice, &t.Lost, &t.Lied, &t.Strangers)
	b.mu.Lock()
	defer b.mu.Unlock()
	t.WrongMeanwhile, t.Examples = b.wrong, b.found
	return t, err
}
