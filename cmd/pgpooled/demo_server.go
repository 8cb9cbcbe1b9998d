package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// target is the server that the demo runs against.
type target struct {
	server         *pgtest.Server // nil with --dsn
	dsn            string         // for sql.Open
	plain          string         // the same for lib/pq, to count with; not of a throwaway server
	shown          string         // the same without secrets
	connectTimeout time.Duration  // for plain, 0 = no limit
	name           string         // application_name of the pool's sessions, and of the tables
	limit          int
	settings       []pgpooled.Setting // in effect
	count          *sql.DB            // plain lib/pq, for the server's own counts and the truth
}

func newTarget(ctx context.Context, s settings, sc *screen) (*target, error) {
	t := &target{name: "pgpooled_demo_" + token()}
	if s.dsn != "" {
		sc.printf("server      the one of --dsn; a server that others use is not restarted")
		return t, t.useServer(ctx, s.dsn, s.limit, s.poolTimeout)
	}
	return t, t.startServer(ctx, s, sc)
}

// token makes a name unique.
func token() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// startServer starts a throwaway server that asks for a password, so that
// there is a secret to keep.
func (t *target) startServer(ctx context.Context, s settings, sc *screen) error {
	// The variables of libpq are about somebody else's server.
	for _, kv := range os.Environ() {
		if key, _, _ := strings.Cut(kv, "="); strings.HasPrefix(key, "PG") && !strings.HasPrefix(key, "PGPOOLED_") {
			_ = os.Unsetenv(key)
		}
	}
	began := time.Now()
	password := rand.Text()
	server, err := pgtest.Start(ctx, pgtest.Options{Password: password, MaxConnections: s.limit + 20})
	if err != nil {
		return err
	}
	t.server, t.limit, t.count = server, s.limit, server.Admin()
	own := []string{
		"application_name", t.name,
		"max_open_conns", strconv.Itoa(s.limit),
		"pool_timeout", s.poolTimeout.String(),
	}
	t.dsn = server.URL(own...)
	t.shown = server.URL(append(own, "password", "xxxxx")...)
	if cfg, err := pgpooled.ParseDSN(t.dsn); err == nil {
		t.settings = cfg.Settings()
	}
	sc.printf("server      a throwaway PostgreSQL at %s, started in %s", server.Addr(), short(time.Since(began)))
	return nil
}

// useServer takes a server that is there. limit and poolTimeout are the DSN's own
// if they are 0.
func (t *target) useServer(ctx context.Context, dsn string, limit int, poolTimeout time.Duration) error {
	cfg, err := pgpooled.ParseDSN(dsn)
	if err != nil {
		return err
	}
	cfg.PQ.ApplicationName = t.name
	if limit > 0 {
		setMaxOpen(cfg, limit)
	}
	if poolTimeout > 0 {
		cfg.PoolTimeout = poolTimeout
	}
	if cfg.MaxOpenConns == 0 {
		return errors.New("the DSN sets no limit, so there is nothing to check: give --limit")
	}
	t.limit, t.dsn, t.settings = cfg.MaxOpenConns, cfg.FormatDSN(), cfg.Settings()
	t.shown = fmt.Sprintf("%s (max_open_conns %d, pool_timeout %s)", cfg, cfg.MaxOpenConns, cfg.PoolTimeout)
	counter := cfg.Clone()
	counter.PQ.ApplicationName = t.name + "_count"
	t.plain = counter.PlainDSN()
	t.connectTimeout = cfg.ConnectTimeout
	if t.count, err = openPlain(t.plain, t.connectTimeout); err != nil {
		return errors.New("lib/pq does not take the DSN") // its error may quote the DSN
	}
	t.count.SetMaxOpenConns(1)
	if _, err := t.sessions(ctx); err != nil {
		return errors.Join(fmt.Errorf("counting sessions: %w", err), t.count.Close())
	}
	return nil
}

// sessions is how many the pool has by the server's own count.
func (t *target) sessions(ctx context.Context) (n int, err error) {
	// Without an argument, for the sake of transaction poolers.
	err = t.count.QueryRowContext(ctx, "select count(*) from pg_stat_activity where application_name = '"+t.name+"'").Scan(&n)
	return n, err
}

// drop removes the tables from a server that stays, interrupted or not.
func (t *target) drop(tables []string) error {
	if t.server != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	if _, err := t.count.ExecContext(ctx, "drop table if exists "+strings.Join(tables, ", ")); err != nil {
		return fmt.Errorf("the demo's tables %s are still there: %w", strings.Join(tables, ", "), err)
	}
	return nil
}

// stop stops what newTarget started.
func (t *target) stop() error {
	if t.server != nil {
		return t.server.Stop()
	}
	return t.count.Close()
}

// logTo puts what pgpooled logs among the command's own events, until the
// function it returns is called.
func logTo(sc *screen) (restore func()) {
	before := slog.Default()
	slog.SetDefault(slog.New(eventLog{sc}))
	return func() { slog.SetDefault(before) }
}

// open opens the pool that is judged, and times its cold start.
func (t *target) open(ctx context.Context, sc *screen, f *figures) (*sql.DB, error) {
	f.leak.before = goroutines()
	sc.printf("dsn         %s", t.shown)
	cold := time.Now()
	db, err := sql.Open(pgpooled.DriverName, t.dsn)
	if err != nil {
		return nil, err
	}
	if err := db.QueryRowContext(ctx, "show server_version").Scan(&f.server); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("the first question to the server: %w", err)
	}
	f.coldStart = time.Since(cold)
	sc.printf("cold start  %s from sql.Open to the first answer (PostgreSQL %s)", short(f.coldStart), printable(f.server))
	return db, nil
}

// closed closes the pool and keeps what it says at the end.
func (f *figures) closed(db *sql.DB) {
	f.pool, _ = pgpooled.StatsOf(db)
	closing := time.Now()
	f.leak.closeErr = db.Close()
	f.leak.closeTook = time.Since(closing)
}
