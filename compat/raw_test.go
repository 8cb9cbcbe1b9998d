package compat

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"
)

// texts are one value of each kind of column.
var texts = []string{
	"true", "1::int2", "2::int4", "3::int8", "1.5::float4", "1.25::float8", "12.50::numeric", "12.50::numeric(10,2)", "'NaN'::numeric",
	"'a'::text", "'ab'::varchar", "'ab'::varchar(20)", "'ab'::char(5)", "'n'::name", "'x'::\"char\"", `'\x00ff'::bytea`,
	"'2024-02-29'::date", "'12:34:56.789'::time", "'12:34:56+02'::timetz", "'2024-02-29 12:34:56.789'::timestamp",
	"'2024-02-29 12:34:56.789+05'::timestamptz", "'infinity'::timestamptz", "'0044-03-15 BC'::date", "'1 day 2 hours'::interval",
	`'{"a":1}'::json`, `'{"a": 1}'::jsonb`, "'6b1b36b5-6d1f-4a4c-8c11-3b7f0a0e6f11'::uuid", "'10.0.0.0/8'::cidr", "'10.0.0.1'::inet",
	"'{1,2,NULL}'::int[]", `'{a,"b c"}'::text[]`, "'[1,5)'::int4range", "'(1,2)'::point", "B'101'::bit(3)", "'1.50'::money",
	"'<a/>'::xml", "to_tsvector('cats')", "row(1,'a')", "1::oid", "'pg_class'::regclass", "NULL::int", "NULL::text", "NULL", "''::text", "E'\\t\\n''é'",
}

// result notes all result sets: columns, types and values.
func (s *side) result(what string, rows *sql.Rows, err error) {
	if err != nil {
		s.see(what, err)
		return
	}
	defer rows.Close()
	for set := 0; ; set++ {
		cols, err := rows.Columns()
		s.see(what+" columns", cols, err)
		types, err := rows.ColumnTypes()
		s.see(what+" types", len(types), err)
		for _, c := range types {
			length, hasLength := c.Length()
			null, hasNull := c.Nullable()
			precision, scale, hasDecimal := c.DecimalSize()
			s.see("  "+c.Name(), c.DatabaseTypeName(), length, hasLength, null, hasNull, precision, scale, hasDecimal, fmt.Sprint(c.ScanType()))
		}
		for rows.Next() {
			values := make([]any, len(cols))
			to := make([]any, len(cols))
			for i := range to {
				to[i] = &values[i]
			}
			s.see("  scan", rows.Scan(to...))
			s.see("  row", values...)
		}
		s.see("  end", rows.Err())
		if !rows.NextResultSet() {
			s.see("  no more", rows.Err(), rows.Close())
			return
		}
	}
}

// Three rounds: the second time a session sees a text with arguments it prepares
// it, the third time it uses what it prepared.
func eachWay(t *testing.T, app func(*testing.T, *side)) {
	for _, way := range []struct {
		name string
		kv   []string
	}{{"text parameters", nil}, {"binary parameters", []string{"binary_parameters", "yes"}}} {
		t.Run(way.name, func(t *testing.T) { both(t, app, way.kv...) })
	}
}

func TestColumnTypesAndValues(t *testing.T) {
	eachWay(t, func(t *testing.T, s *side) {
		db := s.open(t)
		ctx := t.Context()
		for range 3 {
			for _, text := range texts {
				rows, err := db.QueryContext(ctx, "SELECT "+text+" AS v")
				s.result(text, rows, err)
				rows, err = db.QueryContext(ctx, "SELECT "+text+" AS v, $1::int", 1)
				s.result(text+" with an argument", rows, err)
			}
			st, err := db.PrepareContext(ctx, "SELECT "+strings.Join(texts, ", ")+" WHERE $1")
			must(t, err)
			for _, arg := range []any{true, false, nil} {
				rows, err := st.QueryContext(ctx, arg)
				s.result("all, prepared", rows, err)
			}
			must(t, st.Close())
		}
	})
}

func TestResultSets(t *testing.T) {
	eachWay(t, func(t *testing.T, s *side) {
		db := s.open(t)
		for range 3 {
			for _, text := range []string{
				"SELECT 1; SELECT 'a', 2; SELECT true", "SELECT 1; SELECT 1/0; SELECT 2", "SELECT 1 WHERE false; SELECT 2",
				"CREATE TEMP TABLE IF NOT EXISTS t (n int); SELECT 1", "", ";", "-- nothing", "SELECT", "VALUES (1,2), (3,4)",
				"SELECT generate_series(1, 300)", "SELECT 1/(3-n) FROM generate_series(1,5) n", "SHOW server_version_num", "EXPLAIN (COSTS OFF) SELECT 1",
			} {
				rows, err := db.QueryContext(t.Context(), text)
				s.result(text, rows, err)
			}
			rows, err := db.QueryContext(t.Context(), "SELECT $1::int; SELECT 2", 1)
			s.result("two with an argument", rows, err)
			rows, err = db.QueryContext(t.Context(), "SELECT 1/($1::int-n) FROM generate_series(1,5) n", 3)
			s.result("an error among the rows", rows, err)
		}
	})
}

func TestResultsAndErrors(t *testing.T) {
	eachWay(t, func(t *testing.T, s *side) {
		db := s.open(t)
		ctx := t.Context()
		exec := func(text string, args ...any) {
			res, err := db.ExecContext(ctx, text, args...)
			if err != nil {
				s.see(text, err)
				return
			}
			n, err := res.RowsAffected()
			s.see(text, n, err)
			id, err := res.LastInsertId()
			s.see("  id", id, err)
		}
		for range 3 {
			exec("DROP TABLE IF EXISTS child, parent")
			exec("CREATE TABLE parent (id serial PRIMARY KEY, name text NOT NULL UNIQUE CHECK (name <> ''), at timestamptz)")
			exec("CREATE TABLE child (parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
			for range 3 {
				exec("INSERT INTO parent (name) VALUES ($1), ($2) ON CONFLICT DO NOTHING", "a", "b")
				exec("INSERT INTO parent (name) VALUES ($1)", "a")
				exec("INSERT INTO parent (name) VALUES ($1)", "")
				exec("INSERT INTO parent (name) VALUES ($1)", nil)
				exec("INSERT INTO parent (name) VALUES ($1) RETURNING id", "a")
				exec("INSERT INTO child VALUES ($1)", 999)
				exec("UPDATE parent SET at = $1", time.Date(2024, 2, 29, 1, 2, 3, 4000, time.FixedZone("", 3600)))
				exec("SELECT * FROM parent")
				exec("SELECT * FROM nowhere WHERE id = $1", 1)
				exec("SELEC 1")
				exec("SELECT $1::int", "x")
				exec("SELECT $1::int")
				exec("SELECT $1::int", 1, 2)
				exec("SELECT 1", 1)
				exec("SELECT 1/$1::int", 0)
				exec("DELETE FROM parent WHERE false; DELETE FROM parent")
				exec("DO $$ BEGIN RAISE EXCEPTION 'own' USING ERRCODE='P0042', DETAIL='d', HINT='h', CONSTRAINT='c'; END $$")
			}
		}
		var n int
		s.see("no rows", db.QueryRowContext(ctx, "SELECT 1 WHERE $1", false).Scan(&n))
		s.see("NULL into int", db.QueryRowContext(ctx, "SELECT NULL::int").Scan(&n))
		s.see("too few", db.QueryRowContext(ctx, "SELECT 1, 2").Scan(&n))
		s.see("text into int", db.QueryRowContext(ctx, "SELECT 'x'").Scan(&n))
		ended, end := context.WithCancel(ctx)
		end()
		_, err := db.ExecContext(ended, "SELECT 1")
		s.see("ended before", err)
		st, err := db.PrepareContext(ctx, "SELECT 1/$1::int")
		must(t, err)
		for _, arg := range []any{1, 0, nil, "x", 1} {
			rows, err := st.QueryContext(ctx, arg)
			s.result("prepared", rows, err)
		}
		_, err = st.ExecContext(ctx)
		s.see("prepared, no argument", err)
		must(t, st.Close())
		_, err = st.ExecContext(ctx, 1)
		s.see("prepared, closed", err)
		_, err = db.PrepareContext(ctx, "SELEC 1")
		s.see("prepare", err)
	})
}

func TestTransactions(t *testing.T) {
	both(t, func(t *testing.T, s *side) {
		db := s.open(t)
		ctx := t.Context()
		_, err := db.ExecContext(ctx, "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
		must(t, err)
		for level := sql.LevelDefault; level <= sql.LevelLinearizable; level++ {
			for _, readOnly := range []bool{false, true} {
				tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: level, ReadOnly: readOnly})
				s.see("begin "+level.String(), err)
				if err != nil {
					continue
				}
				var isolation, ro string
				must(t, tx.QueryRow("SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')").Scan(&isolation, &ro))
				_, err = tx.Exec("INSERT INTO parent VALUES ($1)", int(level))
				s.see("in it", isolation, ro, err, tx.Commit(), tx.Commit(), tx.Rollback())
			}
		}
		tx, err := db.Begin()
		must(t, err)
		_, err = tx.Exec("INSERT INTO child VALUES (99)")
		s.see("a deferred constraint", err, tx.Commit())
		tx, err = db.Begin()
		must(t, err)
		_, err = tx.Exec("SELECT 1/0")
		_, again := tx.Exec("SELECT 1")
		s.see("aborted", err, again, tx.Commit())
		tx, err = db.Begin()
		must(t, err)
		_, err = tx.Exec("SAVEPOINT a; INSERT INTO parent VALUES (77)")
		must(t, err)
		_, err = tx.Exec("INSERT INTO parent VALUES (77)")
		s.see("savepoint", err)
		_, err = tx.Exec("ROLLBACK TO a")
		s.see("back", err, tx.Rollback())
		_, err = tx.Exec("SELECT 1")
		s.see("after", err)
		st, err := db.Prepare("INSERT INTO parent VALUES ($1) RETURNING id")
		must(t, err)
		defer st.Close()
		tx, err = db.Begin()
		must(t, err)
		var id int
		s.see("a statement in it", tx.Stmt(st).QueryRow(55).Scan(&id), id)
		ended, end := context.WithCancel(ctx)
		s.see("commit", tx.Commit())
		tx, err = db.BeginTx(ended, nil)
		must(t, err)
		end()
		within(t, "the context's end is seen", func() bool { _, err := tx.Exec("SELECT 1"); return err != nil })
		rows, err := db.Query("SELECT * FROM parent ORDER BY id")
		s.result("at last", rows, err)
	})
}
