package pgpooled

import (
	"database/sql"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// What counts as one statement without parameters is that to the server too: it
// is asked to prepare random texts, of which half have several.
func TestWhatCountsAsOneStatementIsOneToTheServer(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(seed(t), 0))
	s := pgtest.StartT(t, pgtest.Options{})
	db, err := sql.Open("postgres", s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	pieces := append(strings.Fields(`select 1 , 'a' ' '' " "b" $$ $$ $a$ $a$ $$;$$ ';' "c;d" -- --; /* */ /*;*/ e'\'' e'\\' '\' '\\' ; ; ; ; $1 ($1) a$1 1$1 as x union values (2)`),
		"\n", "\r", "\t", "\v", "\u00a0", "select 1", "select 2", "values (1)", "; select 3", "u&'\\003b'", "x'3b'", "'a'\n'b'", "'a' -- c\n'b'", "standard_conforming_strings")
	one, several, parameters := 0, 0, 0
	for range 15000 {
		query := "select "
		for range 1 + random.IntN(9) {
			query += pieces[random.IntN(len(pieces))] + []string{"", " "}[min(random.IntN(3), 1)]
		}
		st, err := db.Prepare(query)
		parameter := false
		if err == nil {
			_, aerr := st.Exec()
			parameter = aerr != nil && strings.HasPrefix(aerr.Error(), "sql: expected ")
			_ = st.Close()
		} else if _, ok := err.(*pq.Error); !ok {
			t.Fatal(query, err)
		}
		split := err != nil && strings.Contains(err.Error(), "multiple commands")
		switch {
		case single(query) && (split || parameter):
			t.Errorf("%q counts as one statement without parameters, and the server says %v", query, err)
		case single(query) && err == nil:
			one++
		case split:
			several++
		case parameter:
			parameters++
		}
	}
	t.Logf("%d single statements, %d texts of several, %d with a parameter", one, several, parameters)
	if one < 50 || several < 50 || parameters < 20 {
		t.Error("too few to tell")
	}
}

func TestWhichTextsReturnRowsThemselves(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"select 1": true, "table a": true, "values (1)": true, "with a as (select 1) select 1": true, "with a as (delete from t returning *) select * from a": true,
		"insert into t values (1)": false, "insert into t values (1) RETURNING id": true, "with a as (select 1) update t set a = 1": false,
		"with a as (delete from t returning *) insert into t select * from a": false, "delete from t where a in (select 1)": false, "insert into t select 'returning'": false, `insert into t values (1) returning "a`: true,
	} {
		if got := returnsRows(text); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
}
