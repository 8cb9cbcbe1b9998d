package pgpooled_test

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/cutmatrix"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// pooled is pgpooled as a driver of the matrix.
var pooled = cutmatrix.Driver{
	Name: "pgpooled",
	Open: func(s *pgtest.Server, limit int, kv ...string) (*sql.DB, error) {
		return pgpooled.Open(s.DSN(append([]string{"max_open_conns", fmt.Sprint(limit), "pool_timeout", "30s"}, kv...)...), quiet)
	},
	Says:  says,
	Typed: typed,
}

// says: only OutcomeUnknownError admits that there may be an effect. Every other
// error, the server's own answer included, says that there is none.
func says(err error) cutmatrix.Claim {
	var unknown *pgpooled.OutcomeUnknownError
	if errors.As(err, &unknown) && unknown.Sent > 0 {
		return cutmatrix.Unknown
	}
	return cutmatrix.NotDone
}

func typed(err error) bool {
	var (
		lost    *pgpooled.ConnLostError
		unknown *pgpooled.OutcomeUnknownError
	)
	return (errors.As(err, &lost) || errors.As(err, &unknown)) && !errors.Is(err, driver.ErrBadConn)
}

// long runs every byte and ten rounds of restarts.
var long = os.Getenv("PGPOOLED_TEST_LONG") != ""

// cutMatrix runs one kind of call over every way to cut it, in this test. The
// first byte differs from cell to cell, so that a larger step leaves no byte
// out of all of them.
func cutMatrix(t *testing.T, kind cutmatrix.Kind) {
	t.Helper()
	cutMatrixOf(t, pooled, kind)
}

func cutMatrixOf(t *testing.T, driver cutmatrix.Driver, kind cutmatrix.Kind) {
	t.Helper()
	n := 0
	for _, tls := range []bool{false, true} {
		for _, action := range []faultnet.Action{faultnet.CutClient, faultnet.ResetClient} {
			for _, dir := range []faultnet.Direction{faultnet.ToServer, faultnet.ToClient} {
				cell := cutmatrix.Cell{Kind: kind, TLS: tls, Dir: dir, Action: action, Step: step(tls)}
				cell.First, n = n%cell.Step, n+1
				t.Run(cell.String(), func(t *testing.T) {
					t.Parallel()
					r, err := cutmatrix.Run(testContext(t), server, driver, cell)
					if err != nil {
						t.Fatal(err)
					}
					checkCut(t, cell, r)
				})
			}
		}
	}
}

func step(tls bool) int {
	switch {
	case long:
		return 1
	case tls:
		return 11
	}
	return 4
}

// checkCut: no row twice, no success without its effect, no claim that is not
// true, no hang, the pool alive, and reads as if nothing had happened, or with
// an error that says so.
func checkCut(t *testing.T, cell cutmatrix.Cell, r cutmatrix.Result) {
	t.Helper()
	for _, f := range r.Faults {
		t.Error(f)
	}
	if r.FailedDone > 0 && !cell.Kind.Disguised {
		t.Errorf("%d writes done whose error does not say that they may have been", r.FailedDone)
	}
	if bad := r.Twice + r.FalseNil + r.Lied + r.NoRows + r.Untyped + r.Short + r.Hung + r.Dead; bad > 0 {
		t.Errorf("%d faults in %d calls", bad, r.Calls)
	}
	switch {
	case r.Cuts < 10/cell.Step+1:
		t.Errorf("only %d of %d calls were cut", r.Cuts, r.Calls)
	case !cell.Kind.Reads && r.Unknown == 0:
		t.Error("no call was cut between its first byte and its answer")
	}
	t.Logf("every %d: %d calls, %d cut; writes: %d done, %d unknown, %d not done; reads: %d whole, %d in part, %d lost with their transaction",
		cell.Step, r.Calls, r.Cuts, r.Done, r.Unknown, r.Failed, r.Read, r.Partial, r.ReadInTx)
}

// looseTable is newTable without a key, so that a row can be there twice.
func looseTable(t *testing.T) string {
	t.Helper()
	table := newTable(t)
	mustExec(t, server.Admin(), "alter table "+table+" drop constraint "+table+"_pkey")
	return table
}

func rowsIn(t *testing.T, table string) int {
	t.Helper()
	return queryInt(t, server.Admin(), "select count(*) from "+table)
}
