package compat

import (
	"testing"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// The one line that sqlx needs.
func init() { sqlx.BindDriver("pgpooled", sqlx.DOLLAR) }

type person struct {
	ID    int
	Name  string
	Tags  pq.StringArray
	Email *string
}

func TestSqlx(t *testing.T) {
	both(t, func(t *testing.T, s *side) {
		db, err := sqlx.Connect(s.driver, s.dsn)
		must(t, err)
		defer closed(t, db.DB)
		db.MustExec("CREATE TABLE person (id int PRIMARY KEY, name text NOT NULL, tags text[], email text)")
		s.see("rebind", db.Rebind("SELECT ? + ?"), sqlx.BindType(s.driver))
		for i := range 3 {
			n, err := db.NamedExec("INSERT INTO person (id, name, tags, email) VALUES (:id, :name, :tags, :email)", []person{{ID: 2 * i, Name: "a", Tags: pq.StringArray{"x"}}, {ID: 2*i + 1, Name: "b"}})
			must(t, err)
			rows, err := n.RowsAffected()
			s.see("named", rows, err)
		}
		_, err = db.NamedExec("INSERT INTO person (id, name) VALUES (:id, :name)", person{ID: 1})
		s.see("unique", err)
		for range 3 {
			var p person
			s.see("get", db.Get(&p, db.Rebind("SELECT * FROM person WHERE id = ?"), 1), p)
			s.see("none", db.Get(&p, "SELECT * FROM person WHERE id = $1", 99))
			var all []person
			text, args, err := sqlx.In("SELECT * FROM person WHERE id IN (?) ORDER BY id", []int{1, 2, 3})
			must(t, err)
			s.see("select", db.Select(&all, db.Rebind(text), args...), all)
			s.see("a column too many", db.Get(&p, "SELECT *, 1 AS more FROM person LIMIT 1"))
			st, err := db.PrepareNamed("SELECT name FROM person WHERE id = :id")
			must(t, err)
			var name string
			s.see("prepared", st.Get(&name, map[string]any{"id": 2}), name, st.Close())
			px, err := db.Preparex("SELECT * FROM person WHERE id > $1 ORDER BY id")
			must(t, err)
			s.see("preparedx", px.Select(&all, 3), all, px.Close())
			rows, err := db.Queryx("SELECT * FROM person ORDER BY id")
			must(t, err)
			for rows.Next() {
				m := map[string]any{}
				s.see("map", rows.MapScan(m), m)
				v, err := rows.SliceScan()
				s.see("slice", v, err)
			}
			s.see("end", rows.Err(), rows.Close())
			tx, err := db.Beginx()
			must(t, err)
			_, err = tx.NamedExec("UPDATE person SET name = :name WHERE id = :id", person{ID: 1, Name: "changed"})
			s.see("tx", err, tx.Get(&p, tx.Rebind("SELECT * FROM person WHERE id = ?"), 1), p, tx.Rollback())
		}
	})
}
