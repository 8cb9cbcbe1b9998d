package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// The answer to COMMIT is lost, and the context ends while another session is
// being opened to ask with.
func TestAContextThatEndsWhileTheFateOfACommitIsLookedForLeavesTheGrace(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"on", "ledger"} {
		for _, grace := range []string{"30s", "20ms"} {
			t.Run(mode+", grace of "+grace, func(t *testing.T) {
				t.Parallel()
				db, proxy := through(t, server, "dbname", server.Database(t), "commit_check", mode, "cancel_grace", grace)
				mustExec(t, db, "create table truth (id int)")
				ctx, cancel := context.WithCancel(testContext(t))
				defer cancel()
				var (
					answer int
					lost   *sql.Tx
				)
				for last := range 2 {
					tx, err := db.BeginTx(ctx, nil)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := tx.Exec("insert into truth values (1)"); err != nil {
						t.Fatal(err)
					}
					if last == 1 {
						lost = tx
						break
					}
					before := counted(proxy, faultnet.ToClient)
					if err := tx.Commit(); err != nil {
						t.Fatal(err)
					}
					answer = counted(proxy, faultnet.ToClient) - before
				}
				// COMMIT's own answer are the last 18 bytes of what comes.
				proxy.Arm(faultnet.ToClient, answer-9, faultnet.CutClient)
				silent := make(chan struct{})
				var once sync.Once
				proxy.SetScript(func(int) faultnet.Script {
					once.Do(func() { proxy.Freeze(); close(silent) })
					return nil
				})
				done := make(chan error, 1)
				go func() { done <- lost.Commit() }()
				<-silent
				cancel()
				if grace == "30s" {
					proxy.Thaw()
					if err := <-done; err != nil {
						t.Errorf("told %T %v", err, err)
					}
					return
				}
				err := <-done
				var unknown *pgpooled.OutcomeUnknownError
				if !errors.As(err, &unknown) || unknown.Check == nil || !errors.Is(err, context.Canceled) {
					t.Errorf("told %T %v", err, err)
				}
				proxy.Thaw()
				if committed, err := unknown.Resolve(testContext(t)); !committed || err != nil {
					t.Errorf("afterwards: %v, %v", committed, err)
				}
			})
		}
	}
}
