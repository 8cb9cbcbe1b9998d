package pgpooled_test

import (
	"fmt"
	"strings"
	"testing"
)

// A function may raise the very states by which a statement that no longer fits
// is known. It has run: its text must not run again. What a rollback leaves, a
// sequence, counts.
func TestAnErrorOutOfAFunctionIsNotTakenForAnOutdatedStatement(t *testing.T) {
	t.Parallel()
	n := appCount.Add(1)
	seq, f, g, table := fmt.Sprintf("q%d", n), fmt.Sprintf("f%d", n), fmt.Sprintf("g%d", n), newTable(t)
	mustExec(t, server.Admin(), "create sequence "+seq)
	mustExec(t, server.Admin(), fmt.Sprintf(`create function %s(state text) returns int language plpgsql as
		$$begin perform nextval('%s'); raise exception using errcode = state, message = 'cached plan must not change result type'; end$$`, f, seq))
	// Errors of the server itself, by texts that a function runs.
	mustExec(t, server.Admin(), fmt.Sprintf(`create function %s(text) returns int language plpgsql as
		$$begin perform nextval('%s'); execute $1; return 1; end$$`, g, seq))
	mustExec(t, server.Admin(), fmt.Sprintf(`create function %s_t() returns trigger language plpgsql as $$begin perform %s(new.v); return new; end$$`, f, f))
	mustExec(t, server.Admin(), fmt.Sprintf("create trigger a before insert on %s for each row when (new.id > 0) execute function %s_t()", table, f))
	db := open(t, "max_open_conns", "1")
	used := 0
	call := func(text string, args ...any) {
		t.Helper()
		_, err := db.Exec(text, args...)
		if err == nil {
			t.Errorf("%s <- %v: no error", text, args)
		}
		used++
		if got := queryInt(t, server.Admin(), "select last_value from "+seq); got != used {
			t.Fatalf("%s <- %v: ran %d times: %v", text, args, 1+got-used, err)
		}
	}
	for range 4 {
		for _, state := range []string{"0A000", "26000", "42P01", "42883", "42P05", "22003", "25006"} {
			call("select "+f+"($1)", state)
			call("insert into "+table+" values (1, $1)", state)
		}
		for _, text := range []string{"execute nobody", "select nothing from nowhere", "select 1 from", "select 'x'::int"} {
			call("select "+g+"($1)", text)
		}
	}
	if named(t, db) == 0 {
		t.Error("nothing was kept")
	}
}

// A text too long to keep runs as it did, and the memory of texts is bounded.
func TestLongTextsAreNotKept(t *testing.T) {
	t.Parallel()
	db := open(t, "max_open_conns", "1")
	for _, test := range []struct{ length, kept int }{{1 << 20, 0}, {64<<10 + 1, 0}, {64 << 10, 1}} {
		text := "select $1::int --"
		text += strings.Repeat("x", test.length-len(text))
		for range 4 {
			askFor(t, db, text, 7)
		}
		if n := named(t, db); n != test.kept {
			t.Errorf("%d bytes: %d statements", test.length, n)
		}
	}
}
