//go:build linux || darwin || freebsd

package pgtest

import "testing"

func TestAPairFailsOverAndBack(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	a, b := PairT(t, Options{TLS: true, Password: "secret"})
	if err := a.Synchronous(ctx); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		if _, err := a.Admin().ExecContext(ctx, "create table if not exists t (n int)"); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Admin().ExecContext(ctx, "insert into t values (1)"); err != nil {
			t.Fatal(err)
		}
		if err := a.Down("kill"); err != nil {
			t.Fatal(err)
		}
		if err := b.Promote(ctx); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := b.Admin().QueryRowContext(ctx, "insert into t values (2) returning (select count(*) from t)").Scan(&n); err != nil || n != 1+2*round {
			t.Fatalf("round %d: %d rows survived, want %d (%v)", round, n, 1+2*round, err)
		}
		if err := a.Follow(ctx, b); err != nil {
			t.Fatal(err)
		}
		var recovering bool
		if err := a.Admin().QueryRowContext(ctx, "select count(*), pg_is_in_recovery() from t").Scan(&n, &recovering); err != nil || n != 2+2*round || !recovering {
			t.Fatalf("round %d: the new standby has %d rows, in recovery %v (%v)", round, n, recovering, err)
		}
		a, b = b, a
		if err := a.Synchronous(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
