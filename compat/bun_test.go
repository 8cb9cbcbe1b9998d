package compat

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
)

type book struct {
	bun.BaseModel `bun:"table:books"`
	ID            int64 `bun:",pk,autoincrement"`
	Title         string
	Tags          []string       `bun:",array"`
	Meta          map[string]any `bun:"type:jsonb"`
	At            time.Time
	AuthorID      *int64
	Author        *author `bun:"rel:belongs-to,join:author_id=id"`
}

type author struct {
	bun.BaseModel `bun:"table:authors"`
	ID            int64 `bun:",pk,autoincrement"`
	Name          string
	Books         []*book `bun:"rel:has-many,join:id=author_id"`
}

func TestBun(t *testing.T) {
	both(t, func(t *testing.T, s *side) {
		ctx := t.Context()
		pool := s.open(t)
		db := bun.NewDB(pool, pgdialect.New())
		for _, model := range []any{(*author)(nil), (*book)(nil)} {
			_, err := db.NewCreateTable().Model(model).IfNotExists().Exec(ctx)
			must(t, err)
		}
		_, err := db.Exec("CREATE UNIQUE INDEX ON books (title)")
		must(t, err)
		a := &author{Name: "Ada"}
		_, err = db.NewInsert().Model(a).Exec(ctx)
		s.see("author", err, a.ID)
		books := []book{{Title: "one", Tags: []string{"x", "y z"}, Meta: map[string]any{"a": 1.5}, AuthorID: &a.ID, At: time.Unix(5, 0).UTC()}, {Title: "two", AuthorID: &a.ID, At: time.Unix(6, 0).UTC()}}
		_, err = db.NewInsert().Model(&books).Exec(ctx)
		s.see("books", err, books[0].ID, books[1].ID)
		for range 3 {
			var b book
			err := db.NewSelect().Model(&b).Relation("Author").Where("title = ?", "one").Scan(ctx)
			s.see("book", err, b.ID, b.Title, b.Tags, b.Meta, b.At.UTC(), b.Author.Name)
			var full author
			err = db.NewSelect().Model(&full).Relation("Books").Where("id = ?", a.ID).Scan(ctx)
			s.see("author", err, len(full.Books))
			_, err = db.NewInsert().Model(&book{Title: "one"}).Exec(ctx)
			s.see("double", err)
			s.see("none", db.NewSelect().Model(&b).Where("id = -1").Scan(ctx))
			res, err := db.NewUpdate().Model(&books).Column("meta").Bulk().Exec(ctx)
			must(t, err)
			n, err := res.RowsAffected()
			s.see("bulk", n, err)
			err = db.RunInTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable}, func(ctx context.Context, tx bun.Tx) error {
				if _, err := tx.NewDelete().Model((*book)(nil)).Where("TRUE").Exec(ctx); err != nil {
					return err
				}
				inner := tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
					_, err := tx.ExecContext(ctx, "SELECT 1/0")
					return err
				})
				s.see("inner", inner)
				count, err := tx.NewSelect().Model((*book)(nil)).Count(ctx)
				s.see("in it", count, err)
				return sql.ErrNoRows
			})
			s.see("rolled back", err)
			rows, err := db.QueryContext(ctx, "SELECT title, tags, meta FROM books WHERE id > ? ORDER BY id", 0)
			s.result("rows", rows, err)
		}
	})
}
