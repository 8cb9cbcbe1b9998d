package pgpooled_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// The standby took over, with one COMMIT and without the other.
func TestCommitFateAfterAFailover(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		primary, standby := pgtest.PairT(t, pgtest.Options{})
		mustExec(t, primary.Admin(), "create table truth (id int)")
		proxy := newProxy(t, primary.Addr())
		db := openWith(t, primary.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "application_name", app(), "commit_check", mode, "cancel_grace", "200ms", "connect_timeout", "1s", "sslmode", "disable"), quiet)
		replicated, _ := unresolved(t, primary.Admin(), db, proxy, "truth", 1, true)
		proxy.CutAll(true)
		proxy.Thaw()
		eventually(t, "the standby has it", func() bool {
			var n int
			return standby.Admin().QueryRow("select count(*) from truth").Scan(&n) == nil && n == 1
		})
		must(t, standby.Down("fast"))
		lost, _ := unresolved(t, primary.Admin(), db, proxy, "truth", 2, true)
		must(t, primary.Down("kill"))
		must(t, standby.Up(testContext(t)))
		must(t, standby.Promote(testContext(t)))
		proxy.SetTarget(standby.Addr())
		proxy.CutAll(true)
		proxy.Thaw()
		for id, unknown := range map[int]*pgpooled.OutcomeUnknownError{1: replicated, 2: lost} {
			committed, err := unknown.Resolve(testContext(t))
			there := queryInt(t, standby.Admin(), "select count(*) from truth where id = $1", id) == 1
			if there != (id == 1) {
				t.Fatalf("%d: there=%t", id, there)
			}
			if mode == "ledger" && (err != nil || committed != there) || mode == "on" && (err == nil || committed) {
				t.Errorf("%d: committed %t, %v", id, committed, err)
			}
		}
	})
}

// Commit asks the standby before it is promoted: it asks again.
func TestCommitAsksOnWhileTheStandbyIsPromoted(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		primary, standby := pgtest.PairT(t, pgtest.Options{})
		mustExec(t, primary.Admin(), "create table truth (id int)")
		proxy := newProxy(t, primary.Addr())
		db := openWith(t, primary.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "application_name", app(), "commit_check", mode, "pool_timeout", "40s", "sslmode", "disable", "max_open_conns", "1"), quiet)
		_, got := commitBytes(t, db, proxy)
		tx := begun(t, testContext(t), db)
		mustExec(t, tx, "insert into truth values (1)")
		must(t, proxy.Refuse(true))
		proxy.Arm(faultnet.ToClient, got-1, faultnet.CutClient)
		done := committing(tx)
		eventually(t, "the standby has it", func() bool {
			var n int
			return standby.Admin().QueryRow("select count(*) from truth").Scan(&n) == nil && n == 1
		})
		must(t, primary.Down("kill"))
		proxy.SetTarget(standby.Addr())
		must(t, proxy.Refuse(false))
		eventually(t, "the standby is asked", func() bool {
			return stats(t, db).ClosedBroken > 1 || len(done) > 0 // the session that was lost, and one to a standby
		})
		must(t, standby.Promote(testContext(t)))
		err := result(t, done)
		if mode == "ledger" {
			if err != nil {
				t.Error(err)
			}
		} else if unknown := asUnknown(t, err); unknown.Check == nil || !strings.Contains(unknown.Check.Error(), "no longer tell") {
			t.Errorf("%v", err)
		}
	})
}
