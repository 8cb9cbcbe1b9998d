package pgpooled_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// COMMIT does not reach the server, which crashes before it has written down
// that it gave the transaction its id: it does not know the id afterwards, and
// refuses the question (22023).
func TestATransactionsIDThatACrashTookBackSaysThatTheServerCrashed(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Params: map[string]string{"wal_writer_delay": "10s", "autovacuum": "off"}})
	db, proxy := through(t, s, "commit_check", "on", "max_open_conns", "1")
	mustExec(t, db, "create table truth (id int)")
	ctx, sent := testContext(t), 0
	for last := range 2 {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec("insert into truth values (1)"); err != nil {
			t.Fatal(err)
		}
		if last == 0 {
			before := counted(proxy, faultnet.ToServer)
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			sent = counted(proxy, faultnet.ToServer) - before
			continue
		}
		var once sync.Once
		proxy.SetScript(func(int) faultnet.Script {
			once.Do(func() {
				if err := s.Restart(ctx, "kill"); err != nil {
					t.Error(err)
				}
			})
			return nil
		})
		proxy.Arm(faultnet.ToServer, sent-4, faultnet.CutBoth) // in the middle of COMMIT
		err = tx.Commit()
		var unknown *pgpooled.OutcomeUnknownError
		if !errors.As(err, &unknown) || unknown.Check == nil || !strings.Contains(unknown.Check.Error(), "transaction ids no longer tell") {
			t.Errorf("told %T %v", err, err)
		}
	}
}
