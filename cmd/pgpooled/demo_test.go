package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// The tests here count goroutines and set slog's default: one at a time.

const secret = "hush hush/secret"

// machineStall is the pause of this process above which a slow answer says
// nothing about the pool.
const machineStall = 500 * time.Millisecond

func TestDemoMeetsItsCriteriaThroughARestart(t *testing.T) {
	var out bytes.Buffer
	sc := &screen{w: &out}
	s := settings{users: 10, limit: 3, duration: 3 * time.Second, poolTimeout: 10 * time.Second, restart: "fast", away: 200 * time.Millisecond}
	target, err := newTarget(t.Context(), s, sc)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := pgpooled.ParseDSN(target.dsn)
	if err != nil {
		t.Fatal(err)
	}
	dir := target.server.DataDir()
	f, err := runOn(t.Context(), s, sc, target)
	if err != nil {
		t.Fatal(err)
	}
	reportVerdicts(sc, f)
	for _, v := range f.verdicts() {
		if v.met {
			continue
		}
		if f.stall > machineStall && (strings.HasPrefix(v.name, "3") || strings.HasPrefix(v.name, "4")) {
			t.Logf("the machine stalled for %v: %s: %s", f.stall, v.name, v.figure)
			continue
		}
		t.Errorf("not met: %s: %s %q", v.name, v.figure, v.notes)
	}
	if f.calls < 100 || f.truth.increments.confirmed == 0 || f.truth.tokens.confirmed == 0 {
		t.Errorf("%d calls, %+v: the users hardly worked", f.calls, f.truth)
	}
	if f.sessions.most != s.limit || f.pool.Opens <= int64(s.limit) {
		t.Errorf("at most %d sessions, %d opened: want the limit of %d reached, and new ones after the restart", f.sessions.most, f.pool.Opens, s.limit)
	}
	if f.waited == 0 {
		t.Error("no call waited for the new server")
	}
	for _, want := range []string{"cold start", "calls/s", "restart: the server", "first call that succeeded", "the server is back", "max_open_conns=3", "PASS  2"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not show %q", want)
		}
	}
	if password := cfg.PQ.Password; len(password) < 8 || strings.Contains(out.String(), password) {
		t.Error("it shows the password, or there is none")
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the server's directory is still there: %v", err)
	}
	if t.Failed() {
		t.Logf("it printed:\n%s", &out)
	}
}

func TestDemoLeavesAnExistingServerAsItWas(t *testing.T) {
	server := pgtest.StartT(t, pgtest.Options{Password: secret})
	var out, errOut bytes.Buffer
	page := filepath.Join(t.TempDir(), "out.html")
	status := dispatch(t.Context(), []string{"demo", "--dsn", server.URL("max_open_conns", "4"), "--users", "8", "--duration", "1s", "--report", page}, &out, &errOut)
	if html, err := os.ReadFile(page); err != nil || !strings.Contains(out.String(), "the report, for a browser: "+page) {
		t.Errorf("no report: %v", err)
	} else {
		selfContained(t, string(html))
		keepsSecret(t, string(html))
	}
	if status == exitFailed && strings.Count(out.String(), "FAIL") == 1 && strings.Contains(out.String(), "gave this process no time") {
		t.Log("the machine stalled")
	} else if status != exitOK {
		t.Errorf("exit status %d", status)
	}
	if text := out.String(); !strings.Contains(text, "not restarted") || !strings.Contains(text, "limit 4") || strings.Contains(text, "recovery") {
		t.Error("it does not say that there was no restart, or uses another limit")
	}
	for _, word := range []string{secret, "hush", "hush%20hush"} {
		if strings.Contains(out.String()+errOut.String(), word) {
			t.Errorf("it shows a piece of the password: %q", word)
		}
	}
	// The server's end of a closed connection lives a moment longer.
	tables, sessions := -1, -1
	for deadline := time.Now().Add(30 * time.Second); (tables != 0 || sessions != 0) && time.Now().Before(deadline); {
		if err := server.Admin().QueryRowContext(t.Context(), `select (select count(*) from pg_tables where tablename like 'pgpooled_demo_%'),
			(select count(*) from pg_stat_activity where application_name like 'pgpooled_demo_%')`).Scan(&tables, &sessions); err != nil {
			t.Fatal(err)
		}
	}
	if tables != 0 || sessions != 0 {
		t.Errorf("%d tables and %d sessions are left", tables, sessions)
	}
	if t.Failed() {
		t.Logf("it printed:\n%s%s", &out, &errOut)
	}
}

func TestDemoFailsWhenCallersFindNoConnection(t *testing.T) {
	server := pgtest.StartT(t, pgtest.Options{})
	locked := make(chan error, 1)
	go func() { locked <- lockDemoTable(t.Context(), server.Admin()) }()
	var out, errOut bytes.Buffer
	status := dispatch(t.Context(), []string{"demo", "--dsn", server.DSN(), "--limit", "2", "--users", "8", "--duration", "2s", "--pool-timeout", "300ms",
		"--report", filepath.Join(t.TempDir(), "out.html")}, &out, &errOut)
	if err := <-locked; err != nil {
		t.Fatal(err)
	}
	if status != exitFailed || !strings.Contains(out.String(), "FAIL  1 no connection timeout errors") || !strings.Contains(out.String(), "pool timeout") {
		t.Errorf("exit status %d; while the table was locked callers must have timed out:\n%s%s", status, &out, &errOut)
	}
	if !strings.Contains(out.String(), "PASS  2") || !strings.Contains(out.String(), "PASS  * no write twice") {
		t.Errorf("the limit and the truth hold all the same:\n%s", &out)
	}
}

// lockDemoTable waits until the users work on the demo's table and keeps them
// from it for longer than they may wait.
func lockDemoTable(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var table string
	for table == "" {
		if !sleep(ctx, 10*time.Millisecond) {
			return ctx.Err()
		}
		err := db.QueryRowContext(ctx, `select relname from pg_stat_user_tables
			where relname like 'pgpooled_demo_%' and relname not like '%_journal' and n_tup_upd + n_tup_ins > 0`).Scan(&table)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	_, err = tx.ExecContext(ctx, "lock table "+table+" in access exclusive mode; select pg_sleep(0.8)")
	return err
}

func TestInterruptedDemoStopsTheServerAndGivesNoVerdict(t *testing.T) {
	var out bytes.Buffer
	sc := &screen{w: &out}
	s := settings{users: 10, limit: 3, duration: time.Minute, poolTimeout: 10 * time.Second, restart: "none"}
	target, err := newTarget(t.Context(), s, sc)
	if err != nil {
		t.Fatal(err)
	}
	dir := target.server.DataDir()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	go func() {
		for n := 0; n < s.limit && ctx.Err() == nil; sleep(ctx, 10*time.Millisecond) {
			n, _ = target.sessions(ctx)
		}
		interrupt()
	}()
	began := time.Now()
	f, err := runOn(ctx, s, sc, target)
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v to stop", took)
	}
	if f != nil && f.calls != 0 {
		t.Error("an interrupted run has figures")
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the server's directory is still there: %v", err)
	}

	out.Reset()
	if status := dispatch(ctx, []string{"demo", "--duration", "1s"}, &out, &out); status != exitInterrupted || strings.Contains(out.String(), "PASS") {
		t.Errorf("exit status %d, want %d and no verdict:\n%s", status, exitInterrupted, &out)
	}
}

func TestTheTruthIsFoundOut(t *testing.T) {
	server := pgtest.StartT(t, pgtest.Options{})
	db, err := sql.Open(pgpooled.DriverName, server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := t.Context()
	l := newLoad(db, "demo", 2)
	if err := l.createTables(ctx); err != nil {
		t.Fatal(err)
	}
	u := l.users[1]
	for range 5 {
		if err := errors.Join(l.read(ctx, u), l.update(ctx, u), l.insert(ctx, u), l.transaction(ctx, u), l.read(ctx, u)); err != nil {
			t.Fatal(err)
		}
	}
	compare := func() truth {
		t.Helper()
		found, err := l.compare(ctx, server.Admin())
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := compare(); !found.holds() || found.increments.confirmed != 10 || found.tokens.confirmed != 10 {
		t.Fatalf("%+v does not hold", found)
	}

	unknown, refused := &pgpooled.OutcomeUnknownError{Op: "exec"}, &pgpooled.ConnLostError{Op: "exec"}
	tests := []struct {
		name  string
		learn func()
		sql   string
		holds bool
		wants func(truth) bool
	}{
		{"an unknown outcome that was not done", func() { u.next = 100; u.learn(unknown, true, true) }, "", true,
			func(f truth) bool {
				return f.tokens.maybe == 1 && f.tokens.maybeDone == 0 && f.increments.maybeDone == 0
			}},
		{"an unknown outcome that was done", nil, "insert into demo_journal values (1, 100); update demo set n = n + 1 where usr = 1", true,
			func(f truth) bool { return f.tokens.maybeDone == 1 && f.increments.maybeDone == 1 }},
		{"and done twice", nil, "insert into demo_journal values (1, 100)", false,
			func(f truth) bool { return f.twice == 1 }},
		{"a confirmed row that is gone does not hide behind it", nil, "delete from demo_journal where ctid in (select ctid from demo_journal where token = 100 limit 1); delete from demo_journal where token = 3", false,
			func(f truth) bool { return f.lostTokens == 1 && f.twice == 0 }},
		{"a refused row that is not there", func() { u.next = 200; u.learn(refused, false, true) }, "insert into demo_journal values (1, 3)", true,
			func(f truth) bool { return f.refused == 1 && f.refusedDone == 0 }},
		{"a refused row that is there", nil, "insert into demo_journal values (1, 200)", false,
			func(f truth) bool { return f.refusedDone == 1 }},
		{"a row that nobody wrote", nil, "delete from demo_journal where token = 200; insert into demo_journal values (0, 1)", false,
			func(f truth) bool { return f.tokens.extra == 1 }},
		{"an increment too many", nil, "delete from demo_journal where usr = 0; update demo set n = n + 1 where usr = 1", false,
			func(f truth) bool { return f.increments.extra == 1 }},
		{"one user's increment too many does not make up for another's loss", func() { l.users[0].added++ }, "", false,
			func(f truth) bool { return f.increments.extra == 1 && f.increments.lost == 1 }},
	}
	for _, tt := range tests {
		if tt.learn != nil {
			tt.learn()
		}
		if tt.sql != "" {
			if _, err := server.Admin().ExecContext(ctx, tt.sql); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
		}
		if found := compare(); found.holds() != tt.holds || !tt.wants(found) {
			t.Errorf("%s: %+v", tt.name, found)
		}
	}

	if err := l.read(ctx, u); err != nil || l.wrong.Load() != 1 || compare().holds() {
		t.Errorf("a value that cannot be was not noticed: %v", err)
	}
}
