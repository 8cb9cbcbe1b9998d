package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"

	"github.com/pgpooled/pgpooled"
)

// The server says why it ends a session in the middle of a statement, and so does
// the error. What is known of the statement is the same as without it. With TLS
// lib/pq keeps it to itself.
func TestTheErrorSaysWhyTheServerEndedTheSession(t *testing.T) {
	t.Parallel()
	for tls, said := range map[string]string{"disable": "(the server closed the connection: FATAL: terminating connection due to administrator command (57P01))", "require": "(the server reported a fatal error or broke the protocol)"} {
		table := looseTable(t)
		db, name := openAs(t, "sslmode", tls)
		for what, call := range map[string]func(context.Context, *sql.DB) error{
			"text": func(ctx context.Context, db *sql.DB) error {
				_, err := db.ExecContext(ctx, "insert into "+table+" select 1 from pg_sleep(60)")
				return err
			},
			"arguments": func(ctx context.Context, db *sql.DB) error {
				_, err := db.ExecContext(ctx, "insert into "+table+" select 1 from pg_sleep($1)", 60)
				return err
			},
			"kept": func(ctx context.Context, db *sql.DB) error {
				for range 3 {
					if _, err := db.ExecContext(ctx, "insert into "+table+" select 1 from pg_sleep($1) where $2", 0, false); err != nil {
						return err
					}
				}
				_, err := db.ExecContext(ctx, "insert into "+table+" select 1 from pg_sleep($1) where $2", 60, true)
				return err
			},
			"rows": func(ctx context.Context, db *sql.DB) error {
				var n int
				return db.QueryRowContext(ctx, "insert into "+table+" select 1 from pg_sleep(60) returning 1").Scan(&n)
			},
		} {
			done := beside(func() error { return call(testContext(t), db) })
			eventually(t, "it runs", func() bool {
				var n int
				err := server.Admin().QueryRowContext(testContext(t), "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = $1 and wait_event = 'PgSleep'", name).Scan(&n)
				return err == nil && n == 1
			})
			err := result(t, done)
			var unknown *pgpooled.OutcomeUnknownError
			if !errors.As(err, &unknown) || !strings.Contains(err.Error(), said) {
				t.Errorf("sslmode=%s, %s: %v", tls, what, err)
			}
		}
		if n := rowsIn(t, table); n != 0 {
			t.Errorf("%d rows", n)
		}
	}
}
