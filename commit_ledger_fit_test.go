package pgpooled_test

import (
	"testing"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

const ledgerColumns = `token uuid, fence boolean not null default false, written timestamptz not null default clock_timestamp()`

// A table of the name that cannot bear witness is not asked: no transaction fails
// for it, and what became of a lost COMMIT is unknown.
func TestALedgerThatIsNoWitnessIsNotUsed(t *testing.T) {
	t.Parallel()
	for what, ddl := range map[string]string{
		"without a key":         `create table pgpooled_ledger (` + ledgerColumns + `)`,
		"with a wider key":      `create table pgpooled_ledger (` + ledgerColumns + `, primary key (token, fence))`,
		"with a partial key":    `create table pgpooled_ledger (` + ledgerColumns + `); create unique index on pgpooled_ledger (token) where fence`,
		"with a key of another": `create table pgpooled_ledger (` + ledgerColumns + `, primary key (written))`,
		"partitioned": `create table pgpooled_ledger (` + ledgerColumns + `, primary key (token, written)) partition by range (written);
			create table pgpooled_ledger_all partition of pgpooled_ledger default`,
		"unlogged": `create unlogged table pgpooled_ledger (` + ledgerColumns + `, primary key (token))`,
		"a view":   `create table a (` + ledgerColumns + `); create view pgpooled_ledger as select * from a`,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dbname := server.Database(t)
			su := open(t, "dbname", dbname)
			mustExec(t, su, "create table truth (id int);"+ddl)
			db, proxy := through(t, server, "dbname", dbname, "commit_check", "ledger", "sslmode", "disable", "max_open_conns", "1")
			unknown := asUnknown(t, commitWithoutAnswer(t, db, proxy, "insert into truth values (1)"))
			if unknown.Check == nil || queryInt(t, su, "select count(*) from truth") < 3 {
				t.Errorf("%v, check: %v", unknown, unknown.Check)
			}
			if committed, err := unknown.Resolve(testContext(t)); err == nil {
				t.Errorf("Resolve: %t", committed)
			}
		})
	}
}

// A session's own temporary table of the name is nobody else's.
func TestALedgerIsNotATemporaryTable(t *testing.T) {
	t.Parallel()
	dbname := server.Database(t)
	su := open(t, "dbname", dbname)
	mustExec(t, su, "create table truth (id int)")
	db, proxy := through(t, server, "dbname", dbname, "commit_check", "ledger", "sslmode", "disable", "max_open_conns", "1")
	mustExec(t, db, `create temporary table pgpooled_ledger (`+ledgerColumns+`, primary key (token))`)
	if unknown := asUnknown(t, commitWithoutAnswer(t, db, proxy, "insert into truth values (1)")); unknown.Check == nil {
		t.Error(unknown)
	}
}

// A ledger that was made unlogged after it had been found is emptied by a crash.
func TestALedgerThatWasMadeUnloggedSinceTellsNothing(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	mustExec(t, s.Admin(), "create table truth (id int)")
	db, proxy := through(t, s, "commit_check", "ledger", "sslmode", "disable", "max_open_conns", "1", "cancel_grace", "200ms")
	unknown, _ := unresolved(t, s.Admin(), db, proxy, "truth", 1, true)
	mustExec(t, s.Admin(), "alter table pgpooled_ledger set unlogged")
	mustExec(t, s.Admin(), "checkpoint")
	proxy.CutAll(true)
	proxy.Thaw()
	must(t, s.Down("kill"))
	must(t, s.Up(testContext(t)))
	committed, err := unknown.Resolve(testContext(t))
	if n := queryInt(t, s.Admin(), "select count(*) from truth"); n != 1 || err == nil {
		t.Errorf("%d rows; Resolve: %t, %v", n, committed, err)
	}
}

// A row says what it is by itself, not by a default that somebody else wrote.
func TestALedgersDefaultsAreNotBelieved(t *testing.T) {
	t.Parallel()
	dbname := server.Database(t)
	su := open(t, "dbname", dbname)
	mustExec(t, su, "create table truth (id int); create table pgpooled_ledger (token uuid primary key, fence boolean default true, written timestamptz)")
	db, proxy := through(t, server, "dbname", dbname, "commit_check", "ledger", "sslmode", "disable", "max_open_conns", "1")
	if err := commitWithoutAnswer(t, db, proxy, "insert into truth values (1)"); err != nil {
		t.Error(err)
	}
}
