package compat

import (
	"testing"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"entgo.io/ent/dialect/sql/schema"
	"entgo.io/ent/dialect/sql/sqlgraph"
	"entgo.io/ent/schema/field"
)

// What ent's generated code calls: its driver, its migration and its builders.
// The code itself is not here, it would be generated into the module.
func TestEnt(t *testing.T) {
	both(t, func(t *testing.T, s *side) {
		ctx := t.Context()
		drv := entsql.OpenDB(dialect.Postgres, s.open(t))
		id := &schema.Column{Name: "id", Type: field.TypeInt, Increment: true}
		pets := schema.NewTable("pets").AddPrimary(id).
			AddColumn(&schema.Column{Name: "name", Type: field.TypeString, Unique: true}).
			AddColumn(&schema.Column{Name: "meta", Type: field.TypeJSON, Nullable: true}).
			AddColumn(&schema.Column{Name: "kind", Type: field.TypeEnum, Enums: []string{"cat", "dog"}, Default: "cat"})
		for range 2 {
			m, err := schema.NewMigrate(drv)
			must(t, err)
			s.see("migrate", m.Create(ctx, pets))
		}
		for _, name := range []string{"a", "b", "a"} {
			spec := sqlgraph.NewCreateSpec("pets", sqlgraph.NewFieldSpec("id", field.TypeInt))
			spec.SetField("name", field.TypeString, name)
			spec.SetField("meta", field.TypeJSON, map[string]int{"x": 1})
			err := sqlgraph.CreateNode(ctx, drv, spec)
			s.see("create", err, sqlgraph.IsUniqueConstraintError(err), spec.ID.Value)
		}
		for range 3 {
			tx, err := drv.Tx(ctx)
			must(t, err)
			text, args := entsql.Dialect(dialect.Postgres).Update("pets").Set("kind", "dog").Where(entsql.EQ("name", "a")).Query()
			var res entsql.Result
			must(t, tx.Exec(ctx, text, args, &res))
			n, err := res.RowsAffected()
			s.see("update", n, err)
			text, args = entsql.Dialect(dialect.Postgres).Select("name", "kind", "meta").From(entsql.Table("pets")).Where(entsql.In("kind", "dog", "cat")).OrderBy("name").Query()
			rows := &entsql.Rows{}
			must(t, tx.Query(ctx, text, args, rows))
			var all []struct {
				Name, Kind string
				Meta       []byte
			}
			s.see("select", entsql.ScanSlice(rows, &all), all, rows.Close(), tx.Rollback())
		}
	})
}
