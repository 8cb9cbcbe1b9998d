package pgpooled_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
)

// named counts the statements that the session of a one-session pool has.
func named(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	if err := db.QueryRow("select count(*) from pg_prepared_statements").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func askFor(t *testing.T, db *sql.DB, query string, v int) {
	t.Helper()
	var got int
	if err := db.QueryRow(query, v).Scan(&got); err != nil || got != v {
		t.Fatalf("%s: %d, %v", query, got, err)
	}
}

func TestATextIsPreparedWhenItComesAgain(t *testing.T) {
	t.Parallel()
	for _, tls := range []string{"disable", "require"} {
		db := open(t, "max_open_conns", "1", "sslmode", tls)
		for range 5 {
			askFor(t, db, "select $1::int", 7)
		}
		if n := named(t, db); n != 1 {
			t.Errorf("%s: %d statements", tls, n)
		}
		for i := range 20 {
			askFor(t, db, fmt.Sprintf("select $1::int + %d - %d", i, i), 7)
		}
		if n := named(t, db); n != 1 {
			t.Errorf("%s: %d statements after texts that came once", tls, n)
		}
	}
}

func TestTheCacheKeepsToItsCapacity(t *testing.T) {
	t.Parallel()
	db := open(t, "max_open_conns", "1", "statement_cache_capacity", "3")
	for range 3 {
		for i := range 6 {
			query := fmt.Sprintf("select $1::int + %d - %d", i, i)
			askFor(t, db, query, 7)
			askFor(t, db, query, 7)
		}
	}
	if n := named(t, db); n != 3 {
		t.Errorf("%d statements", n)
	}
	for _, kv := range [][]string{{"statement_cache_capacity", "0"}, {"binary_parameters", "yes"}, {"pgbouncer", "true"}} {
		db := open(t, append(kv, "max_open_conns", "1")...)
		for range 5 {
			askFor(t, db, "select $1::int", 7)
		}
		if n := named(t, db); n != 0 {
			t.Errorf("%s: %d statements", kv, n)
		}
	}
}

func TestAPreparedStatementIsPreparedOncePerSession(t *testing.T) {
	t.Parallel()
	db := open(t, "max_open_conns", "1")
	for range 3 { // the proof that the connection is direct comes first
		askFor(t, db, "select $1::int", 7)
	}
	st, err := db.Prepare("select $1::int * 2")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		var v int
		if err := st.QueryRow(i).Scan(&v); err != nil || v != 2*i {
			t.Fatal(v, err)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if n := named(t, db); n != 2 {
		t.Errorf("%d statements", n)
	}
}

// A table changes under a cached statement: the caller does not notice.
func TestACachedStatementFollowsItsTable(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	db := open(t, "max_open_conns", "2", "min_idle_conns", "2")
	mustExec(t, db, "insert into "+table+" values (1, 'a')")
	read := func(want string) {
		t.Helper()
		rows, err := db.Query("select * from "+table+" where id = $1", 1)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		columns, _ := rows.Columns()
		if got := fmt.Sprint(columns); got != want || !rows.Next() {
			t.Fatal(got, rows.Err())
		}
	}
	for _, change := range []struct{ ddl, want string }{
		{"select 1", "[id v]"},
		{"alter table " + table + " add column w int", "[id v w]"},
		{"alter table " + table + " drop column v", "[id w]"},
		{"alter table " + table + " alter column id type text", "[id w]"},
		{"alter table " + table + " rename column w to x", "[id x]"},
	} {
		for _, by := range []*sql.DB{server.Admin(), db} {
			if by == server.Admin() {
				mustExec(t, by, change.ddl)
			} else {
				mustExec(t, by, "discard all")
			}
			for range 4 {
				read(change.want)
			}
		}
	}
}

// What the session itself changes inside a transaction must not fail it.
func TestACachedStatementFollowsItsOwnTransaction(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	db := open(t, "max_open_conns", "1")
	query := "select * from " + table + " where id = $1"
	ctx := context.Background()
	for range 3 {
		rows, err := db.Query(query, 1)
		if err != nil {
			t.Fatal(err)
		}
		rows.Close()
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		for _, text := range []string{fmt.Sprintf("alter table %s add column c%d int", table, i), "deallocate all"} {
			if _, err := tx.Exec(text); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				rows, err := tx.Query(query, 1)
				if err != nil {
					t.Fatal(text, err)
				}
				if c, _ := rows.Columns(); len(c) != 3+i {
					t.Error(text, c)
				}
				rows.Close()
			}
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}
