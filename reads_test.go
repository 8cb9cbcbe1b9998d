package pgpooled

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

var readingTexts = []string{
	"select 1", "SELECT 1", "Select * From t", " \t\n\r\f\vselect 1", "select 1;", "select 1;;", ";select 1", "select 1; select 2",
	"-- note\nselect 1", "--\rselect 1", "/* note */ select 1", "/* /* nested */ insert */ select 1", "select /* into */ 1", "select 1 -- into t", "select 1 --", "select 1/**/",
	"values (1), (2)", "table t", "show work_mem", "show all_tables", "select 1; show work_mem", "(select 1)", "((select 1) union (select 2))", "select (1)", "select ((1))",
	"with a as (select 1) select * from a", "with a as materialized (select 1) select 1", "with a as not materialized (select 1), b as (select 2) select * from a, b", "with a as (values (1)) table a",
	"select 'insert into t'", "select 'it''s; delete'", "select e'it\\'s; delete'", "select E'\\\\'", "select b'01', x'ff', n'x'", "select u&'x'", `select "update" from t`, `select u&"into" from t`, `select "a""b" from t`,
	"select $1", "select $1::int + $2", "select $$insert into t$$", "select $tag$ delete $$ ; update $tag$", "select $ä$x$ä$", "select 1.5, .5, 2.",
	"select t.update from t", "select t.into from t", "select x.delete, y.insert from x, y", "select start, comment, close, move, release, copy from t", "select set from t",
	"select count(*) from t", "select COUNT ( * ) from t", "select pg_catalog.count(*) from t", "select pg_catalog . lower ('X')", "select now(), current_timestamp(0), clock_timestamp()",
	"select sum(x) filter (where y > 0) over (partition by z order by w) from t", "select x in (1, 2), y = any (array[1]), not exists (select 1)", "select array(select 1), row(1, 2)",
	"select a from t where b in (select c from d) and (e or f) limit (1) offset (2)", "select case when (a) then (b) else (c) end from t", "select a between (1) and (2) from t",
	"select x::numeric(10, 2), y::varchar(3), cast(z as timestamp(3)), w::interval day to second", "select extract(year from d), substring(s from 1 for 2), position('a' in s), overlay(s placing 'x' from 1), trim(both from s)",
	"select coalesce(a, b), nullif(a, b), greatest(a, b), least(a, b) from t", "select generate_series(1, 10)", "select * from generate_series(1, 10) with ordinality", "select * from unnest(array[1, 2])",
	"select * from t join u using (id) left join lateral (select 1) v on (true)", "select a, b from t group by grouping sets ((a), (b))", "select string_agg(x, ',' order by (y)) from t",
	"select json_build_object('a', 1), jsonb_agg(x), row_to_json(t) from t", "select row_number() over (), rank() over (order by (x)), lag(x) over w from t window w as (order by y)",
	"select lower(a), upper(b), length(c), md5(d), concat(e, f), to_char(g, 'YYYY') from t", "select date_trunc('day', x), age(y), date_part('year', z) from t", "select pg_sleep(0)", "select version(), current_database(), pg_backend_pid()",
	"select current_schema, pg_is_in_recovery()", "select * from pg_stat_activity", "select pg_size_pretty(pg_database_size(current_database()))", "select random(), gen_random_uuid()",
	"select a <> b, a || b, a ->> 'x', a @> b, a ~* 'x', a::text from t", "select 1 union all select 2 except select 3 intersect select 4 order by 1", "select * from t join (select 1) u on true", "select x::character varying(10), .5, t.* from t", "select distinct on (a) a, b from t", "select * from only (t)",
	"select percentile_cont(0.5) within group (order by x) from t", "select x from t where x like 'a%' escape '!'", "select x is distinct from (y) from t", "select interval '1 day', date '2020-01-01', timestamptz 'now'",
	"select länge from größe", "select 5--6\n", "select 3*/*c*/4",
}

var writingTexts = []string{
	"", " ", ";", "-- select 1", "/* select 1 */", "insert into t values (1)", "update t set a = 1", "delete from t", "merge into t using u on true when matched then delete", "truncate t",
	"select 1; insert into t values (1)", "select 1; begin", "begin; select 1", "select 1; commit", "select 1; set work_mem = '1MB'", "select 1; vacuum",
	"with a as (insert into t values (1) returning *) select * from a", "with a as (delete from t returning *) select 1", "with a as (select 1) insert into t select * from a", "with a as (select 1) update t set b = 1", "with a as (merge into t using u on true when matched then delete returning 1) select 1",
	"WITH A AS (UpDaTe t SET a = 1 RETURNING *) SELECT 1", "select * into u from t", "select 1 into temp u", "select 1 INTO UNLOGGED u",
	"select * from t for update", "select * from t for no key update", "select * from t for share", "select * from t for key share of t skip locked",
	"select nextval('s')", "select setval('s', 1)", "select currval('s')", "select pg_catalog.nextval('s')", "select * from nextval('s')", "select * from t where nextval('s') > 0",
	"select my_function()", "select s.my_function()", `select "count"(*) from t`, `select "pg_catalog".count(*) from t`, `select evil."count"(*) from t`, "select evil.count(*) from t", "select evil.pg_catalog.nextval('s')", `select "evil".now()`,
	"select pg_notify('c', 'x')", "select pg_advisory_lock(1)", "select pg_try_advisory_xact_lock(1)", "select pg_advisory_unlock_all()", "select set_config('work_mem', '1MB', false)", "select lo_create(0)", "select lo_import('/etc/hostname')", "select lo_unlink(1)", "select lo_from_bytea(0, 'x')",
	"select pg_reload_conf()", "select pg_rotate_logfile()", "select pg_terminate_backend(1)", "select pg_cancel_backend(1)", "select pg_switch_wal()", "select pg_create_restore_point('x')", "select pg_export_snapshot()", "select pg_stat_reset()", "select pg_logical_emit_message(true, 'a', 'b')", "select pg_promote()",
	"select dblink_exec('', 'delete from t')", "select * from dblink('', 'delete from t') as x(a int)", "select txid_current()", "select pg_current_xact_id()", "select setseed(0.5)", "select query_to_xml('delete from t', true, true, '')", "select pg_read_file('x')", "select ts_stat('x')", "select pg_file_write('a', 'b', true)", "select gin_clean_pending_list('x')",
	"create table t (a int)", "create temporary table t as select 1", "create temp table t (a int)", "drop table t", "alter table t add b int", "comment on table t is 'x'", "grant select on t to u", "revoke all on t from u",
	"explain select 1", "explain analyze delete from t", "explain (analyze) select 1", "copy t from stdin", "copy t to stdout", "copy (select 1) to program 'x'", "prepare p as select 1", "execute p", "execute p(1)", "deallocate all", "call p()", "do $$ begin end $$",
	"set work_mem = '1MB'", "reset all", "set local x.y = 'z'", "listen c", "notify c", "unlisten *", "lock table t", "begin", "start transaction", "commit", "end", "rollback", "abort", "savepoint s", "release s", "declare c cursor for select 1", "fetch next from c", "move next from c", "close c", "discard all", "vacuum", "analyze", "cluster t", "reindex table t", "refresh materialized view v", "checkpoint", "load 'x'", "security label on table t is 'x'", "import foreign schema s from server x into y",
	`select u&"next!0076al" uescape '!' ('s')`, `select u&"pg!005fnotify" UESCAPE '!' ('c', 'x')`, `select u&"nextval" /**/ uescape '+'('s')`, "select ran\u212a(t) from t",
	"select filter(1)", "select count(*) + over(1) from t", "select partition(1)", "select by(1)", "select sets(1)", "select a from t order by cube(1)", "select a from t group by rollup(1)", "select not materialized(1)", "select materialized (1)", "select recursive(1)", "select escape(1)", "select within(1)", "select is(1)", "select inner(1)", "select natural (1)",
	"select ('s').nextval", "select ('s')/**/./**/nextval", "select $1.nextval", "select x[1].nextval from t", "select join(1)", "select varying(1)",
	"show all", "show transaction_read_only", "SHOW Transaction_Read_Only", `show "transaction_read_only"`, `show u&"transaction\0072ead_only"`, "show /**/ ALL", "select current_setting('transaction_read_only')", "select current_setting($1)", "select setting from pg_settings", "select 1; show all",
	"select 'unterminated", `select "unterminated`, "select $$unterminated", "select $a$x$b$", "/* unterminated select 1", "select /* /* */ 1", "select (1", "select 1)", "(select 1", "select (1; select 2)", "select '\\'", "select 'a\\' into t --'", "select u&'\\0041'", "select \x00 1", "select 'a\x00b'",
	"select 1into t", "select $1into t", "select 1e5", "select 0x10", "foo", "1", "'select'", "$1", "+", "select.1; x", "sel ect", "perform f()", "select a.b.c(1)", "select $", "select $a", "\xef\xbb\xbfselect 1", "select\u00a0f()",
}

func TestWhetherATextOnlyReads(t *testing.T) {
	t.Parallel()
	for _, q := range readingTexts {
		if !onlyReads(q) {
			t.Errorf("counts as writing: %q", q)
		}
	}
	for _, q := range writingTexts {
		if onlyReads(q) {
			t.Errorf("counts as reading: %q", q)
		}
	}
	if n := len(readingTexts) + len(writingTexts); n < 150 {
		t.Errorf("only %d texts", n)
	}
}

// FuzzReadsAreAcceptedByAReadOnlyTransaction: what onlyReads lets through, a
// READ ONLY transaction of a real server lets through, or refuses for another
// reason than that it writes.
func FuzzReadsAreAcceptedByAReadOnlyTransaction(f *testing.F) {
	for _, q := range append(readingTexts, writingTexts...) {
		f.Add(q)
	}
	s, err := pgtest.Start(context.Background(), pgtest.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Stop() })
	db, err := sql.Open("postgres", s.DSN("statement_timeout", "1000"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { db.Close() })
	if _, err := db.Exec("create table t (a int, b int, x int, y int, z int, w int, id int); create table u (id int); create sequence s"); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, query string) {
		if !onlyReads(query) {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		conn, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		defer conn.ExecContext(ctx, "rollback")
		if _, err := conn.ExecContext(ctx, "begin read only"); err != nil {
			t.Fatal(err)
		}
		_, err = conn.ExecContext(ctx, query)
		var answer *pq.Error
		if errors.As(err, &answer) && answer.Code == "25006" {
			t.Errorf("%q counts as reading, and the server says: %v", query, err)
		}
	})
}

func TestOnePlainWriteIsToldFromWhatMayHaveActedBefore(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"insert into t values (1)":                                  true,
		" /* x */ UPDATE t set a = 'do; call' -- ; x\n;":            true,
		"delete from t;;":                                           false, // an empty statement more is too much to ask
		"merge into t using u on true when matched then do nothing": true,
		"insert into t values (1); insert into t values (2)":        false,
		"insert into t values (1); commit":                          false,
		"insert into t values ('unterminated":                       false,
		"insert into t values (1":                                   false,
		"with x as (insert into t values (1)) select 1":             false,
		"select f()":                        false,
		"call p()":                          false,
		"do 'begin end'":                    false,
		"copy t from stdin":                 false,
		"explain analyze delete from t":     false,
		"begin; insert into t values (1)":   false,
		`"insert" into t`:                   false,
		"":                                  false,
		"create table x as select dblink()": false,
	} {
		if got := isPlainWrite(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
