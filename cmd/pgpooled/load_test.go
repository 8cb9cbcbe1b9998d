package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// loadJSON runs load --json. A machine that is too slow may miss the criteria
// about time, nothing else.
func loadJSON(t *testing.T, args ...string) loadResult {
	t.Helper()
	e := run(t, nil, append([]string{"load", "--json"}, args...)...)
	r := decode[loadResult](t, e)
	judge(t, e, r)
	return r
}

func judge(t *testing.T, e ended, r loadResult) {
	t.Helper()
	met := true
	for _, c := range r.Criteria {
		met = met && c.Met
		if !c.Met && !strings.HasPrefix(c.Name, "3") && !strings.HasPrefix(c.Name, "4") {
			t.Errorf("not met: %+v\n%s", c, e.errOut)
		}
	}
	if len(r.Criteria) < 6 || r.Met != met || r.ExitStatus != e.status || met != (e.status == exitOK) && e.status != exitInterrupted {
		t.Errorf("%d criteria, met %v and %v, exit status %d and %d", len(r.Criteria), met, r.Met, e.status, r.ExitStatus)
	}
}

// clean: the process is gone, its sessions are about to be.
func clean(t *testing.T, s *pgtest.Server, tables int) {
	t.Helper()
	await(t, "its sessions to end", func() bool {
		var n int
		err := s.Admin().QueryRowContext(t.Context(), "select count(*) from pg_stat_activity where application_name like 'pgpooled_load%'").Scan(&n)
		return err == nil && n == 0
	})
	var n int
	if err := s.Admin().QueryRowContext(t.Context(), "select count(*) from pg_tables where tablename like 'pgpooled_load%'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if n != tables {
		t.Errorf("%d tables are left, want %d", n, tables)
	}
}

func TestLoadOfEachKind(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Password: secret})
	file := filepath.Join(t.TempDir(), "own.sql")
	if err := os.WriteFile(file, []byte("select 1; select generate_series(1, 3)"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, work := range [][]string{{"--work", "read"}, {"--work", "write"}, {"--work", "mixed"}, {"--sql", file}} {
		t.Run(filepath.Base(work[1]), func(t *testing.T) {
			page := filepath.Join(t.TempDir(), "out.html")
			r := loadJSON(t, append(work, "--users", "6", "--limit", "2", "--duration", "1s", "--report", page, s.URL("max_open_conns", "7"))...)
			want := map[string]string{"--work": work[1], "--sql": "sql"}[work[0]]
			if r.Work != want || r.Users != 6 || r.Limit != 2 || r.Rate != 0 || r.Seconds < 1 || r.Server == "" || r.Failed != 0 || r.Late != 0 {
				t.Errorf("%+v", r)
			}
			if r.Calls < 20 || r.PerSecond <= 0 || r.P50 <= 0 || r.P99 < r.P50 || r.Max < r.P99 || r.ColdStart <= 0 || r.Restart != nil || len(r.Failures) > 0 {
				t.Errorf("%+v", r)
			}
			if r.Pool.PeakInUse != 2 || r.Pool.Opens < 2 || r.Pool.Waits == 0 || r.Pool.WaitMean <= 0 || len(r.Events) == 0 {
				t.Errorf("%+v %+v", r.Pool, r.Events)
			}
			calls, most := 0.0, -1
			for _, x := range r.Series {
				calls += x.Rate
				most = max(most, x.Sessions)
				if x.At <= 0 || x.InUse > 2 || x.Idle > 2 || x.Sessions > 2 {
					t.Errorf("%+v", x)
				}
			}
			if len(r.Series) < 2 || calls == 0 || most < 1 {
				t.Errorf("series %+v", r.Series)
			}
			clean(t, s, 0)
			html, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			keepsSecret(t, string(html))
			selfContained(t, string(html))
		})
	}
	run(t, nil, "load", "--duration", "1s", "--users", "3", s.URL()).want(t, exitOK, "calls/s", "PASS  2", "cold start", "password=xxxxx", "closed loop")
}

func TestOpenLoopMeasuresFromTheIntendedStart(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	file := filepath.Join(t.TempDir(), "slow.sql")
	if err := os.WriteFile(file, []byte("select pg_sleep(0.05)"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Two users make at most 20 calls a second each; 200 are due.
	r := loadJSON(t, "--sql", file, "--users", "2", "--rate", "200", "--duration", "1s", s.DSN())
	if r.Rate != 200 || r.Calls > 44 || r.Late < 100 {
		t.Errorf("%d calls, %d not begun", r.Calls, r.Late)
	}
	if r.Max < 500 {
		t.Errorf("the last calls began late by most of a second, but the longest latency is %v ms", r.Max)
	}
	// A server that keeps up is asked at the rate that was given, no faster.
	r = loadJSON(t, "--users", "20", "--rate", "50", "--duration", "1s", s.DSN())
	if r.Calls+r.Late > 51 || r.Calls < 1 {
		t.Errorf("%d calls, %d not begun; 50 were due", r.Calls, r.Late)
	}
}

func TestLoadRefusesATableThatIsThere(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	execSQL(t, s, "create table pgpooled_load (precious int)", "insert into pgpooled_load values (42)", "create role app login",
		"create schema own authorization app", "revoke create on schema public from public")
	run(t, nil, "load", "--work", "write", "--duration", "1s", s.DSN()).want(t, exitFailed, "pgpooled_load exists already and is not touched", "--table")
	var n int
	if err := s.Admin().QueryRowContext(t.Context(), "select precious from pgpooled_load").Scan(&n); err != nil || n != 42 {
		t.Errorf("%d, %v", n, err)
	}
	clean(t, s, 1)
	run(t, nil, "load", "--work", "write", "--duration", "1s", s.DSN("user", "app")).want(t, exitFailed, "making the table")
	loadJSON(t, "--work", "write", "--table", "own.pgpooled_load_2", "--duration", "1s", "--users", "3", s.DSN("user", "app"))
	clean(t, s, 1)
}

func TestLoadArguments(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty.sql")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args   []string
		status int
		text   string
	}{
		{[]string{"--users", "0", "host=h"}, exitUsage, "--users"},
		{[]string{"--duration", "1ms", "host=h"}, exitUsage, "--duration"},
		{[]string{"--work", "dance", "host=h"}, exitUsage, "--work"},
		{[]string{"--work", "read", "--sql", "x", "host=h"}, exitUsage, "exclude"},
		{[]string{"--rate", "-1", "host=h"}, exitUsage, "--rate"},
		{[]string{"--limit", "0", "host=h"}, exitUsage, "--limit"},
		{[]string{"--timeout", "0", "host=h"}, exitUsage, "--timeout"},
		{[]string{"--table", "a; drop table b", "host=h"}, exitUsage, "--table"},
		{[]string{"--sql", empty, "host=h"}, exitUsage, "empty"},
		{[]string{"--sql", empty + ".not", "host=h"}, exitUsage, "no such file"},
		{[]string{"--report", "/nonexistent/x.html", "host=h"}, exitUsage, "the report"},
		{[]string{}, exitUsage, "no database"},
		{[]string{"host=h password=hush-hush pool_timeout=x"}, exitUsage, "pool_timeout"},
		{[]string{"host=h max_open_conns=0"}, exitFailed, "--limit"},
		{[]string{"host=/nonexistent password=hush-hush user=x"}, exitFailed, "counting sessions"},
	} {
		run(t, nil, append([]string{"load"}, tt.args...)...).want(t, tt.status, tt.text)
	}
}

// started runs load in the background; wait returns how it ended.
func started(t *testing.T, args ...string) (process *os.Process, wait func() ended) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), processLimit)
	c := commandFor(ctx, nil, append([]string{"load", "--json"}, args...)...)
	var out, errOut bytes.Buffer
	c.Stdout, c.Stderr = &out, &errOut
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	wait = sync.OnceValue(func() ended {
		defer cancel()
		return finish(t, c.Wait(), &out, &errOut)
	})
	t.Cleanup(func() { cancel(); wait() })
	return c.Process, wait
}

func TestInterruptedLoadTidiesUpAndTellsWhatItSaw(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	process, wait := started(t, "--work", "write", "--duration", "10m", "--users", "4", "--limit", "2", s.DSN())
	await(t, "the users write", func() bool {
		var n int64
		err := s.Admin().QueryRowContext(t.Context(), "select coalesce(sum(n_tup_upd), 0) from pg_stat_user_tables where relname = 'pgpooled_load'").Scan(&n)
		return err == nil && n > 10
	})
	if err := process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	e := wait()
	r := decode[loadResult](t, e)
	e.want(t, exitInterrupted, "interrupted: the figures are of the first")
	judge(t, e, r)
	if r.Calls == 0 || r.Seconds > 300 || r.Failed > 0 {
		t.Errorf("%+v", r)
	}
	clean(t, s, 0)
}

func TestLoadTidiesUpWhenItsReaderOrTerminalGoesAway(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	args := []string{"load", "--work", "write", "--duration", "10m", "--users", "3", "--limit", "2", s.DSN()}
	begin := func(end func(c *exec.Cmd, out *os.File)) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), processLimit)
		defer cancel()
		c := commandFor(ctx, nil, args...)
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		c.Stdout = writer
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		_ = writer.Close()
		line := make([]byte, 1)
		for seen := ""; !strings.Contains(seen, "calls/s"); seen += string(line) { // the table is made
			if _, err := reader.Read(line); err != nil {
				t.Fatalf("%v after %q", err, seen)
			}
		}
		end(c, reader)
		if err := c.Wait(); c.ProcessState.ExitCode() != exitInterrupted {
			t.Errorf("%v, exit status %d", err, c.ProcessState.ExitCode())
		}
		clean(t, s, 0)
	}
	begin(func(_ *exec.Cmd, out *os.File) { _ = out.Close() })
	begin(func(c *exec.Cmd, out *os.File) {
		go func() { _, _ = io.Copy(io.Discard, out) }()
		_ = c.Process.Signal(syscall.SIGHUP)
	})
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(processLimit); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s in vain", what)
		}
	}
}

func TestLoadMeasuresARestart(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	flag := filepath.Join(t.TempDir(), "restart")
	page := filepath.Join(t.TempDir(), "out.html")
	// The command asks this process, whose child the server is.
	_, wait := started(t, "--work", "mixed", "--duration", "2s", "--users", "6", "--limit", "3", "--report", page,
		"--restart", fmt.Sprintf("echo shutting down; touch '%s'; while [ -e '%s' ]; do sleep 0.02; done", flag, flag), s.DSN())
	await(t, "the command", func() bool { _, err := os.Stat(flag); return err == nil })
	if err := s.Restart(t.Context(), "fast"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(flag); err != nil {
		t.Fatal(err)
	}
	e := wait()
	r := decode[loadResult](t, e)
	judge(t, e, r)
	if x := r.Restart; x == nil || !x.Recovered || x.AwaySeconds <= 0 || x.GapSeconds <= 0 || x.Error != "" {
		t.Fatalf("%+v\n%s", r.Restart, e.errOut)
	}
	e.want(t, e.status, "it says: shutting down", "first call that succeeded", "the longest time without a call that succeeded")
	html, err := os.ReadFile(page)
	if err != nil || !strings.Contains(string(html), `class="event"`) {
		t.Errorf("the report does not show the restart (%v)", err)
	}
	clean(t, s, 0)

	run(t, nil, "load", "--duration", "1s", "--users", "2", "--restart", "exit 7", s.DSN()).
		want(t, exitFailed, "FAIL  * recovery after a restart", "exit status 7")
}

func TestLoadThroughAPoolerInTransactionMode(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	b := pgtest.BouncerT(t, s, pgtest.BouncerOptions{Mode: "transaction", Size: 3})
	r := loadJSON(t, "--work", "mixed", "--duration", "1s", "--users", "6", "--limit", "4", b.DSN("pgbouncer", "true"))
	if r.Calls < 20 || r.Failed > 0 || !strings.Contains(fmt.Sprint(r.Criteria), "the pooler's") {
		t.Errorf("%+v", r)
	}
}

func TestAFailedRunKeepsAnEarlierReport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	page := filepath.Join(dir, "out.html")
	if err := os.WriteFile(page, []byte("earlier"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, nil, "load", "--report", page, "host=/nonexistent user=x").want(t, exitFailed)
	if text, err := os.ReadFile(page); err != nil || string(text) != "earlier" {
		t.Errorf("%q, %v", text, err)
	}
	left := 0
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left++
		}
		return err
	})
	if left != 1 {
		t.Errorf("%d files in the folder, want the report only", left)
	}
}

var errNotShown = errors.New(`<img src=x onerror="alert(1)">`)
