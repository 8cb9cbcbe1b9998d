package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled"
)

// 12 callers on 8 sessions, whose contexts end at random: before, during and
// after their calls, in transactions, between two rows. An error that is not of
// the caller's own context came from somebody else's; what was called done is
// done once, what was not may be only where the error says so.
func TestDeadlinesAtRandomHitNobodyElse(t *testing.T) {
	noLeaks(t)
	for _, tls := range []string{"disable", "require"} {
		t.Run(tls, func(t *testing.T) {
			table := looseTable(t)
			db, _ := openOn(t, server, "sslmode", tls, "max_open_conns", "8")
			var (
				mu   sync.Mutex
				fate = make(map[int]error) // by the row that was to be written

				// By RETURNING: when the context ends between the answer and its
				// reading, database/sql tells the context's error and nothing else.
				asked = make(map[int]bool)
				wg    sync.WaitGroup
			)
			for caller := range 12 {
				wg.Go(func() {
					random := rand.New(rand.NewPCG(uint64(caller), 0))
					for n := range 150 {
						ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.IntN(6000))*time.Microsecond)
						if random.IntN(3) == 0 { // it ends, but later
							cancel()
							ctx, cancel = context.WithTimeout(context.Background(), time.Minute)
						}
						id := caller*1000 + n
						kind := random.IntN(5)
						err := randomCall(ctx, db, table, id, kind, random)
						if err != nil && ctx.Err() == nil {
							t.Errorf("caller %d, call %d: %T %v", caller, n, err, err)
						}
						cancel()
						mu.Lock()
						fate[id], asked[id] = err, kind == 2
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			if err := db.Close(); err != nil { // whatever the server still does ends first
				t.Fatal(err)
			}
			done, unknown := 0, 0
			for id, err := range fate {
				var doubt *pgpooled.OutcomeUnknownError
				n := queryInt(t, server.Admin(), "select count(*) from "+table+" where id = $1", id)
				switch {
				case errors.As(err, &doubt):
					unknown++
					if n > 1 {
						t.Errorf("row %d is there %d times", id, n)
					}
				case err == nil && n != 1, err != nil && n != 0 && !asked[id] || n > 1:
					t.Errorf("row %d is there %d times after %v", id, n, err)
				case err == nil:
					done++
				}
			}
			t.Logf("%d calls: %d done, %d unknown", len(fate), done, unknown)
			if done == 0 || done == len(fate) {
				t.Error("nothing to tell")
			}
		})
	}
}

// randomCall writes a row in one of several ways.
func randomCall(ctx context.Context, db *sql.DB, table string, id, kind int, random *rand.Rand) error {
	pause := float64(random.IntN(2000)) / 1e6
	switch kind {
	case 0:
		_, err := db.ExecContext(ctx, "insert into "+table+" select $1 from pg_sleep($2)", id, pause)
		return err
	case 1:
		_, err := db.ExecContext(ctx, fmt.Sprintf("insert into %s select %d from pg_sleep(%f)", table, id, pause))
		return err
	case 2:
		return db.QueryRowContext(ctx, "insert into "+table+" values ($1) returning id", id).Scan(new(int))
	case 3: // several rows, the context may end between them
		rows, err := db.QueryContext(ctx, "select generate_series(1, 3000), $1::float8", pause)
		if err != nil {
			return err
		}
		for rows.Next() {
		}
		if err := rows.Close(); err != nil {
			return err
		}
		if err := rows.Err(); err != nil {
			return err
		}
		_, err = db.ExecContext(ctx, "insert into "+table+" values ($1)", id)
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, "insert into "+table+" values ($1)", id); err != nil {
		return err
	}
	return tx.Commit()
}
