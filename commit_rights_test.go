package pgpooled_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pgpooled/pgpooled"
)

// inOwnDatabase prepares a database of its own, with a table "truth" that anybody
// may use, and a plain role.
func inOwnDatabase(t *testing.T, prepare string) (dbname, role string) {
	t.Helper()
	dbname = server.Database(t)
	role = fmt.Sprintf("role%d", appCount.Add(1))
	su := open(t, "dbname", dbname)
	mustExec(t, su, "create role "+role+" login; create table truth (id int); grant all on truth to public")
	mustExec(t, su, strings.ReplaceAll(prepare, "ROLE", role))
	t.Cleanup(func() {
		db := open(t, "dbname", dbname)
		mustExec(t, db, "drop owned by "+role+"; drop role "+role)
	})
	return dbname, role
}

// What the check needs is missing or forbidden: transactions commit as without
// it, and a lost COMMIT is unknown, with the reason.
func TestCommitCheckThatIsNotAllowedFailsNoTransaction(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mode, prepare, because string
		options                []string
	}{
		"no EXECUTE on pg_control_system":  {"on", "revoke execute on function pg_control_system() from public", "pg_control_system", nil},
		"no EXECUTE on the id's function":  {"on", "revoke execute on function pg_current_xact_id_if_assigned() from public", "pg_current_xact_id_if_assigned", nil},
		"no EXECUTE on pg_xact_status":     {"on", "revoke execute on function pg_xact_status(xid8) from public", "pg_xact_status", nil},
		"no SELECT on pg_stat_wal":         {"on", "revoke select on pg_stat_wal from public", "pg_stat_wal", nil},
		"PostgreSQL 13: no pg_stat_wal":    {"on", "set allow_system_table_mods = on; drop view pg_stat_wal", "pg_stat_wal", nil},
		"the ledger cannot be made":        {"ledger", "revoke create on schema public from public", "LedgerSchema", nil},
		"no schema to make it in":          {"ledger", "select 1", "LedgerSchema", []string{"search_path", "nowhere"}},
		"no INSERT on the ledger":          {"ledger", pgpooled.LedgerSchema + "; grant select on pgpooled_ledger to ROLE", "permission denied", nil},
		"another table of that name":       {"ledger", "create table pgpooled_ledger (id int); grant all on pgpooled_ledger to ROLE", "of no use", nil},
		"one without a fence":              {"ledger", "create table pgpooled_ledger (token uuid primary key); grant all on pgpooled_ledger to ROLE", "column", nil},
		"one whose token is a truth value": {"ledger", "create table pgpooled_ledger (token boolean primary key, fence boolean); grant all on pgpooled_ledger to ROLE", "22P02", nil},
		"a view of that name":              {"ledger", "create view pgpooled_ledger as select gen_random_uuid() as token, false as fence; grant all on pgpooled_ledger to ROLE", "of no use", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dbname, role := inOwnDatabase(t, test.prepare)
			log := &journal{}
			proxy := newProxy(t, server.Addr())
			db := openWith(t, server.DSN(append([]string{"host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "dbname", dbname, "user", role,
				"sslmode", "disable", "application_name", app(), "commit_check", test.mode, "max_open_conns", "1"}, test.options...)...), log.option())
			err := commitWithoutAnswer(t, db, proxy, "insert into public.truth values (1)")
			unknown := asUnknown(t, err)
			if unknown.Check == nil || !strings.Contains(unknown.Error(), test.because) {
				t.Errorf("want %q in %v", test.because, unknown)
			}
			if committed, err := unknown.Resolve(testContext(t)); err == nil || committed {
				t.Errorf("Resolve: %t, %v", committed, err)
			}
			if test.because != "pg_xact_status" {
				eventually(t, "one warning is logged", func() bool { return log.count("would be unknown")-log.count("old rows of") == 1 }) // chance may have swept
			}
			if n := queryInt(t, db, "select count(*) from public.truth"); n != 3 {
				t.Errorf("%d rows", n)
			}
		})
	}
}

// The transaction itself leaves the check without rights: it still commits.
func TestCommitCheckInATransactionThatGaveUpItsRights(t *testing.T) {
	inBothChecks(t, func(t *testing.T, mode string) {
		dbname, role := inOwnDatabase(t, `revoke create on schema public from public; revoke execute on function pg_current_xact_id_if_assigned() from public`)
		for name, test := range map[string]struct {
			options     []string
			first, last string
			provable    string // the way that still knows
		}{
			"SET LOCAL ROLE":                {nil, "select 1", "set local role " + role, ""},
			"SET TRANSACTION READ ONLY":     {nil, "select 1", "set transaction read only", "on"},
			"default_transaction_read_only": {[]string{"default_transaction_read_only", "on"}, "set transaction read write", "select 1", "both"},
			"SET LOCAL search_path":         {nil, "select 1", "set local search_path = nowhere", "both"},
			"nothing written":               {nil, "select 1", "select 1", "ledger"},
		} {
			db, proxy := through(t, server, append([]string{"dbname", dbname, "commit_check", mode, "max_open_conns", "1", "sslmode", "disable"}, test.options...)...)
			insert := "insert into public.truth values (1)"
			if name == "nothing written" {
				insert = "select 1"
			}
			before := queryInt(t, db, "select count(*) from truth")
			err := commitWithoutAnswer(t, db, proxy, test.first, insert, test.last)
			if test.provable == mode || test.provable == "both" {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			} else if unknown := (*pgpooled.OutcomeUnknownError)(nil); !errors.As(err, &unknown) || unknown.Check == nil {
				t.Errorf("%s: want an unknown outcome and the reason: %v", name, err)
			}
			if rows := queryInt(t, db, "select count(*) from truth"); name != "nothing written" && rows != before+3 {
				t.Errorf("%s: %d rows after %d", name, rows, before)
			}
		}
	})
}
