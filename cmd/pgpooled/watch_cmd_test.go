package main

import (
	"database/sql"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

func open(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(pgpooled.DriverName, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestWatchShowsWhoBlocksWhomAndLimitsThatComeNear(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Password: secret})
	execSQL(t, s, "create table t (n int)", "create role app login connection limit 3", "grant all on t to app")
	holder := open(t, s.DSN("application_name", "the holder"))
	tx, err := holder.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	var pid int
	if err := tx.QueryRowContext(t.Context(), "select pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), "lock table t in access exclusive mode"); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := open(t, s.DSN("application_name", "the waiter")).ExecContext(t.Context(), "insert into t values (1) /* hush-hush */")
		waited <- err
	}()
	await(t, "the waiter", func() bool {
		var n int
		err := s.Admin().QueryRowContext(t.Context(), "select count(*) from pg_stat_activity where wait_event_type = 'Lock'").Scan(&n)
		return err == nil && n == 1
	})
	e := run(t, nil, "watch", "--once", "--json", s.URL())
	e.want(t, exitWarnings)
	got := decode[situation](t, e)
	if len(got.Blocked) != 1 || got.Blocked[0].Application != "the waiter" || got.Blocked[0].By != strconv.Itoa(pid)+" the holder (idle in transaction)" ||
		got.Blocked[0].PID == 0 || got.Blocked[0].Seconds <= 0 || !strings.HasPrefix(got.Blocked[0].Wait, "Lock ") {
		t.Errorf("blocked %+v", got.Blocked)
	}
	if got.MaxConnections != 200 || got.Reserved != 3 || got.Sessions < 3 || got.At.IsZero() || got.Error != "" || !slices.Contains(got.Warnings, "1 session blocked by others' locks") {
		t.Errorf("%+v", got)
	}
	find := func(name string) programUse {
		for _, p := range got.Programs {
			if p.Application == name {
				return p
			}
		}
		return programUse{}
	}
	if p := find("the holder"); p.Sessions != 1 || p.InTx != 1 || p.LongestTx <= 0 || p.Role != "postgres" || p.Database != "postgres" {
		t.Errorf("%+v", p)
	}
	if p := find("the waiter"); p.Sessions != 1 || p.Active != 1 || p.Waiting != 1 || p.LongestQuery <= 0 {
		t.Errorf("%+v", p)
	}
	if p := find("pgpooled_watch"); p.Sessions != 0 {
		t.Errorf("it counts itself among the programs: %+v", p)
	}
	run(t, nil, "watch", "--once", s.URL()).want(t, exitWarnings, "the holder", "the waiter", "blocked", "WARNING", "of 197 connections in use")
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
}

func TestWatchWarnsNearALimit(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	execSQL(t, s, "create role app login connection limit 3", "create role calm login connection limit 30")
	db := open(t, s.DSN("user", "app", "application_name", "shop"))
	for range 2 {
		c, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	run(t, nil, "watch", "--once", s.DSN("user", "app")).want(t, exitWarnings, "3 of 3 connections that the role's CONNECTION LIMIT allows")
	run(t, nil, "watch", "--once", s.DSN("user", "calm")).want(t, exitOK, "shop")
	run(t, nil, "watch", "--once", "host=/nonexistent user=x password=hush-hush").want(t, exitFailed, "no answer: refused")
	run(t, nil, "watch", "--interval", "1ms", "host=h").want(t, exitUsage, "--interval")
	run(t, nil, "watch", "host=h password=hush-hush pool_timeout=x").want(t, exitUsage, "pool_timeout")
}
