package pgpooled

import (
	"context"
	"database/sql/driver"
	"fmt"
	"math/rand/v2"
	"testing"
)

// tripsConn counts the round trips of preparing and closing statements.
type tripsConn struct {
	driver.Conn
	trips, open, most int
}

func (c *tripsConn) PrepareContext(context.Context, string) (driver.Stmt, error) {
	c.trips++
	c.open++
	c.most = max(c.most, c.open)
	return tripsStmt{c: c}, nil
}

type tripsStmt struct {
	cachedDriverStmt
	c *tripsConn
}

func (s tripsStmt) Close() error {
	s.c.trips++
	s.c.open--
	return nil
}

// cacheTrips runs texts through a cache of 64 and returns round trips per call:
// a text that the cache does not take has two, a prepared statement has one.
func cacheTrips(t *testing.T, calls int, text func(n int) string) float64 {
	t.Helper()
	c := &tripsConn{}
	s := &session{base: c, pool: &pool{}}
	i := &interceptor{s: s, cache: newStmtCache(64)}
	for n := range calls {
		e, err := i.cachedStmt(t.Context(), &call{op: "query"}, text(n), withArgs)
		if err != nil {
			t.Fatal(err)
		}
		if c.trips++; e == nil {
			c.trips++
		}
	}
	if c.most > 64 {
		t.Errorf("%d statements at a time", c.most)
	}
	return float64(c.trips) / float64(calls)
}

func TestMoreTextsThanFitCostNoMoreThanWithoutACache(t *testing.T) {
	t.Parallel()
	const calls = 40_000
	for _, texts := range []int{64, 70, 100, 200, 500, 1000, 3000, 10_000} {
		r := rand.New(rand.NewPCG(1, uint64(texts)))
		inTurn := func(n int) string { return fmt.Sprint("select $1 -- ", n%texts) }
		mixed := func(int) string { return fmt.Sprint("select $1 -- ", r.IntN(texts)) }
		// Without a cache it is two; ideally the texts that are in stay. What comes
		// back after more than a period is forgotten.
		want := 2.02
		if texts <= 8*64 {
			want -= 64 / float64(texts)
		}
		if got := cacheTrips(t, calls, inTurn); got > want {
			t.Errorf("%d texts in turn: %.3f round trips each, want at most %.3f", texts, got, want)
		}
		if got := cacheTrips(t, calls, mixed); got > want {
			t.Errorf("%d texts at random: %.3f round trips each, want at most %.3f", texts, got, want)
		}
	}
}

func TestTheCacheFollowsTheTextsThatAreFrequentNow(t *testing.T) {
	t.Parallel()
	const calls = 40_000
	r := rand.New(rand.NewPCG(1, 2))
	// Fifty texts make most calls, others each tenth of the time.
	often := func(from int) string {
		if r.IntN(50) == 0 {
			return fmt.Sprint("select $1 -- rare ", r.IntN(5000))
		}
		return fmt.Sprint("select $1 -- often ", from+r.IntN(50))
	}
	if got := cacheTrips(t, calls, func(int) string { return often(0) }); got > 1.06 {
		t.Errorf("a few frequent texts: %.3f round trips each", got)
	}
	changes := func(n int) string { return often(n / (calls / 4) * 1000) }
	if got := cacheTrips(t, calls, changes); got > 1.15 {
		t.Errorf("other frequent texts each quarter: %.3f round trips each", got)
	}
}

// A sql.Conn that somebody keeps for days may prepare and close all the while.
func TestALeaseForgetsTheStatementsThatItsCallerHasClosed(t *testing.T) {
	t.Parallel()
	s := &session{base: &tripsConn{}, pool: &pool{}}
	i := &interceptor{s: s, cache: newStmtCache(4)}
	s.intr = i
	for n := range 1000 {
		var open []driver.Stmt
		for range 2 {
			_, st, err := i.ConnPrepareContext(t.Context(), nil, fmt.Sprintf("select %d", n%3))
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, st)
		}
		for _, st := range open {
			if len(i.pinned) != 1 {
				t.Fatalf("%d statements are noted", len(i.pinned))
			}
			if err := i.StmtClose(t.Context(), st); err != nil {
				t.Fatal(err)
			}
		}
		if len(i.pinned) != 0 {
			t.Fatalf("%d closed statements are still noted", len(i.pinned))
		}
	}
}
