package compat

import (
	"errors"
	"fmt"
	"testing"
	"testing/fstest"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database/postgres"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

func TestGoose(t *testing.T) {
	files := fstest.MapFS{}
	for name, text := range map[string]string{
		"1_one.sql":   "-- +goose Up\nCREATE TABLE one (id int);\nINSERT INTO one VALUES (1);\n-- +goose Down\nDROP TABLE one;\n",
		"2_two.sql":   "-- +goose Up\n-- +goose StatementBegin\nCREATE FUNCTION two() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 2; END $$;\n-- +goose StatementEnd\n-- +goose Down\nDROP FUNCTION two();\n",
		"3_three.sql": "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY three ON one (id);\n-- +goose Down\nDROP INDEX CONCURRENTLY three;\n",
		"4_four.sql":  "-- +goose Up\nINSERT INTO one VALUES (4);\nSELECT 1/0;\n",
	} {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	both(t, func(t *testing.T, s *side) {
		ctx := t.Context()
		db := s.open(t)
		locker, err := lock.NewPostgresSessionLocker()
		must(t, err)
		p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker))
		must(t, err)
		for range 2 {
			done, err := p.UpTo(ctx, 3)
			s.see("up", len(done), err)
			_, err = p.Up(ctx) // the fourth fails, and leaves nothing
			s.see("fails", err != nil, cause(err))
			version, err := p.GetDBVersion(ctx)
			s.see("version", version, err)
			rows, err := db.Query("SELECT id, two() FROM one")
			s.result("migrated", rows, err)
			done, err = p.DownTo(ctx, 0)
			s.see("down", len(done), err)
		}
		rows, err := db.Query("SELECT version_id, is_applied FROM goose_db_version ORDER BY id")
		s.result("versions", rows, err)
	})
}

// cause is the innermost error: the ones around it tell how long things took.
func cause(err error) error {
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return err
}

func TestGolangMigrate(t *testing.T) {
	files := fstest.MapFS{}
	for i, text := range []string{"CREATE TABLE one (id int); INSERT INTO one VALUES (1);", "ALTER TABLE one ADD b text", "INSERT INTO one VALUES (3); SELECT 1/0"} {
		files[fmt.Sprintf("%d_x.up.sql", i+1)] = &fstest.MapFile{Data: []byte(text)}
		down := []string{"DROP TABLE one", "ALTER TABLE one DROP b", "SELECT 1"}[i]
		files[fmt.Sprintf("%d_x.down.sql", i+1)] = &fstest.MapFile{Data: []byte(down)}
	}
	both(t, func(t *testing.T, s *side) {
		db := s.open(t)
		d, err := postgres.WithInstance(db, &postgres.Config{})
		must(t, err)
		src, err := iofs.New(files, ".")
		must(t, err)
		m, err := migrate.NewWithInstance("iofs", src, s.driver, d)
		must(t, err)
		s.see("two", m.Migrate(2), m.Migrate(2))
		s.see("the third", m.Up())
		version, dirty, err := m.Version()
		s.see("version", version, dirty, err)
		s.see("dirty", m.Up())
		s.see("forced", m.Force(2), m.Steps(-1))
		rows, err := db.Query("SELECT * FROM one")
		s.result("one", rows, err)
		var free bool
		must(t, d.Lock())
		s.see("locked", db.QueryRow("SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").Scan(&free), free)
		must(t, d.Unlock())
		s.see("down", m.Down())
		srcErr, dbErr := m.Close()
		s.see("close", srcErr, dbErr)
	})
}
