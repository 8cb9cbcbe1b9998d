package pgpooled_test

import (
	"fmt"
	"testing"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// Behind a pooler a session outlives its server. What tells one server's ids from
// another's has to be of the server that runs the transaction.
func TestCommitCheckBehindAPoolerIsOfTheServerThatRanTheTransaction(t *testing.T) {
	t.Parallel()
	first, second := pgtest.StartT(t, pgtest.Options{}), pgtest.StartT(t, pgtest.Options{})
	pooler := newStickyPooler(t, first)
	proxy := newProxy(t, fmt.Sprintf("127.0.0.1:%d", pooler.port()))
	db := openWith(t, second.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "sslmode", "disable",
		"pgbouncer", "true", "commit_check", "on", "max_open_conns", "1"))

	for _, back := range []bool{false, true} {
		pooler.backend.Store(first)
		proxy.CutAll(true)
		must(t, begun(t, testContext(t), db).Commit())
		pooler.backend.Store(second)

		g := newGate(t, second)
		tx := begun(t, testContext(t), db)
		mustExec(t, tx, "insert into "+g.table+" values (1)")
		pid, xid := pidOf(t, tx), queryInt(t, tx, "select pg_current_xact_id()::text")
		done := committing(tx)
		awaitWaiting(t, second, pid)
		if back { // where somebody else had the same id
			for queryInt(t, first.Admin(), "select pg_current_xact_id()::text") < xid {
			}
			pooler.backend.Store(first)
		}
		proxy.CutAll(true)
		if !back {
			g.open()
			if err := result(t, done); err != nil {
				t.Errorf("it was committed: %v", err)
			}
			continue
		}
		if unknown := asUnknown(t, result(t, done)); unknown.Check == nil {
			t.Error(unknown)
		}
		mustExec(t, second.Admin(), fmt.Sprintf("select pg_terminate_backend(%d)", pid))
		awaitBackendEnd(t, second, pid)
	}
}
