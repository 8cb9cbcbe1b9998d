// Package sidebyside has the drivers that the programs here compare.
package sidebyside

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/cutmatrix"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// Drivers are those that are compared, each as its documentation has it, with
// the same limit.
var Drivers = []cutmatrix.Driver{
	{
		Name: "lib/pq", Open: plain("postgres"),
		// It never says whether there was an effect.
		Says:  func(error) cutmatrix.Claim { return cutmatrix.Silent },
		Typed: func(err error) bool { return err != nil },
	},
	{
		Name: "pgx stdlib", Open: plain("pgx"), NoCopy: true,
		Says: func(err error) cutmatrix.Claim {
			if pgconn.SafeToRetry(err) {
				return cutmatrix.NotDone
			}
			return cutmatrix.Silent
		},
		Typed: func(err error) bool { return err != nil },
	},
	{
		Name: "pgpooled", Open: pooled,
		Says: func(err error) cutmatrix.Claim {
			var unknown *pgpooled.OutcomeUnknownError
			if errors.As(err, &unknown) {
				return cutmatrix.Unknown
			}
			return cutmatrix.NotDone
		},
		Typed: func(err error) bool { return !errors.Is(err, driver.ErrBadConn) },
	},
}

func plain(name string) func(*pgtest.Server, int, ...string) (*sql.DB, error) {
	return func(s *pgtest.Server, limit int, kv ...string) (*sql.DB, error) {
		db, err := sql.Open(name, s.DSN(kv...))
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(limit)
		db.SetMaxIdleConns(limit)
		return db, nil
	}
}

func pooled(s *pgtest.Server, limit int, kv ...string) (*sql.DB, error) {
	kv = append([]string{"max_open_conns", fmt.Sprint(limit)}, kv...)
	return pgpooled.Open(s.DSN(kv...), pgpooled.WithLogger(slog.New(slog.DiscardHandler)))
}
