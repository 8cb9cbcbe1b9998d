package pgpooled_test

import (
	"database/sql/driver"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// A COMMIT that waits for a standby, and the wait is ended: PostgreSQL says
// "done", with a warning, and no standby has it.
func TestCommitWhoseReplicationIsInterruptedIsUnknown(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Params: map[string]string{"synchronous_standby_names": "nobody", "synchronous_commit": "local"}})
	mustExec(t, s.Admin(), "create table truth (id int)")
	rows := 0
	for _, mode := range append([]string{"off"}, checks...) {
		for _, how := range []string{"cancelled", "terminated", "cut", "cancelled under the caller's own handler"} {
			db, proxy := through(t, s, "commit_check", mode, "sslmode", "disable", "pool_timeout", "300ms")
			conn := pinned(t, db)
			tx, err := conn.BeginTx(testContext(t), nil)
			must(t, err)
			pid := pidOf(t, tx)
			mustExec(t, tx, "insert into truth values (1)")
			mustExec(t, tx, "set local synchronous_commit = on")
			var heard atomic.Int32
			if strings.HasSuffix(how, "handler") {
				must(t, conn.Raw(func(dc any) error {
					pq.SetNoticeHandler(pgpooled.PQConn(dc), func(*pq.Error) { heard.Add(1) })
					return nil
				}))
			}
			done := committing(tx)
			eventually(t, "it waits for a standby", func() bool {
				return queryInt(t, s.Admin(), "select count(*) from pg_stat_activity where pid = $1 and wait_event = 'SyncRep'", pid) == 1
			})
			switch how {
			case "terminated":
				mustExec(t, s.Admin(), "select pg_terminate_backend($1)", pid)
			case "cut":
				proxy.Cut(faultnet.CutClient)
			default:
				mustExec(t, s.Admin(), "select pg_cancel_backend($1)", pid)
			}
			err = result(t, done)
			var unknown *pgpooled.OutcomeUnknownError
			switch {
			case !errors.As(err, &unknown):
				t.Errorf("%s, %s: %T %v", mode, how, err, err)
			case how == "cut":
				if committed, err := unknown.Resolve(testContext(t)); err == nil || committed {
					t.Errorf("%s, %s: no standby has it yet: %t", mode, how, committed)
				}
				mustExec(t, s.Admin(), "select pg_terminate_backend($1)", pid)
				awaitBackendEnd(t, s, pid)
			case !strings.Contains(err.Error(), "synchronous replication"):
				t.Errorf("%s, %s: %v", mode, how, err)
			}
			if strings.HasSuffix(how, "handler") && heard.Load() != 1 {
				t.Errorf("%s: the caller's handler heard %d warnings", mode, heard.Load())
			}
			if rows++; queryInt(t, s.Admin(), "select count(*) from truth") != rows {
				t.Errorf("%s, %s: want %d rows", mode, how, rows)
			}
			_ = conn.Close()
		}
	}
}

// The caller finds no handler on lib/pq's connection but its own, however often it
// takes the connection out.
func TestRawFindsTheCallersOwnHandlerOnly(t *testing.T) {
	t.Parallel()
	db := open(t)
	conn := pinned(t, db)
	raw := func(f func(driver.Conn)) {
		t.Helper()
		must(t, conn.Raw(func(dc any) error { f(pgpooled.PQConn(dc)); return nil }))
	}
	heard := 0
	for range 3 {
		raw(func(c driver.Conn) {
			if pq.NoticeHandler(c) != nil {
				t.Error("a handler that nobody set")
			}
		})
		mustExec(t, conn, "select 1")
	}
	raw(func(c driver.Conn) { pq.SetNoticeHandler(c, func(*pq.Error) { heard++ }) })
	for range 3 {
		raw(func(driver.Conn) {})
		mustExec(t, conn, "do $$ begin raise notice 'x'; end $$")
	}
	if heard != 3 {
		t.Errorf("heard %d of 3 notices", heard)
	}
	must(t, conn.Close())
	next := pinned(t, db)
	mustExec(t, next, "do $$ begin raise notice 'x'; end $$")
	if s := stats(t, db); heard != 3 || s.Opens != 1 {
		t.Errorf("the next caller's notice was heard: %d, %+v", heard, s)
	}
}
