package main

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

// The rivals' names, as the tables have them.
const (
	ours     = "pgpooled"
	pqPlain  = "lib/pq plain"
	pqTuned  = "lib/pq tuned"
	pqBinary = "lib/pq binary"
	pgxSQL   = "pgx stdlib"
	pgxPool  = "pgx pool"
	limit    = "pgbench"
)

// rival is one way to reach PostgreSQL from database/sql.
type rival struct {
	name string
	what string
	// open makes a pool of conns connections; dsn is key=value.
	open func(dsn string, conns int) (*pool, error)
	// openWarm does the same and returns when all connections are there, by the
	// means that the rival offers for it; nil = it offers none.
	openWarm func(ctx context.Context, dsn string, conns int) (*pool, error)
}

// pool is a *sql.DB with whatever is below it.
type pool struct {
	*sql.DB
	below func()
}

func (p *pool) close() {
	_ = p.DB.Close()
	if p.below != nil {
		p.below()
	}
}

var rivals = []rival{
	{name: ours, what: "`max_open_conns=10`", open: openOurs, openWarm: warmOurs},
	{name: pqTuned, what: "`SetMaxOpenConns(10)`, `SetMaxIdleConns(10)`", open: named("postgres")},
	{name: pqBinary, what: "the same with `binary_parameters=yes`", open: func(dsn string, conns int) (*pool, error) {
		return named("postgres")(dsn+" binary_parameters=yes", conns)
	}},
	{name: pgxSQL, what: "`sql.Open(\"pgx\")`, the same limits", open: named("pgx")},
	{name: pgxPool, what: "`stdlib.OpenDBFromPool`, `pool_max_conns=10`", open: openPgxPool},
	{name: pqPlain, what: "`sql.Open(\"postgres\")` and nothing else: no limit, two idle connections", open: plain},
}

func openOurs(dsn string, conns int) (*pool, error) {
	db, err := pgpooled.Open(fmt.Sprintf("%s max_open_conns=%d pool_timeout=60", dsn, conns),
		pgpooled.WithLogger(slog.New(slog.DiscardHandler)))
	return &pool{DB: db}, err
}

func warmOurs(ctx context.Context, dsn string, conns int) (*pool, error) {
	p, err := openOurs(fmt.Sprintf("%s min_idle_conns=%d", dsn, conns), conns)
	if err != nil {
		return nil, err
	}
	if err := pgpooled.Warm(ctx, p.DB); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func named(driver string) func(string, int) (*pool, error) {
	return func(dsn string, conns int) (*pool, error) {
		db, err := sql.Open(driver, dsn)
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(conns)
		db.SetMaxIdleConns(conns)
		return &pool{DB: db}, nil
	}
}

func plain(dsn string, _ int) (*pool, error) {
	db, err := sql.Open("postgres", dsn)
	return &pool{DB: db}, err
}

func openPgxPool(dsn string, conns int) (*pool, error) {
	p, err := pgxpool.New(context.Background(), dsn+" pool_max_conns="+strconv.Itoa(conns))
	if err != nil {
		return nil, err
	}
	return &pool{DB: stdlib.OpenDBFromPool(p), below: p.Close}, nil
}

// fill makes the pool open conns connections, by using so many at a time.
func fill(ctx context.Context, db *sql.DB, conns int) error {
	var all, wg sync.WaitGroup
	all.Add(conns)
	errs := make(chan error, conns)
	for range conns {
		wg.Add(1)
		go func() {
			defer wg.Done()
			c, err := db.Conn(ctx)
			if err == nil {
				err = c.PingContext(ctx)
			}
			all.Done()
			all.Wait()
			if c != nil {
				_ = c.Close()
			}
			errs <- err
		}()
	}
	wg.Wait()
	for range conns {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// versions are those of the modules that this program was built with.
func versions() map[string]string {
	out := map[string]string{}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			switch m.Path {
			case "github.com/lib/pq", "github.com/jackc/pgx/v5":
				out[m.Path] = m.Version
			}
		}
	}
	return out
}
