package pgpooled_test

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"
)

// typeValues are literals for the types that do not take a number.
var typeValues = map[string]string{
	"bool": "true", "bytea": `\x00ff`, "char": "c", "name": "a name", "tid": "(1,2)", "json": `{"a": 1}`, "jsonb": `{"a": 1}`, "xml": "<a>1</a>",
	"point": "(1,2)", "lseg": "[(1,2),(3,4)]", "path": "((1,2),(3,4))", "box": "(3,4),(1,2)", "polygon": "((1,2),(3,4))", "line": "{1,2,3}", "circle": "<(1,2),3>",
	"macaddr": "08:00:2b:01:02:03", "macaddr8": "08:00:2b:01:02:03:04:05", "inet": "10.0.0.1/8", "cidr": "10.0.0.0/8", "aclitem": "postgres=r/postgres",
	"bpchar": "a  ", "varchar": "a", "text": "it's", "date": "2020-02-29", "time": "12:34:56.789", "timestamp": "2020-02-29 12:34:56.789", "timestamptz": "2020-02-29 12:34:56.789+00",
	"timetz": "12:34:56+02", "interval": "1 day 02:03:04", "bit": "1", "varbit": "101", "numeric": "123456789012345678901234567890.12", "uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
	"pg_lsn": "0/16AE7F8", "tsvector": "'a':1", "tsquery": "'a' & 'b'", "gtsvector": "", "txid_snapshot": "10:20:10,14", "pg_snapshot": "10:20:10,14", "refcursor": "c",
	"regproc": "now", "regprocedure": "now()", "regoper": "||/", "regoperator": "+(integer,integer)", "regclass": "pg_class", "regtype": "integer", "regrole": "postgres",
	"regnamespace": "pg_catalog", "regconfig": "english", "regdictionary": "simple", "regcollation": `"C"`, "jsonpath": "$.a", "int2vector": "1 2", "oidvector": "1 2",
	"money": "$1.50", "float4": "0.1", "float8": "NaN", "int8": "9223372036854775807", "int2": "-32768",
	"int4range": "[1,5)", "int8range": "[1,5)", "numrange": "[1.5,2)", "daterange": "[2020-01-01,2020-02-01)", "tsrange": `["2020-01-01 00:00:00",)`, "tstzrange": `["2020-01-01 00:00:00+00",)`,
}

// Every built-in type that has values to read, and its array: what is kept gives
// what lib/pq gives, in value and in column.
func TestEveryTypeIsTheSameFromAKeptStatement(t *testing.T) {
	t.Parallel()
	plain, err := sql.Open("postgres", server.DSN("application_name", app()))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	kept := open(t, "max_open_conns", "1")
	rows, err := server.Admin().Query(`select typname, typarray <> 0, typtype from pg_type
		where typtype in ('b', 'r', 'm') and typcategory <> 'A' and typnamespace = 'pg_catalog'::regnamespace
		and typname not in ('gtsvector', 'pg_node_tree', 'pg_ndistinct', 'pg_dependencies', 'pg_mcv_list', 'pg_brin_bloom_summary', 'pg_brin_minmax_multi_summary')
		order by typname`) // those take no input
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var (
			name, kind string
			array      bool
		)
		if err := rows.Scan(&name, &array, &kind); err != nil {
			t.Fatal(err)
		}
		value, ok := typeValues[name]
		switch {
		case ok:
		case kind == "m":
			value = "{" + typeValues[strings.Replace(name, "multirange", "range", 1)] + "}"
		default:
			value = "1"
		}
		quoted := `pg_catalog."` + name + `"`
		columns := fmt.Sprintf("$1::%s, null::%s, $1::text", quoted, quoted)
		if array {
			columns += fmt.Sprintf(", array[$1::%s, null]", quoted)
		}
		n++
		compareTypes(t, plain, kept, "select "+columns, value)
		compareTypes(t, plain, kept, "select "+strings.ReplaceAll(columns, "$1", "'"+strings.ReplaceAll(value, "'", "''")+"'"))
	}
	if err := rows.Err(); err != nil || n < 70 {
		t.Errorf("%d types, %v", n, err)
	}
	compareTypes(t, plain, kept, "select $1::varchar(10), $1::bpchar(5), $1::numeric(10,2), $1::bit(3), '12:34:56.789'::time(2), $1::int = 1", "101")
	compareTypes(t, plain, kept, "select row($1::int, 'a'), $1::int::information_schema.cardinal_number, '{}'::text[][]", "1")
	compareTypes(t, plain, kept, "select $1::text as \"a b\", 1 as \"A\", 2 as \"A\", null", "x")
}

// compareTypes asks lib/pq for a text, and pgpooled until it keeps it, and on from
// a statement of db.Prepare.
func compareTypes(t *testing.T, plain, kept *sql.DB, query string, args ...any) {
	t.Helper()
	want := describe(plain.Query(query, args...))
	if strings.HasPrefix(want, "error") {
		t.Errorf("%s <- %v: %s", query, args, want)
	}
	calls := 4
	if len(args) == 0 {
		calls = often
	}
	for call := range calls {
		if got := describe(kept.Query(query, args...)); got != want {
			t.Errorf("%s <- %v, call %d\n got %s\nwant %s", query, args, call, got, want)
		}
	}
	for _, db := range []*sql.DB{plain, kept} {
		st, err := db.Prepare(query)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			return
		}
		if got := describe(st.Query(args...)); got != want {
			t.Errorf("%s <- %v, prepared\n got %s\nwant %s", query, args, got, want)
		}
		_ = st.Close()
	}
}

// describe prints everything that database/sql tells of rows.
func describe(rows *sql.Rows, err error) string {
	if err != nil {
		return "error " + err.Error()
	}
	defer rows.Close()
	types, err := rows.ColumnTypes()
	if err != nil {
		return "error " + err.Error()
	}
	var out strings.Builder
	for _, c := range types {
		length, hasLength := c.Length()
		precision, scale, hasPrecision := c.DecimalSize()
		nullable, knowsNullable := c.Nullable()
		fmt.Fprintf(&out, "%q %s %v %d %t %d %d %t %t %t; ", c.Name(), c.DatabaseTypeName(), c.ScanType(), length, hasLength, precision, scale, hasPrecision, nullable, knowsNullable)
	}
	for rows.Next() {
		v := make([]any, len(types))
		for i := range v {
			v[i] = new(any)
		}
		if err := rows.Scan(v...); err != nil {
			return "error " + err.Error()
		}
		for i := range v {
			fmt.Fprintf(&out, "%#v ", *v[i].(*any))
		}
	}
	if err := rows.Err(); err != nil {
		return "error " + err.Error()
	}
	return out.String()
}
