package pgpooled_test

import (
	"testing"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// pgpool-II gives each client a server session of its own and hands on what it
// is sent.
func TestBehindPgpoolTwoClientsAreKeptApartAndCancelsHit(t *testing.T) {
	needsProxies(t)
	p := pgtest.PgpoolT(t, server, 8)
	name := app()
	one := openWith(t, p.DSN("application_name", name, "max_open_conns", "1", "cancel_grace", "20s"), quiet)
	two := openWith(t, p.DSN("max_open_conns", "1"), quiet)
	if wrong, failed := takingTurns(t, one, two); wrong+failed > 0 {
		t.Errorf("%d answers of somebody else, %d errors", wrong, failed)
	}
	if c := capacity(t, one, 1); c.Pooler == "no" {
		t.Error("a pooler passes for a server")
	}
	cancelAndLook(t, one, name, two)
}

func TestBehindPgpoolAServerProcessIsKilled(t *testing.T) {
	needsProxies(t)
	s := pgtest.StartT(t, pgtest.Options{})
	mustExec(t, s.Admin(), "create table held (id int)")
	p, name := pgtest.PgpoolT(t, s, 4), app()
	killWhatRuns(t, s, openWith(t, p.DSN("application_name", name, "pool_timeout", "50s"), quiet), name)
}

// Its end is noticed, its return waited for; a client too many is told 53300.
func TestBehindPgpoolThatIsKilledOrFull(t *testing.T) {
	needsProxies(t)
	table, name := looseTable(t), app()
	p := pgtest.PgpoolT(t, server, 2)
	db := openWith(t, p.DSN("application_name", name, "pool_timeout", "50s", "max_open_conns", "2"), quiet)
	release := locked(t, server, table)
	done := inserting(t, db, table)
	heldUp(t, server, name)
	p.Kill()
	asUnknown(t, result(t, done))
	release()
	done = beside(func() error { _, err := db.ExecContext(testContext(t), "select 1"); return err })
	eventually(t, "an outage begins", func() bool { return stats(t, db).OpenErrors > 0 })
	must(t, p.Up(testContext(t)))
	must(t, result(t, done))

	hold(t, db, 2)
	checkFull(t, openWith(t, p.DSN("pool_timeout", "50s"), quiet), "53300")
}
