package pgpooled_test

import (
	"sync"
	"testing"

	"github.com/pgpooled/pgpooled"
)

// Whatever becomes of the ledger, no transaction fails for it, and the next ones
// have it again.
func TestLedgerThatIsDroppedIsMadeAgain(t *testing.T) {
	t.Parallel()
	dbname := server.Database(t)
	su := open(t, "dbname", dbname)
	mustExec(t, su, "create table truth (id int)")
	db := open(t, "dbname", dbname, "commit_check", "ledger", "max_open_conns", "1")
	insert := func() {
		t.Helper()
		tx := begun(t, testContext(t), db)
		mustExec(t, tx, "insert into truth values (1)")
		must(t, tx.Commit())
	}
	insert()
	for range 2 {
		mustExec(t, su, "drop table pgpooled_ledger")
		insert()
		insert()
		if n := queryInt(t, su, "select count(*) from pgpooled_ledger"); n != 1 {
			t.Errorf("%d tokens", n)
		}
	}
	if n := queryInt(t, su, "select count(*) from truth"); n != 5 {
		t.Errorf("%d rows", n)
	}
}

// A ledger that was dropped and made again has none of the old tokens: it must not
// be taken for a witness that there were none.
func TestLedgerThatWasDroppedSinceTellsNothing(t *testing.T) {
	t.Parallel()
	dbname := server.Database(t)
	su := open(t, "dbname", dbname)
	mustExec(t, su, "create table truth (id int)")
	db, proxy := through(t, server, "dbname", dbname, "commit_check", "ledger", "sslmode", "disable", "max_open_conns", "1", "cancel_grace", "200ms")
	unknown, _ := unresolved(t, su, db, proxy, "truth", 1, true)
	proxy.CutAll(true)
	proxy.Thaw()
	mustExec(t, su, "drop table pgpooled_ledger")
	for range 2 { // the first one notices, the second makes it again
		must(t, begun(t, testContext(t), db).Commit())
	}
	committed, err := unknown.Resolve(testContext(t))
	if n := queryInt(t, su, "select count(*) from truth"); n != 1 {
		t.Fatalf("%d rows", n)
	}
	if err == nil && !committed {
		t.Error("it was committed, and Resolve says that it was not")
	}
	// What comes now has a witness again.
	unknown, _ = unresolved(t, su, db, proxy, "truth", 2, true)
	proxy.CutAll(true)
	proxy.Thaw()
	if committed, err := unknown.Resolve(testContext(t)); err != nil || !committed {
		t.Errorf("Resolve: %t, %v", committed, err)
	}
}

// Tokens that nobody will ask for are deleted, and no other: not those of lost
// COMMITs, and those of other programs only after a day.
func TestLedgerIsPrunedWithoutALie(t *testing.T) {
	t.Parallel()
	dbname := server.Database(t)
	su := open(t, "dbname", dbname)
	mustExec(t, su, "create table truth (id int);"+pgpooled.LedgerSchema)
	mustExec(t, su, `insert into pgpooled_ledger (token, written) values
		('00000000-0000-0000-0000-000000000001', clock_timestamp() - interval '2 days'),
		('00000000-0000-0000-0000-000000000002', clock_timestamp() - interval '20 hours')`)
	db, proxy := through(t, server, "dbname", dbname, "commit_check", "ledger", "sslmode", "disable", "max_open_conns", "1", "cancel_grace", "200ms")
	unknown, _ := unresolved(t, su, db, proxy, "truth", 1, true)
	proxy.CutAll(true)
	proxy.Thaw()
	for range 250 {
		must(t, begun(t, testContext(t), db).Commit())
	}
	if n := queryInt(t, su, "select count(*) from pgpooled_ledger"); n > 2+100+3 {
		t.Errorf("%d tokens after 250 transactions", n)
	}
	if n := queryInt(t, su, "select sum(right(token::text, 12)::int) from pgpooled_ledger where token::text like '00000000-0000%'"); n != 2 {
		t.Errorf("%d: the row of two days is to go, the one of 20 hours to stay", n)
	}
	if committed, err := unknown.Resolve(testContext(t)); err != nil || !committed {
		t.Errorf("Resolve: %t, %v", committed, err)
	}
}

// Many sessions meet a database without a ledger at once.
func TestLedgerIsMadeByManyAtOnce(t *testing.T) {
	t.Parallel()
	dbname := server.Database(t)
	log := &journal{}
	db := openWith(t, server.DSN("dbname", dbname, "application_name", app(), "commit_check", "ledger", "max_open_conns", "20"), log.option())
	must(t, pgpooled.Warm(testContext(t), db))
	var all sync.WaitGroup
	start := make(chan struct{})
	for range 20 {
		all.Go(func() {
			<-start
			tx, err := db.Begin()
			if err == nil {
				_, err = tx.Exec("select pg_sleep(0.05)")
			}
			if err == nil {
				err = tx.Commit()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	all.Wait()
	if n := queryInt(t, db, "select count(*) from pgpooled_ledger"); n != 20 || log.count("would be unknown") != 0 {
		t.Errorf("%d tokens; %s", n, log)
	}
}

// The schema that the ledger was found in stays the one, whatever a caller's
// search_path says, quotes and all.
func TestLedgerIsFoundByItsSchema(t *testing.T) {
	t.Parallel()
	dbname := server.Database(t)
	su := open(t, "dbname", dbname)
	mustExec(t, su, `create schema "Mine ""s"; create schema other; create table truth (id int)`)
	db, proxy := through(t, server, "dbname", dbname, "commit_check", "ledger", "sslmode", "disable", "max_open_conns", "1",
		"search_path", `"Mine ""s"`)
	for _, body := range []string{"select 1", "set local search_path = other", "set search_path = other, public"} {
		if err := commitWithoutAnswer(t, db, proxy, body, "insert into public.truth values (1)"); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
	mine := queryInt(t, su, `select count(*) from "Mine ""s".pgpooled_ledger`)
	// One transaction in a hundred deletes tokens whose answer came; three did not.
	if n := queryInt(t, su, "select count(*) from pg_class where relname = 'pgpooled_ledger'"); n != 1 || mine < 3 {
		t.Errorf("%d ledgers, %d tokens in the right one", n, mine)
	}
	if n := queryInt(t, su, "select count(*) from truth"); n < 9 {
		t.Errorf("%d rows", n)
	}
}

// default_transaction_read_only is not for transactions that database/sql begins,
// nor for making the ledger.
func TestLedgerIsMadeWhereTransactionsReadByDefault(t *testing.T) {
	t.Parallel()
	dbname := server.Database(t)
	mustExec(t, open(t, "dbname", dbname), "create table truth (id int)")
	db, proxy := through(t, server, "dbname", dbname, "commit_check", "ledger", "sslmode", "disable", "max_open_conns", "1",
		"default_transaction_read_only", "on")
	if err := commitWithoutAnswer(t, db, proxy, "insert into truth values (1)"); err != nil {
		t.Error(err)
	}
}

// Programs that end before one of their sessions has a hundred tokens to delete
// clean up all the same.
func TestTheLedgerOfShortLivedProgramsIsSwept(t *testing.T) {
	t.Parallel()
	dbname := server.Database(t)
	su := open(t, "dbname", dbname)
	mustExec(t, su, pgpooled.LedgerSchema+`; insert into pgpooled_ledger (token, written)
		values ('00000000-0000-0000-0000-000000000001', clock_timestamp() - interval '2 days')`)
	for programs := 0; queryInt(t, su, "select count(*) from pgpooled_ledger where written < clock_timestamp() - interval '1 day'") > 0; programs++ {
		if programs == 200 { // chance lets one in 10^17 come here
			t.Fatal("4,000 transactions have not swept")
		}
		db := openWith(t, server.DSN("dbname", dbname, "application_name", app(), "commit_check", "ledger"))
		for range 20 {
			must(t, begun(t, testContext(t), db).Commit())
		}
		must(t, db.Close())
	}
}
