package compat

import (
	"testing"

	sq "github.com/Masterminds/squirrel"
)

func TestSquirrel(t *testing.T) {
	both(t, func(t *testing.T, s *side) {
		db := s.open(t)
		_, err := db.Exec("CREATE TABLE goods (id serial PRIMARY KEY, name text UNIQUE, price numeric(10,2))")
		must(t, err)
		cache := sq.NewStmtCache(db)
		defer func() { must(t, cache.Clear()) }()
		run(t, s, "plain", db)
		run(t, s, "prepared and kept", cache)
		tx, err := db.Begin()
		must(t, err)
		run(t, s, "in a transaction", tx)
		s.see("commit", tx.Commit())
	})
}

func run(t *testing.T, s *side, what string, runner sq.BaseRunner) {
	t.Helper()
	b := sq.StatementBuilder.PlaceholderFormat(sq.Dollar).RunWith(runner)
	for range 3 {
		var id int
		err := b.Insert("goods").Columns("name", "price").Values(what, 9.5).Suffix("ON CONFLICT (name) DO UPDATE SET price = goods.price + 1 RETURNING id").QueryRow().Scan(&id)
		s.see(what, err, id > 0)
		res, err := b.Update("goods").Set("price", sq.Expr("price * ?", 2)).Where(sq.Or{sq.Eq{"name": []string{what, "x"}}, sq.Lt{"price": 0}}).Exec()
		must(t, err)
		n, err := res.RowsAffected()
		s.see("updated", n, err)
		rows, err := b.Select("name", "price").From("goods").OrderBy("name").Limit(5).Query()
		s.result("select", rows, err)
		s.see("none", b.Select("id").From("goods").Where(sq.Eq{"id": -1}).QueryRow().Scan(&id))
	}
}
