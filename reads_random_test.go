package pgpooled

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// pieces are put together at random. Those that are names of functions are words
// of the grammar elsewhere; here they write.
var (
	writers = strings.Fields("filter over partition by within escape sets cube rollup recursive materialized range inner is natural join cross varying")
	pieces  = append(append(strings.Fields(`select select nextval ('s') (1) ( ) u&"nextval" "nextval" uescape '!' '+' , . pg_catalog pg_catalog. *
		from t values table show ; -- /* */ $$ $a$ 1 1. .5 e'\'' ' '' " for update share into u as in any array[ ] :: int text + - lateral
		on true where then end group order grouping not row limit count length collate cast explain n'x' b'1' x'f' \ @ ~ only union all
		interval date time left coalesce current_date`), writers...),
		"\n", "\r", "insert into t values (1)", "with a as (", "delete from t", "operator(pg_catalog.+)", "rows from", "case when", "as materialized (", "select array['s'::regclass] as x")
)

// FuzzReads... finds what a step leads to; this finds what takes several, as
// u&"nextval" uescape '!' ('s'). PGPOOLED_TEST_LONG=1 tries a hundred times as many.
func TestRandomTextsThatOnlyReadAreAcceptedByAReadOnlyTransaction(t *testing.T) {
	t.Parallel()
	n := 30000
	if os.Getenv("PGPOOLED_TEST_LONG") != "" {
		n *= 100
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := pgtest.StartT(t, pgtest.Options{})
	db, err := sql.Open("postgres", s.DSN("statement_timeout", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	setUp := "create table t (a int); create sequence s;"
	for _, name := range writers {
		setUp += fmt.Sprintf(`create function %q(int) returns int language sql volatile as 'insert into t values ($1) returning 1';`, name)
	}
	if _, err := db.Exec(setUp); err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	ctx, reading, accepted := context.Background(), 0, 0
	for range n {
		query := []string{"select ", "with a as (select ", "values (", "select * from ", "(select "}[random.IntN(5)]
		for range 1 + random.IntN(9) {
			query += pieces[random.IntN(len(pieces))] + []string{"", " "}[min(random.IntN(3), 1)]
		}
		if !onlyReads(query) {
			continue
		}
		reading++
		tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		_, err = tx.Exec(query)
		var answer *pq.Error
		switch {
		case err == nil:
			accepted++
		case errors.As(err, &answer) && answer.Code == "25006":
			t.Errorf("%q counts as reading, and the server says: %v", query, err)
		}
		_ = tx.Rollback()
	}
	t.Logf("%d of %d texts count as reading, the server runs %d", reading, n, accepted)
	if accepted < n/1000 {
		t.Errorf("only %d texts that the server runs", accepted)
	}
}
