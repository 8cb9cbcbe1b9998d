package pgpooled_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// A COMMIT is cut at every byte, in both directions (without PGPOOLED_TEST_LONG=1
// as sparsely as the cut matrix): Commit tells the truth, and the caller is never
// left without it.
func TestCommitCutAtEveryByteIsFoundOut(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"on", "ledger"} {
		for _, tls := range []string{"disable", "require"} {
			t.Run(mode+" "+tls, func(t *testing.T) {
				t.Parallel()
				ctx := testContext(t)
				dbname := server.Database(t)
				db, proxy := through(t, server, "dbname", dbname, "sslmode", tls, "commit_check", mode, "max_open_conns", "1")
				if _, err := db.Exec("create table truth (id int primary key)"); err != nil {
					t.Fatal(err)
				}
				step := step(tls == "require")
				committed, aborted := 0, 0
				missed := 0 // in a row: the cut would have come after the last byte
				for id := 0; missed < 8; id++ {
					tx, err := db.BeginTx(ctx, nil)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := tx.Exec(fmt.Sprintf("insert into truth values (%d)", id)); err != nil {
						t.Fatal(err)
					}
					fired := proxy.Fired()
					dir, after := faultnet.Direction(id%2), id/4*step
					action := []faultnet.Action{faultnet.CutBoth, faultnet.ResetBoth}[id/2%2]
					proxy.Arm(dir, after, action)
					err = tx.Commit()
					proxy.Disarm()
					if missed++; proxy.Fired() > fired {
						missed = 0
					}
					var n int
					if qerr := db.QueryRow("select count(*) from truth where id = $1", id).Scan(&n); qerr != nil {
						t.Fatal(qerr)
					}
					var lost *pgpooled.ConnLostError
					switch {
					case err == nil && n == 1:
						committed++
					case errors.As(err, &lost) && n == 0:
						aborted++
					default:
						t.Fatalf("cut %s after %d: %d rows, %v", dir, after, n, err)
					}
				}
				s := stats(t, db)
				if s.OutcomesUnknown != 0 || s.LostCommitted == 0 || s.LostAborted == 0 || committed == 0 || aborted == 0 {
					t.Errorf("%d committed, %d not; %+v", committed, aborted, s)
				}
				t.Logf("%d committed, %d not; of those lost %d and %d", committed, aborted, s.LostCommitted, s.LostAborted)
			})
		}
	}
}
