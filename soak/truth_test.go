package main

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// Each kind of lie, told on purpose, is found: soon, and again at the end.
func TestTheBookFindsEveryLie(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	db := s.Admin()
	exec := func(text string, args ...any) {
		t.Helper()
		if _, err := db.Exec(text, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(schema)
	var b book
	write := func(times int, as told) {
		token := b.token()
		for range times {
			exec("insert into soak_write values ($1)", token)
		}
		b.tell(token, as, errors.New("an error"))
	}
	write(1, toldDone)
	write(0, toldFailed)
	write(0, toldUnknown)
	write(1, toldUnknown)
	write(1, toldTryAgain)
	ctx := t.Context()
	if _, err := b.check(ctx, db, time.Now().Add(-time.Hour)); err != nil || b.tally != [4]int{} {
		t.Fatalf("too early: %v, %v", b.tally, err)
	}
	if got, err := b.final(ctx, db); err != nil || !got.holds() || got.Writes != 5 || got.Unknown != 2 || got.UnknownDone != 1 || got.TryAgainDone != 1 {
		t.Fatalf("%+v, %v", got, err)
	}

	write(2, toldDone)    // twice
	write(2, toldUnknown) // twice
	write(0, toldDone)    // lost
	write(1, toldFailed)  // done all the same
	late := b.token()
	b.tell(late, toldFailed, errors.New("an error"))
	if more, err := b.check(ctx, db, time.Now().Add(time.Hour)); err != nil || more {
		t.Fatal(more, err)
	}
	if b.wrong != 4 || len(b.found) != 4 {
		t.Errorf("%d wrong: %q", b.wrong, b.found)
	}
	exec("insert into soak_write values ($1)", late) // after it was looked up
	exec("insert into soak_write values ($1)", b.token())
	got, err := b.final(ctx, db)
	if err != nil || got.Twice != 2 || got.Lost != 1 || got.Lied != 2 || got.Strangers != 1 || got.WrongMeanwhile != 4 || got.holds() {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWhatACallerIsTold(t *testing.T) {
	t.Parallel()
	unknown := &pgpooled.OutcomeUnknownError{Op: "commit"}
	for _, test := range []struct {
		err        error
		idempotent bool
		want       told
	}{
		{nil, false, toldDone},
		{errRolledBack, false, toldFailed},
		{&pgpooled.ConnLostError{InTx: true}, false, toldFailed},
		{errors.Join(context.Canceled, unknown), false, toldUnknown},
		{unknown, true, toldUnknown},
		{pgpooled.ErrPoolTimeout, true, toldTryAgain},
	} {
		if got := toldBy(test.err, test.idempotent); got != test.want {
			t.Errorf("%v, %v: %v, want %v", test.err, test.idempotent, got, test.want)
		}
	}
}

// unfired is a context whose deadline has passed and whose timer has not fired.
type unfired struct{ context.Context }

func (unfired) Deadline() (time.Time, bool) { return time.Unix(0, 0), true }

// What no fault explains fails the run.
func TestUnexpectedErrors(t *testing.T) {
	t.Parallel()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		ctx  context.Context
		err  error
		want bool
	}{
		{t.Context(), pgpooled.ErrPoolTimeout, true},
		{t.Context(), &pgpooled.OutcomeUnknownError{Op: "exec"}, true},
		{over, context.Canceled, true},
		{unfired{t.Context()}, context.DeadlineExceeded, true},
		{t.Context(), context.Canceled, false}, // whose context ended?
		{t.Context(), sql.ErrTxDone, false},
		{t.Context(), sql.ErrConnDone, false},
		{t.Context(), &errWrong{"4 rows of 5, and no error"}, false},
		{t.Context(), errors.New("something else"), false},
		{t.Context(), &pq.Error{Code: "57P01"}, true},
		{t.Context(), &pq.Error{Code: "57014"}, false}, // who cancelled it?
	} {
		if what, got := classify(test.ctx, test.err); got != test.want {
			t.Errorf("%v is %q: expected = %v", test.err, what, got)
		}
	}
}

// With commit_check an unknown COMMIT needs a reason that the faults explain.
func TestTheFateOfACommit(t *testing.T) {
	t.Parallel()
	commit := func(check error) error { return &pgpooled.OutcomeUnknownError{Op: "commit", Check: check} }
	for _, test := range []struct {
		err   error
		check string
		want  bool
	}{
		{commit(nil), "off", false},
		{commit(nil), "ledger", true},
		{commit(nil), "on", true},
		{commit(errors.New("the ledger has no table")), "ledger", true},
		{commit(errors.New("the server crashed")), "on", false},
		{commit(pgpooled.ErrPoolTimeout), "ledger", true}, // without its numbers: not the pool's
		{commit(&pgpooled.PoolTimeoutError{}), "ledger", false},
		{commit(&pgpooled.ConnLostError{}), "ledger", false},
		{commit(context.DeadlineExceeded), "ledger", false},
		{&pgpooled.OutcomeUnknownError{Op: "exec"}, "ledger", false},
		{nil, "ledger", false},
	} {
		if got := fateUnknown(test.err, test.check); got != test.want {
			t.Errorf("%v, %s: %v", test.err, test.check, got)
		}
	}
}
