package pgpooled_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// The server ends sessions that waited for too long: those that were idle
// without anybody noticing, those inside a transaction with an error.
func TestTimeoutsOfTheServerEndSessionsThatAreThenReplaced(t *testing.T) {
	t.Parallel()
	db, _ := openAs(t, "max_open_conns", "1")
	pid := queryInt(t, db, "select pg_backend_pid()")
	mustExec(t, db, "set idle_session_timeout = 20")
	awaitExit(t, pid)
	mustExec(t, db, "create temp table t (i int)") // not a reader: nothing repeats it
	if s := stats(t, db); s.ClosedDead != 1 || s.ClosedBroken != 0 {
		t.Errorf("idle_session_timeout: %d found dead, %d broke in a call", s.ClosedDead, s.ClosedBroken)
	}

	for _, timeout := range []string{"idle_in_transaction_session_timeout", "transaction_timeout"} {
		tx, err := db.Begin()
		must(t, err)
		pid := queryInt(t, tx, "select pg_backend_pid()")
		_, err = tx.Exec("set " + timeout + " = 20")
		if timeout == "transaction_timeout" && major(t) < 17 {
			if answer, ok := err.(*pq.Error); !ok || answer.Code != "42704" {
				t.Errorf("%s on an older server: %v", timeout, err)
			}
			must(t, tx.Rollback())
			continue
		}
		must(t, err)
		awaitExit(t, pid)
		_, err = tx.Exec("create temp table u (i int)")
		var lost *pgpooled.ConnLostError
		if !errors.As(err, &lost) {
			t.Errorf("%s: %T %v", timeout, err, err)
		}
		_ = tx.Rollback()
		if queryInt(t, db, "select pg_backend_pid()") == pid {
			t.Errorf("%s: the session goes on", timeout)
		}
	}
}

// A server reports some settings whenever they change, search_path among them
// from 18 on. It does so with its next answer: a session that is idle meanwhile
// has nothing to read, and stays.
func TestAReloadThatChangesAReportedSettingCostsNoSession(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{TLS: true})
	for _, mode := range []string{"disable", "require"} {
		db, _ := openOn(t, s, "sslmode", mode)
		before := rest(t, db, 3)
		for setting, value := range map[string]string{"search_path": "changed_" + mode, "IntervalStyle": map[string]string{"disable": "iso_8601", "require": "sql_standard"}[mode]} {
			mustExec(t, s.Admin(), "alter system set "+setting+" = "+value)
		}
		mustExec(t, s.Admin(), "select pg_reload_conf()")
		eventually(t, "each session has the new settings", func() bool {
			return queryInt(t, db, "select count(*) from pg_settings where setting = $1", "changed_"+mode) == 1
		})
		after := rest(t, db, 3)
		for _, pid := range after {
			if !slices.Contains(before, pid) {
				t.Errorf("sslmode=%s: session %d is a new one", mode, pid)
			}
		}
		if n := stats(t, db); n.ClosedDead != 0 || n.ClosedBroken != 0 || n.Opens != 3 {
			t.Errorf("sslmode=%s: %+v", mode, n)
		}
	}
}
