package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// What the server says is on the screen, but none of it is a command to it.
func TestLoadPrintsNoCommandsForTheTerminal(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	const evil = `raise exception E'\x1b]0;taken\x07\x1b[2J';`
	file := filepath.Join(t.TempDir(), "evil.sql")
	if err := os.WriteFile(file, []byte("do $$ begin "+evil+" end $$"), 0o600); err != nil {
		t.Fatal(err)
	}
	calls := run(t, nil, "load", "--sql", file, "--users", "1", "--duration", "1s", s.DSN())
	calls.want(t, exitFailed, "]0;taken")

	for _, q := range []string{
		"create function no_table() returns event_trigger language plpgsql as $$ begin " + evil + " end $$",
		"create event trigger no_table on ddl_command_start when tag in ('CREATE TABLE') execute function no_table()",
	} {
		if _, err := s.Admin().ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	table := run(t, nil, "load", "--work", "write", "--users", "1", "--duration", "1s", s.DSN())
	table.want(t, exitFailed, "]0;taken")
	for _, e := range []ended{calls, table} {
		if text := e.out + e.errOut; strings.ContainsAny(text, "\x1b\x07") {
			t.Errorf("a command for the terminal: %q", text)
		}
	}
}

// A command may leave something behind that starts the server later and still
// has its output open: the command is through all the same.
func TestRestartCommandMayGoOnInTheBackground(t *testing.T) {
	t.Parallel()
	r := &runner{f: loadFlags{restart: "sleep 5 &"}, sc: &screen{w: io.Discard}}
	if err := r.shell(t.Context()); err != nil {
		t.Error(err)
	}
}
