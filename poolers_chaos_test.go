package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// 12 callers through a PgBouncer to which everything happens that operators and
// machines do to one: server processes end, clients are killed, it pauses for too
// long, reconnects, shuts down and comes back. No row is there twice, none is denied or
// made up, no read fails before its row, and nobody gets another's answer. PGPOOLED_TEST_LONG=1
// does ten times as much.
func TestBehindPgBouncerNoRowIsWrittenTwiceOrDenied(t *testing.T) {
	t.Parallel()
	happenings := 12
	if long {
		happenings *= 10
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	for mode := range poolerModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := pgtest.StartT(t, pgtest.Options{})
			b := pgtest.BouncerT(t, s, pgtest.BouncerOptions{Mode: mode, Size: 6, Params: map[string]string{"server_login_retry": "0.1", "query_wait_timeout": "1"}})
			db, _ := behind(t, b, mode, "pool_timeout", "50s", "max_open_conns", "6")
			mustExec(t, s.Admin(), "create table rows (id int)")
			var (
				wg           sync.WaitGroup
				mu           sync.Mutex
				stop         atomic.Bool
				calls, reads atomic.Int64
				fate         = make(map[int]error)
			)
			for caller := range 12 {
				wg.Go(func() {
					for n := 0; !stop.Load(); n++ {
						id := caller*1_000_000 + n
						err := writeOne(db, id)
						mu.Lock()
						fate[id] = err
						mu.Unlock()
						for text, args := range map[string][]any{"select $1::int": {id}, fmt.Sprintf("select %d", id): nil} {
							var (
								got  int
								lost *pgpooled.ConnLostError
							)
							err := db.QueryRow(text, args...).Scan(&got)
							if halfRead := errors.As(err, &lost) && lost.Op == "rows"; err != nil && !halfRead || got != id {
								t.Errorf("a read of %d: %d, %T %v", id, got, err, err)
							}
							reads.Add(1)
						}
						calls.Add(1)
					}
				})
			}
			random := rand.New(rand.NewPCG(uint64(happenings), 0))
			for n := range happenings {
				from := calls.Load()
				eventually(t, "calls go on", func() bool { return calls.Load() > from+30 })
				switch n % 6 {
				case 0:
					mustExec(t, s.Admin(), "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid() and random() < 0.5")
				case 1:
					must(t, b.Command(ctx, "KILL postgres"))
					must(t, b.Command(ctx, "RESUME postgres"))
				case 2:
					if mode == "session" {
						break // it would wait until all clients have left
					}
					before := strings.Count(b.Log(), turnedAway)
					must(t, b.Command(ctx, "PAUSE postgres"))
					eventually(t, "somebody waits in vain", func() bool { return strings.Count(b.Log(), turnedAway) > before })
					must(t, b.Command(ctx, "RESUME postgres"))
				case 3:
					must(t, b.Command(ctx, "RECONNECT postgres"))
				case 4:
					_ = b.Command(ctx, "SHUTDOWN")
					must(t, b.AwaitExit(ctx))
					must(t, b.Up(ctx))
				case 5:
					must(t, s.Restart(ctx, []string{"fast", "immediate"}[random.IntN(2)]))
				}
			}
			stop.Store(true)
			wg.Wait()
			must(t, db.Close())
			checkFates(t, s.Admin(), "rows", fate)
			t.Logf("%d writes, %d reads, %d happenings", len(fate), reads.Load(), happenings)
		})
	}
}

// writeOne writes a row, each third one in a transaction.
func writeOne(db *sql.DB, id int) error {
	if id%3 > 0 {
		_, err := db.Exec("insert into rows values ($1)", id)
		return err
	}
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.Exec("insert into rows values ($1)", id); err != nil {
		return err
	}
	return tx.Commit()
}

// checkFates compares what was told of each row with what is there, and says how
// many writes did not end well.
func checkFates(t *testing.T, admin *sql.DB, table string, fate map[int]error) int {
	t.Helper()
	there := make(map[int]int)
	rows, err := admin.Query("select id from " + table)
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var id int
		must(t, rows.Scan(&id))
		there[id]++
	}
	must(t, rows.Err())
	unknown, denied := 0, 0
	for id, err := range fate {
		var doubt *pgpooled.OutcomeUnknownError
		isDoubt := errors.As(err, &doubt)
		switch n := there[id]; {
		case n > 1:
			t.Errorf("row %d is there %d times after %v", id, n, err)
		case err == nil && n == 0:
			t.Errorf("row %d is not there", id)
		case err != nil && n > 0 && !isDoubt:
			t.Errorf("row %d is there after %T %v", id, err, err)
		case isDoubt:
			unknown++
		case err != nil:
			denied++
		}
	}
	t.Logf("%d unknown, %d not done", unknown, denied)
	return unknown + denied
}
