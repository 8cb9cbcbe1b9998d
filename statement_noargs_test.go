package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strings"
	"testing"

	"github.com/pgpooled/pgpooled"
)

// keeps counts the statements of a one-session pool after so many calls of a
// text without arguments. The text that counts comes too rarely to be kept.
func keeps(t *testing.T, db *sql.DB, calls int, do func(*sql.DB) error) int {
	t.Helper()
	for range calls {
		if err := do(db); err != nil {
			t.Fatal(err)
		}
	}
	return named(t, db)
}

func querying(text string, args ...any) func(*sql.DB) error {
	return func(db *sql.DB) error {
		rows, err := db.Query(text, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
		}
		return rows.Err()
	}
}

// A text without arguments gains no round trip when it is prepared, it costs
// one: it has to come often.
func TestATextWithoutArgumentsIsPreparedWhenItComesOften(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	exec := func(text string) func(*sql.DB) error {
		return func(db *sql.DB) error { _, err := db.Exec(text); return err }
	}
	inTx := func(text string) func(*sql.DB) error {
		return func(db *sql.DB) error {
			tx, err := db.Begin()
			if err != nil {
				return err
			}
			defer tx.Rollback()
			if _, err := tx.Exec(text); err != nil {
				return err
			}
			return tx.Commit()
		}
	}
	for _, test := range []struct {
		name  string
		calls int
		do    func(*sql.DB) error
		want  int
	}{
		{"seldom", 15, querying("select 1"), 0},
		{"often", often, querying("select 1"), 1},
		{"often, with a semicolon", often, querying("select 1; -- ;"), 1},
		{"by Exec", often, exec("update " + table + " set v = 'a;$1'"), 1},
		{"rows by Exec", often, exec("values (1), (2)"), 1},
		{"no rows by Query", often, querying("delete from " + table), 0},
		{"rows of a write", often, querying("with a as (select 1) delete from " + table + " returning id"), 1},
		{"two statements", often, querying("select 1; select 2"), 0},
		{"two statements in one line of a comment", often, querying("select 1 /* ; */; values (1)"), 0},
		{"a backslash, which means two things", often, querying(`select '\'; select 2 -- '`), 0},
		{"in a transaction", often, inTx("select 1"), 0},
		{"no rows", often, exec("set application_name = 'a'"), 0},
		{"what makes kept texts out of date", often, querying("select set_config('search_path', 'public', false)"), 0},
		{"nothing", often, exec(""), 0},
		{"the time at which it is read", often, querying("select 'now'::timestamptz"), 0},
		{"too long", often, querying("select 1 --" + strings.Repeat("x", 64<<10)), 0},
	} {
		db := open(t, "max_open_conns", "1")
		if got := keeps(t, db, test.calls, test.do); got != test.want {
			t.Errorf("%s: %d statements, want %d", test.name, got, test.want)
		}
	}
}

// What is kept for a call with arguments is not asked for without: whose they
// are is the server's to say.
func TestAMissingArgumentIsTheServersToSay(t *testing.T) {
	t.Parallel()
	plain, err := sql.Open("postgres", server.DSN("application_name", app()))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	kept := open(t, "max_open_conns", "1")
	for range often {
		askFor(t, kept, "select $1::int", 7)
		want := describe(plain.Query("select $1::int"))
		if got := describe(kept.Query("select $1::int")); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
}

// Texts that fail, or that only the simple protocol takes, fare as with lib/pq,
// however often they come.
func TestTextsWithoutArgumentsFareAsWithPlainPq(t *testing.T) {
	t.Parallel()
	plain, err := sql.Open("postgres", server.DSN("application_name", app()))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	plain.SetMaxOpenConns(1)
	kept := open(t, "max_open_conns", "1")
	for _, text := range []string{
		"select 1/0", "select nothing", "select from", "select 1; select 2; values (3)", "select 1 where false", "select", "table pg_prepared_statements limit 0",
		"select * from nowhere", "insert into nowhere values (1)", "with a as (select 1) select * from a;", "select 'a' 'b'", "select $1", "select E'\\'', 2; select 3", ";", "", "-- nothing",
		"select row(1, 'a'), array[1, 2], null, 'x'::name, 1.5, true", "select 'a\\b'", "select 1 into temp again", "select pg_advisory_unlock(7)", "fetch all from nowhere",
	} {
		mustExec(t, plain, "drop table if exists again")
		mustExec(t, kept, "drop table if exists again")
		for call := range often {
			want, got := describeAll(plain.Query(text)), describeAll(kept.Query(text))
			if got != want {
				t.Fatalf("%q, call %d\n got %s\nwant %s", text, call, got, want)
			}
			wantResult, gotResult := affected(plain.Exec(text)), affected(kept.Exec(text))
			if gotResult != wantResult {
				t.Fatalf("%q by Exec, call %d\n got %s\nwant %s", text, call, gotResult, wantResult)
			}
		}
	}
}

// describeAll is describe for all result sets.
func describeAll(rows *sql.Rows, err error) string {
	if err != nil {
		return "error " + err.Error()
	}
	defer rows.Close()
	var out strings.Builder
	for {
		columns, err := rows.Columns()
		fmt.Fprint(&out, columns, err)
		n := 0
		for rows.Next() {
			n++
		}
		fmt.Fprint(&out, n, rows.Err())
		if !rows.NextResultSet() {
			return fmt.Sprint(out.String(), rows.Err())
		}
	}
}

func affected(res sql.Result, err error) string {
	if err != nil {
		return "error " + err.Error()
	}
	n, err := res.RowsAffected()
	return fmt.Sprint(n, err)
}

// A table changes under the kept text of a read: the caller does not notice.
func TestAKeptTextWithoutArgumentsFollowsItsTable(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	db := open(t, "max_open_conns", "1")
	text := "select * from " + table
	if n := keeps(t, db, often, querying(text)); n != 1 {
		t.Fatalf("%d statements", n)
	}
	for n := range 3 {
		mustExec(t, server.Admin(), fmt.Sprintf("alter table %s add column c%d int", table, n))
		rows, err := db.QueryContext(context.Background(), text)
		if err != nil {
			t.Fatal(err)
		}
		if c, _ := rows.Columns(); len(c) != 3+n {
			t.Errorf("%d columns, want %d", len(c), 3+n)
		}
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
		if kept := keeps(t, db, often, querying(text)); kept != 2+n { // those out of date are closed when room is needed
			t.Errorf("%d statements, want %d", kept, 2+n)
		}
	}
}

// The planner's settings change what a plan is worth: a kept text is planned
// again.
func TestAKeptTextIsPlannedAnewAfterAPlannersSetting(t *testing.T) {
	t.Parallel()
	for _, set := range []struct {
		text string
		want int // still kept
	}{
		{"set enable_seqscan = off", 0},
		{"set session random_page_cost to 1", 0},
		{"set local work_mem = '1MB'", 0},
		{"set jit_above_cost = 7", 0},
		{"select set_config('plan_cache_mode', 'force_custom_plan', false)", 0},
		{"set geqo_threshold = 5", 0},
		{"set statement_timeout = '1min'", 1},
		{"set application_name = 'enabled_cost'", 1},
	} {
		db := open(t, "max_open_conns", "1", "statement_cache_capacity", "1")
		keeps(t, db, often, querying("select 1"))
		mustExec(t, db, set.text)
		st, err := db.Prepare("select 2") // takes the place of one that is out of date
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		if n := queryInt(t, db, "select count(*) from pg_prepared_statements where statement = 'select 1'"); n != set.want {
			t.Errorf("%s: %d statements, want %d", set.text, n, set.want)
		}
	}
}

// A transaction that a text begins fares as one of BeginTx: what is out of date
// does not cost it, and its errors are those of the texts that fail in it.
func TestATransactionBegunByTextKeepsNoTextsWithoutArguments(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(*testing.T, *sql.Conn){
		"begin":    func(t *testing.T, c *sql.Conn) { mustExec(t, c, "begin") },
		"start":    func(t *testing.T, c *sql.Conn) { mustExec(t, c, "/* */ START TRANSACTION") },
		"several":  func(t *testing.T, c *sql.Conn) { mustExec(t, c, "select 1; begin") },
		"prepared": func(t *testing.T, c *sql.Conn) { preparedExec(t, c, "begin") },
		"raw": func(t *testing.T, c *sql.Conn) {
			err := c.Raw(func(dc any) error {
				_, err := pgpooled.PQConn(dc).(driver.ExecerContext).ExecContext(context.Background(), "begin", nil)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		table := newTable(t)
		db := open(t, "max_open_conns", "1")
		text := "select * from " + table
		if n := keeps(t, db, often, querying(text)); n != 1 {
			t.Fatalf("%s: %d statements", name, n)
		}
		conn, err := db.Conn(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		begin(t, conn)
		mustExec(t, server.Admin(), "alter table "+table+" add column c int")
		mustExec(t, conn, text) // plain lib/pq has nothing that could be out of date
		for range often {
			mustExec(t, conn, "savepoint a")
			if _, err := conn.ExecContext(context.Background(), "select * from nowhere"); err == nil || !strings.Contains(err.Error(), "42P01") {
				t.Fatalf("%s: %v", name, err)
			}
			mustExec(t, conn, "rollback to a")
		}
		mustExec(t, conn, "rollback")
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		if n := keeps(t, db, often, querying(text)); n != 2 { // the one that is out of date among them
			t.Errorf("%s: %d statements in the next lease", name, n)
		}
	}
}

func preparedExec(t *testing.T, c *sql.Conn, text string) {
	t.Helper()
	st, err := c.PrepareContext(context.Background(), text)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if _, err := st.Exec(); err != nil {
		t.Fatal(err)
	}
}

// Where a rule adds a SELECT, lib/pq returns its rows for a text without
// arguments. PostgreSQL does not send them for a prepared one.
func TestTheRowsThatARuleAddsAreReturned(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	mustExec(t, server.Admin(), "create rule r as on insert to "+table+" do instead select 'by the rule'")
	for _, text := range []string{"insert into %s values (1)", "insert into %s values ((select 1))", "with a as (values (1)) insert into %s select * from a", "with a as (select 1 as returning) insert into %s table a"} {
		db := open(t, "max_open_conns", "1")
		text = fmt.Sprintf(text, table)
		for call := range 2 * often {
			var by string
			if err := db.QueryRow(text).Scan(&by); err != nil || by != "by the rule" {
				t.Fatalf("%s, call %d: %q, %v", text, call, by, err)
			}
			mustExec(t, db, text) // kept, for it is not asked for rows
		}
		if n := named(t, db); n != 1 {
			t.Errorf("%s: %d statements", text, n)
		}
	}
}
