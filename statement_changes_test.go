package pgpooled_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"

	_ "github.com/lib/pq"
)

// script is a list of calls that is made several times over, on lib/pq and on
// pgpooled, on one session: a statement that is kept must not show.
type script struct {
	name  string
	setup []string // once, by somebody else; %s is a schema of its own

	// Texts, with their arguments after an arrow; "exec" before one that is not
	// asked for rows. They run in the transaction between "tx: " and "commit: "
	// or "rollback: ". "prepare: text", "run: arguments", "other: text" by somebody
	// else, "lease: " goes on in another lease.
	lines []string

	times int // each text outside transactions that may run again; 0 = once
}

// often is how many calls with a text without arguments are enough for a session
// to prepare it, the proof that the session is direct included.
const often = 20

// withoutArgs is the script with its arguments in its texts, which come often.
func (s script) withoutArgs() script {
	lines := s.lines
	s.times, s.lines = often, nil
	for _, line := range lines {
		if !strings.HasPrefix(line, "run:") {
			text, args := splitArgs(line)
			for i, arg := range args {
				text = strings.ReplaceAll(text, fmt.Sprintf("$%d", i+1), fmt.Sprintf("'%s'", arg))
			}
			line = text
		}
		s.lines = append(s.lines, line)
	}
	return s
}

// again says how often a line outside transactions is run.
func (s script) again(line string) int {
	if word, _, _ := strings.Cut(line, " "); word == "select" || word == "exec" || word == "values" || word == "with" || word == "delete" {
		return max(s.times, 1)
	}
	return 1
}

// answer is what a call told, rows and columns included.
func answer(ctx context.Context, q interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}, text string) string {
	text, args := splitArgs(text)
	if strings.HasPrefix(text, "exec ") {
		_, err := q.(execer).ExecContext(ctx, text[5:], args...)
		return fmt.Sprint("exec ", err)
	}
	rows, err := q.QueryContext(ctx, text, args...)
	if err != nil {
		return err.Error()
	}
	defer rows.Close()
	columns, _ := rows.Columns()
	out := fmt.Sprint(columns)
	types, _ := rows.ColumnTypes()
	for _, c := range types {
		out += " " + c.DatabaseTypeName()
	}
	for rows.Next() {
		v := make([]any, len(columns))
		for i := range v {
			v[i] = new(any)
		}
		if err := rows.Scan(v...); err != nil {
			return err.Error()
		}
		for i := range v {
			out += fmt.Sprintf(" %v", *v[i].(*any))
		}
	}
	return fmt.Sprint(out, " ", rows.Err())
}

// splitArgs takes what stands after " <- " as arguments.
func splitArgs(text string) (string, []any) {
	text, list, ok := strings.Cut(text, " <- ")
	if !ok {
		return text, nil
	}
	var args []any
	for _, a := range strings.Fields(list) {
		args = append(args, a)
	}
	return text, args
}

func (s script) run(t *testing.T, db *sql.DB) (told []string) {
	t.Helper()
	ctx := testContext(t)
	schema := fmt.Sprintf("s%07d", appCount.Add(1)) // of one length: errors say at which column they are
	mustExec(t, server.Admin(), "create schema "+schema)
	defer mustExec(t, server.Admin(), "drop schema "+schema+" cascade")
	fill := func(text string) string { return strings.ReplaceAll(text, "%s", schema) }
	for _, text := range s.setup {
		mustExec(t, server.Admin(), fill(text))
	}
	db.SetMaxOpenConns(1)
	for range 4 { // lease after lease, of one session
		conn, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var (
			tx *sql.Tx
			st *sql.Stmt
		)
		for _, line := range s.lines {
			line = fill(line)
			var got string
			switch by, text, is := strings.Cut(line, ": "); {
			case !is && tx != nil:
				got = answer(ctx, tx, line)
			case !is:
				for range s.again(line) {
					got += answer(ctx, conn, line)
				}
			case by == "other":
				mustExec(t, server.Admin(), text)
				continue
			case by == "lease":
				_ = conn.Close()
				if conn, err = db.Conn(ctx); err != nil {
					t.Fatal(err)
				}
				continue
			case by == "tx":
				if tx, err = conn.BeginTx(ctx, nil); err != nil {
					t.Fatal(err)
				}
				continue
			case by == "commit":
				err = tx.Commit()
				got, tx = fmt.Sprint(err), nil
			case by == "rollback":
				err = tx.Rollback()
				got, tx = fmt.Sprint(err), nil
			case by == "prepare" && tx != nil:
				st, err = tx.PrepareContext(ctx, text)
				got = fmt.Sprint(err)
			case by == "prepare":
				st, err = conn.PrepareContext(ctx, text)
				got = fmt.Sprint(err)
			case by == "run": // the prepared one
				_, args := splitArgs(" <- " + text)
				got = stmtAnswer(ctx, st, args)
			default:
				t.Fatal(line)
			}
			told = append(told, strings.ReplaceAll(line+" => "+got, schema, "%s"))
		}
		if tx != nil {
			_ = tx.Rollback()
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return told
}

func stmtAnswer(ctx context.Context, st *sql.Stmt, args []any) string {
	return answer(ctx, stmtQueryer{st}, "- <- "+strings.Trim(fmt.Sprint(args), "[]"))
}

type stmtQueryer struct{ st *sql.Stmt }

func (q stmtQueryer) QueryContext(ctx context.Context, _ string, args ...any) (*sql.Rows, error) {
	return q.st.QueryContext(ctx, args...)
}

// What changes the meaning of a text changes it for a kept statement too.
func TestAKeptStatementAnswersAsIfItWereNotKept(t *testing.T) {
	t.Parallel()
	two := []string{"create schema %s_2", "create table %s.t (id int, v text)", "create table %s_2.t (id int, w int, x int)", "insert into %s.t values (1, 'a')", "insert into %s_2.t values (1, 2, 3)"}
	const ask = "select * from t where id = $1 <- 1"
	for _, s := range []script{
		{name: "set search_path", setup: two, lines: []string{
			"set search_path = %s", ask, ask, ask, "set search_path = %s_2", ask, ask, ask}},
		{name: "set search_path in a transaction", setup: two, lines: []string{
			"set search_path = %s", ask, ask, ask, "tx: ", "set local search_path = %s_2", ask, ask, ask, "commit: ", "tx: ", ask, ask, "commit: "}},
		{name: "set_config", setup: two, lines: []string{
			"select set_config('search_path', $1, false) <- %s", ask, ask, ask, "tx: ", "select set_config('search_path', $1, true) <- %s_2", ask, ask, ask, "commit: ", "tx: ", ask, ask, "commit: "}},
		{name: "set_config with a name from outside", setup: two, lines: []string{
			"select set_config($1, $2, false) <- search_path %s", ask, ask, ask, "tx: ", "select set_config($1, $2, true) <- search_path %s_2", ask, ask, ask, "rollback: ", "tx: ", ask, ask, "commit: "}},
		{name: "role", setup: append(two, "create role %s_r superuser", "create schema \"%s_r\"", "create table \"%s_r\".t (id text, w int)"), lines: []string{
			"set search_path = '$user', %s", "tx: ", ask, ask, ask, "set local role %s_r", ask, ask, "rollback: ", "tx: ", ask, ask, "commit: "}},
		{name: "a change that is rolled back", setup: two, lines: []string{
			"set search_path = %s", ask, ask, ask, "tx: ", "alter table t add column more int", ask, ask, ask, "rollback: ", "tx: ", ask, ask, "commit: "}},
		{name: "a change that is rolled back to a savepoint", setup: two, lines: []string{
			"set search_path = %s", ask, ask, ask, "tx: ", "savepoint a", "alter table t add column more int", ask, ask, ask, "rollback to a", ask, ask, "commit: "}},
		{name: "a change that is rolled back by a text", setup: two, lines: []string{
			"set search_path = %s", "begin", "alter table t add column more int", ask, ask, ask, "rollback", "begin", ask, ask, "commit"}},
		{name: "temporary tables of one name", setup: two, lines: []string{
			"tx: ", "create temp table tmp (a int) on commit drop", "select * from tmp where a = $1 <- 1", "select * from tmp where a = $1 <- 1", "select * from tmp where a = $1 <- 1", "commit: ",
			"lease: ", "tx: ", "create temp table tmp (a text, b int) on commit drop", "select * from tmp where a = $1 <- 1", "select * from tmp where a = $1 <- 1", "commit: "}},
		{name: "temporary tables made by DO", setup: two, lines: []string{
			"tx: ", "do $$begin create temp table tmp (a int) on commit drop; end$$", "select * from tmp where a = $1 <- 1", "select * from tmp where a = $1 <- 1", "select * from tmp where a = $1 <- 1", "commit: ",
			"lease: ", "tx: ", "do $$begin create temp table tmp (a text, b int) on commit drop; end$$", "select * from tmp where a = $1 <- 1", "select * from tmp where a = $1 <- 1", "commit: "}},
		{name: "temporary tables made by SELECT INTO", setup: two, lines: []string{
			"tx: ", "select 1 a into temp tmp", "select * from tmp where a = $1 <- 1", "select * from tmp where a = $1 <- 1", "select * from tmp where a = $1 <- 1", "rollback: ",
			"lease: ", "tx: ", "select 'x' a, 2 b into temp tmp", "select * from tmp where a = $1 <- 1", "select * from tmp where a = $1 <- 1", "rollback: "}},
		{name: "a temporary table before a table", setup: two, lines: []string{
			"set search_path = %s", ask, ask, ask, "create temp table t (id text)", ask, ask, "drop table pg_temp.t", ask, ask}},
		{name: "a change by a prepared statement", setup: two, lines: []string{
			"set search_path = %s", ask, ask, ask, "tx: ", "prepare: alter table t add column more int", "run: ", ask, ask, "rollback: "}},
		{name: "time zone of a literal", lines: []string{
			"set time zone 'UTC'", "select '2020-01-01'::timestamptz = $1 <- 2020-01-01T00:00:00Z", "select '2020-01-01'::timestamptz = $1 <- 2020-01-01T00:00:00Z", "select '2020-01-01'::timestamptz = $1 <- 2020-01-01T00:00:00Z",
			"set time zone 'Asia/Tokyo'", "select '2020-01-01'::timestamptz = $1 <- 2020-01-01T00:00:00Z",
			"set timezone to 'UTC'", "select '2020-01-01'::timestamptz = $1 <- 2020-01-01T00:00:00Z", "select '2020-01-01'::timestamptz = $1 <- 2020-01-01T00:00:00Z", "select '2020-01-01'::timestamptz = $1 <- 2020-01-01T00:00:00Z",
			"tx: ", "set local timezone = 'Asia/Tokyo'", "select '2020-01-01'::timestamptz = $1 <- 2020-01-01T00:00:00Z", "commit: ", "select '2020-01-01'::timestamptz = $1 <- 2020-01-01T00:00:00Z"}},
		{name: "order of a date", lines: []string{
			"set datestyle = 'ISO, MDY'", "select '01/02/2020'::date::text, $1 <- x", "select '01/02/2020'::date::text, $1 <- x", "select '01/02/2020'::date::text, $1 <- x",
			"set datestyle = 'ISO, DMY'", "select '01/02/2020'::date::text, $1 <- x", "set datestyle = 'ISO, MDY'"}},
		{name: "backslashes", lines: []string{
			`set standard_conforming_strings = on`, `select 'a\\b', $1 <- x`, `select 'a\\b', $1 <- x`, `select 'a\\b', $1 <- x`,
			`set standard_conforming_strings = off`, `select 'a\\b', $1 <- x`, `set standard_conforming_strings = on`}},
		{name: "deallocate all under a prepared statement", setup: two, lines: []string{
			"set search_path = %s", ask, ask, "prepare: select * from t where id = $1", "run: 1", "deallocate all", ask, ask, "tx: ", ask, ask, "commit: "}},
		{name: "a change under a prepared statement, in a transaction", setup: two, lines: []string{
			"set search_path = %s", ask, ask, "tx: ", "prepare: select * from t where id = $1", "run: 1", "alter table t add column more int", ask, ask, "rollback: "}},
		{name: "discard all in DO", setup: two, lines: []string{
			"set search_path = %s", ask, ask, ask, "do $$begin execute 'deallocate all'; end$$", ask, ask, "tx: ", ask, ask, "commit: "}},
		{name: "a column becomes wider", setup: []string{"create table %s.n (id int)"}, lines: []string{
			"exec insert into %s.n values ($1) <- 1", "exec insert into %s.n values ($1) <- 2", "exec insert into %s.n values ($1) <- 3",
			"other: alter table %s.n alter column id type bigint", "exec insert into %s.n values ($1) <- 5000000000", "exec insert into %s.n values ($1) <- x", "exec insert into %s.n values ($1) <- 5000000000",
			"select * from %s.n", "other: truncate %s.n", "other: alter table %s.n alter column id type int"}},
		{name: "failed transaction", setup: two, lines: []string{
			"set search_path = %s", ask, ask, ask, "tx: ", "select 1/0", ask, "rollback: ", "begin", "select 1/0", ask, "rollback", ask}},
		{name: "errors", setup: two, lines: []string{
			"set search_path = %s", "select nothing from t where id = $1 <- 1", "select nothing from t where id = $1 <- 1", "select nothing from t where id = $1 <- 1",
			"select id/$1::int from t <- 0", "select id/$1::int from t <- 0", "select id/$1::int from t <- 0",
			"select $1::int <- x", "select $1::int <- x", "select $1::int <- x", "select $1::int; select 2 <- 1", "select $1::int; select 2 <- 1", "select $1::int; select 2 <- 1",
			"tx: ", "select nothing, $1::int from t <- 1", ask, "rollback: ", "tx: ", "select nothing, $1::int from t <- 1", ask, "rollback: ",
			ask + " 2", ask + " 2", ask + " 2"}},
		{name: "shapes", setup: two, lines: []string{
			"(select $1::int) <- 1", "(select $1::int) <- 1", "(select $1::int) <- 1", "with a as (select $1::int) table a <- 1", "with a as (select $1::int) table a <- 1", "with a as (select $1::int) table a <- 1",
			"values ($1::int) <- 1", "values ($1::int) <- 1", "values ($1::int) <- 1", "explain (costs off) select $1::int <- 1", "explain (costs off) select $1::int <- 1",
			"exec update %s.t set v = $1 <- b", "exec update %s.t set v = $1 <- b", "exec update %s.t set v = $1 <- b", "delete from %s.t where id = $1 returning * <- 7", "delete from %s.t where id = $1 returning * <- 7", "delete from %s.t where id = $1 returning * <- 7"}},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			plain, err := sql.Open("postgres", server.DSN("application_name", app()))
			if err != nil {
				t.Fatal(err)
			}
			defer plain.Close()
			for _, s := range []script{s, s.withoutArgs()} {
				want := s.run(t, plain)
				got := s.run(t, open(t))
				for i := range want {
					if got[i] != want[i] {
						t.Fatalf("line %d\n got %s\nwant %s", i, got[i], want[i])
					}
				}
			}
		})
	}
}
