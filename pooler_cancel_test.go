package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// A context that ends during a statement ends it on the server, and none of those
// who get the server connection next. A cancel request that was hung up on too
// early took PgBouncer 1.18 down, or the client that came next.
func TestACancelThroughPgBouncerEndsTheStatementAndNoOther(t *testing.T) {
	t.Parallel()
	for mode := range poolerModes {
		for _, tls := range []string{"disable", "require"} {
			t.Run(mode+" "+tls, func(t *testing.T) {
				t.Parallel()
				b := pgtest.BouncerT(t, server, pgtest.BouncerOptions{Mode: mode, Size: map[string]int{"session": 2, "transaction": 1}[mode]})
				db, name := behind(t, b, mode, "sslmode", tls, "max_open_conns", "1", "cancel_grace", "20s")
				others, _ := behind(t, b, mode, "sslmode", tls, "max_open_conns", "1")
				cancelAndLook(t, db, name, others)
			})
		}
	}
}

// cancelAndLook cancels statements and has others run theirs.
func cancelAndLook(t *testing.T, db *sql.DB, name string, others *sql.DB) {
	t.Helper()
	for range 8 {
		ctx, cancel := context.WithCancel(testContext(t))
		done := beside(func() error { _, err := db.ExecContext(ctx, "select pg_sleep(60)"); return err })
		eventually(t, "the statement runs", func() bool { return running(t, name) == 1 })
		cancel()
		if err := result(t, done); !errors.Is(err, context.Canceled) {
			t.Errorf("%T %v", err, err)
		}
		eventually(t, "the statement has ended on the server", func() bool { return running(t, name) == 0 })
		for range 20 {
			mustExec(t, others, "select pg_sleep(0.001)")
		}
	}
}
