package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// checks are the two ways to find out about a lost COMMIT.
var checks = []string{"on", "ledger"}

// inBothChecks runs a test once for each way.
func inBothChecks(t *testing.T, test func(t *testing.T, mode string)) {
	t.Parallel()
	for _, mode := range checks {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			test(t, mode)
		})
	}
}

// commitBytes is how much a Commit sends and gets after the statements of body.
// The message with COMMIT and its answer are the last. What else is sent
// meanwhile, as by a session being closed, is not counted.
func commitBytes(t *testing.T, db *sql.DB, proxy *faultnet.Proxy, body ...string) (sent, got int) {
	t.Helper()
	for last := -1; ; last = sent {
		tx := begun(t, testContext(t), db)
		for _, query := range body {
			mustExec(t, tx, query)
		}
		sent0, got0 := bytesOf(proxy)
		must(t, tx.Commit())
		if sent, got = bytesOf(proxy); sent-sent0 == last {
			return sent - sent0, got - got0
		}
		sent -= sent0
	}
}

// bytesOf counts when no write is under way: an answer can be faster than the
// count of what it answers.
func bytesOf(proxy *faultnet.Proxy) (sent, got int) {
	proxy.Freeze()
	defer proxy.Thaw()
	return proxy.Bytes(faultnet.ToServer), proxy.Bytes(faultnet.ToClient)
}

// commitWithoutAnswer runs the statements in a transaction whose COMMIT the server
// executes; the last byte of its answer is lost. Before, it commits the same at
// least twice without a fault.
func commitWithoutAnswer(t *testing.T, db *sql.DB, proxy *faultnet.Proxy, body ...string) error {
	t.Helper()
	_, got := commitBytes(t, db, proxy, body...)
	tx := begun(t, testContext(t), db)
	for _, query := range body {
		mustExec(t, tx, query)
	}
	fired := proxy.Fired()
	proxy.Arm(faultnet.ToClient, got-1, faultnet.CutClient)
	err := tx.Commit()
	if proxy.Disarm(); proxy.Fired() != fired+1 {
		t.Fatalf("the answer was not cut: %v", err)
	}
	return err
}

func asUnknown(t *testing.T, err error) *pgpooled.OutcomeUnknownError {
	t.Helper()
	var unknown *pgpooled.OutcomeUnknownError
	if !errors.As(err, &unknown) {
		t.Fatalf("want an unknown outcome, got %T %v", err, err)
	}
	return unknown
}

func asLost(t *testing.T, err error) *pgpooled.ConnLostError {
	t.Helper()
	var lost *pgpooled.ConnLostError
	var unknown *pgpooled.OutcomeUnknownError
	if !errors.As(err, &lost) || errors.As(err, &unknown) {
		t.Fatalf("want a lost connection and nothing done, got %T %v", err, err)
	}
	return lost
}

// gated is a table whose inserts make COMMIT wait for an advisory lock, which the
// test holds until open is called. So a transaction can be held in its COMMIT.
type gated struct {
	table string
	open  func()
}

func newGate(t *testing.T, s *pgtest.Server) gated {
	t.Helper()
	n := appCount.Add(1)
	g := gated{table: fmt.Sprintf("gated%d", n)}
	mustExec(t, s.Admin(), fmt.Sprintf(`create table %[1]s (id int);
		create function %[1]s_wait() returns trigger language plpgsql as $$ begin
			perform pg_advisory_xact_lock_shared(%[2]d); return null; end $$;
		create constraint trigger wait after insert on %[1]s deferrable initially deferred
			for each row execute function %[1]s_wait()`, g.table, n))
	db, _ := openOn(t, s)
	holder := pinned(t, db)
	mustExec(t, holder, fmt.Sprintf("select pg_advisory_lock(%d)", n))
	g.open = func() {
		t.Helper()
		mustExec(t, holder, fmt.Sprintf("select pg_advisory_unlock(%d)", n))
	}
	return g
}

func pidOf(t *testing.T, q queryer) int {
	t.Helper()
	return queryInt(t, q, "select pg_backend_pid()")
}

func awaitWaiting(t *testing.T, s *pgtest.Server, pid int) {
	t.Helper()
	eventually(t, "the COMMIT waits", func() bool {
		return queryInt(t, s.Admin(), "select count(*) from pg_stat_activity where pid = $1 and wait_event = 'advisory'", pid) == 1
	})
}

func awaitBackendEnd(t *testing.T, s *pgtest.Server, pid int) {
	t.Helper()
	eventually(t, "the server process ends", func() bool {
		return queryInt(t, s.Admin(), "select count(*) from pg_stat_activity where pid = $1", pid) == 0
	})
}

// committing runs Commit beside the test.
func committing(tx *sql.Tx) <-chan error {
	done := make(chan error, 1)
	go func() { done <- tx.Commit() }()
	return done
}

func result(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-testContext(t).Done():
		t.Fatal("Commit hangs")
		return nil
	}
}

// unresolved makes a transaction whose Commit ended with its context and asked in
// vain: the network is silent. all: the server got the whole COMMIT, and has
// executed it, as look can see; else the last byte is missing. The network stays
// silent.
func unresolved(t *testing.T, look queryer, db *sql.DB, proxy *faultnet.Proxy, table string, id int, all bool) (unknown *pgpooled.OutcomeUnknownError, xid string) {
	t.Helper()
	n, _ := commitBytes(t, db, proxy)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	tx := begun(t, ctx, db)
	mustExec(t, tx, fmt.Sprintf("insert into %s values (%d)", table, id))
	if err := tx.QueryRow("select pg_current_xact_id()::text").Scan(&xid); err != nil {
		t.Fatal(err)
	}
	if !all {
		n--
	}
	fired := proxy.Fired()
	proxy.Arm(faultnet.ToServer, n, faultnet.Stall)
	done := committing(tx)
	must(t, proxy.AwaitFired(testContext(t), fired+1))
	proxy.Freeze()
	if all {
		eventually(t, "it is committed", func() bool {
			return queryInt(t, look, fmt.Sprintf("select count(*) from %s where id = %d", table, id)) == 1
		})
	}
	cancel()
	unknown = asUnknown(t, result(t, done))
	if unknown.Check == nil || !errors.Is(unknown, context.Canceled) {
		t.Fatalf("%v, check: %v", unknown, unknown.Check)
	}
	return unknown, xid
}
