package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled"
)

// 'now' and 'today' stand for the time at which the text is read: kept, they
// would stand still.
func TestALiteralOfTheTimeDoesNotStandStill(t *testing.T) {
	t.Parallel()
	db := open(t, "max_open_conns", "1")
	for _, text := range []string{"select 'now'::timestamptz::text || $1", "select timestamp ' NOW ' || $1", "select $$now$$::timestamp || $1"} {
		before := ""
		for i := range 5 {
			var now string
			if err := db.QueryRow(text, "").Scan(&now); err != nil || now == before {
				t.Errorf("%s, call %d: %s again (%v)", text, i, now, err)
			}
			before = now
		}
		st, err := db.Prepare(text)
		if err != nil {
			t.Fatal(err)
		}
		var again string
		if err := st.QueryRow("").Scan(&again); err != nil || again == before {
			t.Errorf("%s, prepared: %s again (%v)", text, again, err)
		}
		_ = st.Close()
	}
	for range 4 {
		askFor(t, db, "select $1::int where now() is not null and 'nothing' <> ''", 1)
	}
	if n := named(t, db); n != 1 {
		t.Errorf("%d statements", n)
	}
}

// Who deallocates is no pooler: the cache stays on, and says nothing.
func TestOnesOwnDeallocateLeavesTheCacheOn(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	log := &journal{}
	db, err := pgpooled.Open(server.DSN("application_name", app(), "max_open_conns", "1"), log.option())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, how := range []string{"deallocate all", "discard all", "do $$begin execute 'deallocate all'; end$$", "raw"} {
		for range 4 {
			askFor(t, db, "select $1::int", 7)
		}
		conn, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		st, err := conn.PrepareContext(ctx, "select $1::int")
		if err != nil {
			t.Fatal(err)
		}
		if how == "raw" {
			err = conn.Raw(func(c any) error {
				_, err := pgpooled.PQConn(c).(driver.ExecerContext).ExecContext(ctx, "deallocate all", nil)
				return err
			})
		} else {
			_, err = conn.ExecContext(ctx, how)
		}
		if err != nil {
			t.Fatal(how, err)
		}
		for range 3 {
			var v int
			if err := st.QueryRowContext(ctx, 5).Scan(&v); err != nil || v != 5 {
				t.Errorf("%s: %d, %v", how, v, err)
			}
			if err := conn.QueryRowContext(ctx, "select $1::int", 6).Scan(&v); err != nil || v != 6 {
				t.Errorf("%s: %d, %v", how, v, err)
			}
		}
		_ = st.Close()
		_ = conn.Close()
		for range 4 {
			askFor(t, db, "select $1::int", 7)
		}
		if n := named(t, db); n != 1 {
			t.Errorf("%s: %d statements", how, n)
		}
	}
	if n := log.count("cache is off"); n > 0 {
		t.Error(log)
	}
}

// The type of an argument is that of the column when the statement was prepared:
// a date for a column that is a timestamptz by now would lose the time of day,
// without an error. What this pool alters, all of its sessions hear of.
func TestAllSessionsHearOfATypeThatThePoolAlters(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, inTx := range []bool{false, true} {
		table := newTable(t)
		mustExec(t, server.Admin(), "alter table "+table+" add column at date")
		db := open(t, "max_open_conns", "2")
		db.SetMaxOpenConns(2)
		insert := "insert into " + table + " values ($1, 'x', $2)"
		noon := time.Date(2020, 1, 2, 12, 0, 0, 0, time.UTC)
		for id := range 20 { // over both sessions
			a, err := db.Conn(ctx)
			if err != nil {
				t.Fatal(err)
			}
			b, err := db.Conn(ctx)
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, a, insert, 2*id, noon)
			mustExec(t, b, insert, 2*id+1, noon)
			_, _ = a.Close(), b.Close()
		}
		if inTx {
			tx, err := db.Begin()
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, tx, "alter table "+table+" alter column at type timestamptz")
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
		} else {
			mustExec(t, db, "alter table "+table+" alter column at type timestamptz")
		}
		var conns []*sql.Conn
		for id := range 2 {
			c, err := db.Conn(ctx)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
			mustExec(t, c, insert, 100+id, noon)
		}
		for _, c := range conns {
			_ = c.Close()
		}
		if n := queryInt(t, server.Admin(), fmt.Sprintf("select count(*) from %s where id >= 100 and at = $1", table), noon); n != 2 {
			t.Errorf("in a transaction: %t: %d of 2 rows have their time", inTx, n)
		}
	}
}
