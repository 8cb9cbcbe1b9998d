package compat

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

var server *pgtest.Server

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(pgtest.Main(m, &server))
}

// maxOpen is the limit of each pgpooled pool.
const maxOpen = 4

// side is one of the two drivers on an empty database of its own.
type side struct {
	driver string
	plain  string // the DSN without keys of pgpooled
	dsn    string
	app    string      // the application_name
	kept   []io.Closer // closed after the test's databases
	*record
}

// lib says whether it is lib/pq's side.
func (s *side) lib() bool { return s.driver == "postgres" }

// open opens a plain sql.DB that is closed at the test's end.
func (s *side) open(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open(s.driver, s.dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, db) })
	return db
}

// returned checks that a library gave back what it took from pgpooled, and that
// the pool stayed within its limit.
func returned(t *testing.T, db *sql.DB) {
	t.Helper()
	if stats, ok := pgpooled.StatsOf(db); ok {
		within(t, "every session is returned", func() bool { stats, _ = pgpooled.StatsOf(db); return stats.InUse == 0 })
		if stats.Open > maxOpen {
			t.Errorf("%d sessions open, the limit is %d", stats.Open, maxOpen)
		}
		if stats.Acquires == 0 {
			t.Error("nothing ran on the pool")
		}
	}
}

// closed is returned, and Close without an error.
func closed(t *testing.T, db io.Closer) {
	t.Helper()
	if db, ok := db.(*sql.DB); ok {
		returned(t, db)
	}
	if err := db.Close(); err != nil {
		t.Error("Close:", err)
	}
}

// both runs app on lib/pq and on pgpooled and compares what it recorded. kv are
// parameters for both.
func both(t *testing.T, app func(t *testing.T, s *side), kv ...string) {
	t.Helper()
	var sides []*side
	for _, name := range []string{"postgres", "pgpooled"} {
		t.Run(name, func(t *testing.T) {
			s := newSide(t, name, kv...)
			sides = append(sides, s)
			app(t, s)
		})
	}
	if len(sides) < 2 {
		t.Fatal("a side did not run: run both of them")
	}
	if len(sides[0].lines) == 0 {
		t.Error("nothing was recorded, so nothing was compared")
	}
	for _, d := range diff(sides[0].record, sides[1].record) {
		t.Error(d)
	}
}

func newSide(t *testing.T, driver string, kv ...string) *side {
	t.Helper()
	name, drop, err := server.CreateDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &side{driver: driver, app: driver + "-" + name, record: &record{}}
	s.plain = server.DSN(append([]string{"dbname", name, "application_name", s.app}, kv...)...)
	s.dsn = s.plain
	if !s.lib() {
		s.dsn += fmt.Sprintf(" max_open_conns=%d pool_timeout=5s", maxOpen)
	}
	s.hide = []string{name, s.driver}
	t.Cleanup(func() {
		for _, c := range s.kept {
			must(t, c.Close())
		}
		within(t, "the server has no session of it left", func() bool {
			n, err := server.CountSessions(context.Background(), s.app)
			return err == nil && n == 0
		})
		drop()
	})
	return s
}

// within polls until ok or a bound that only a fault reaches.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("not so after 20 s: %s", what)
			return
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
