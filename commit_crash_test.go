package pgpooled_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// crashes are the ways in which a server loses what it had not written to disk.
var crashes = map[string]func(t *testing.T, s *pgtest.Server){
	"all processes": func(t *testing.T, s *pgtest.Server) {
		must(t, s.Down("kill"))
		must(t, s.Up(testContext(t)))
	},
	"one foreign backend": func(t *testing.T, s *pgtest.Server) {
		postmaster := s.Pid()
		db, _ := openOn(t, s)
		foreign, witness := pinned(t, db), pinned(t, db)
		other := pidOf(t, witness)
		kill9(t, pidOf(t, foreign))
		awaitExit(t, other)
		eventually(t, "the server is back", func() bool { return s.Admin().Ping() == nil })
		if s.Pid() != postmaster {
			t.Error("the postmaster was to live on")
		}
	},
}

// The WAL of a transaction was not on disk when the server crashed: its id goes
// to a stranger, who commits, and pg_xact_status says so of the lost one.
func TestCommitFateAfterACrashThatGaveTheIdToAStranger(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		for name, crash := range crashes {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := pgtest.StartT(t, pgtest.Options{Params: map[string]string{
					"autovacuum": "off", "wal_writer_delay": "10s", "wal_level": "minimal", "max_wal_senders": "0"}})
				mustExec(t, s.Admin(), "create table truth (id int); create table stranger (id text)")
				db, proxy := through(t, s, "commit_check", mode, "cancel_grace", "200ms")
				unknown, xid := unresolved(t, s.Admin(), db, proxy, "truth", 1, false)
				crash(t, s)
				for got := ""; got != xid; {
					if len(got) > len(xid) || len(got) == len(xid) && got > xid {
						t.Fatalf("the id %s was not given again: the server is at %s", xid, got)
					}
					if err := s.Admin().QueryRow("insert into stranger select pg_current_xact_id() returning id").Scan(&got); err != nil {
						t.Fatal(err)
					}
				}
				var status string
				if err := s.Admin().QueryRow("select pg_xact_status('" + xid + "')").Scan(&status); err != nil || status != "committed" {
					t.Fatalf("the hazard is not there: %q, %v", status, err)
				}
				proxy.CutAll(true)
				proxy.Thaw()
				committed, err := unknown.Resolve(testContext(t))
				if rows := queryInt(t, s.Admin(), "select count(*) from truth"); rows != 0 {
					t.Fatalf("%d rows", rows)
				}
				switch {
				case committed:
					t.Error("it says committed, by a stranger's id")
				case mode == "on" && (err == nil || !strings.Contains(err.Error(), "no longer tell")):
					t.Errorf("by its id nobody can tell: %v", err)
				case mode == "ledger" && err != nil:
					t.Error(err)
				}
			})
		}
	})
}

// It was committed and the server crashed before it was asked.
func TestCommitFateOfACommittedTransactionAfterACrash(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		s := pgtest.StartT(t, pgtest.Options{})
		mustExec(t, s.Admin(), "create table truth (id int)")
		db, proxy := through(t, s, "commit_check", mode, "cancel_grace", "200ms")
		id := 0
		for name, crash := range crashes {
			id++
			unknown, _ := unresolved(t, s.Admin(), db, proxy, "truth", id, true)
			crash(t, s)
			proxy.CutAll(true)
			proxy.Thaw()
			committed, err := unknown.Resolve(testContext(t))
			if rows := queryInt(t, s.Admin(), "select count(*) from truth"); rows != id {
				t.Fatalf("%s: %d rows", name, rows)
			}
			if mode == "ledger" && (err != nil || !committed) || mode == "on" && (err == nil || committed) {
				t.Errorf("%s: committed %t, %v", name, committed, err)
			}
		}
	})
}

// The server crashes, or restarts cleanly, while Commit itself is asking.
func TestCommitAsksOnWhileTheServerRestarts(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		s := pgtest.StartT(t, pgtest.Options{})
		mustExec(t, s.Admin(), "create table truth (id int)")
		db, proxy := through(t, s, "commit_check", mode, "pool_timeout", "30s")
		for id, how := range []string{"fast", "immediate", "kill"} {
			n, _ := commitBytes(t, db, proxy)
			tx := begun(t, testContext(t), db)
			mustExec(t, tx, fmt.Sprintf("insert into truth values (%d)", id))
			fired := proxy.Fired()
			proxy.Arm(faultnet.ToServer, n, faultnet.CutClient)
			must(t, proxy.Refuse(true))
			done := committing(tx)
			must(t, proxy.AwaitFired(testContext(t), fired+1))
			eventually(t, "it is committed", func() bool {
				return queryInt(t, s.Admin(), "select count(*) from truth where id = $1", id) == 1
			})
			must(t, s.Down(how))
			must(t, proxy.Refuse(false))
			must(t, s.Up(testContext(t)))
			err := result(t, done)
			if mode == "ledger" && err != nil {
				t.Errorf("%s: %v", how, err)
			} else if mode == "on" && asUnknown(t, err).Check == nil {
				t.Errorf("%s: no reason: %v", how, err)
			}
		}
	})
}
