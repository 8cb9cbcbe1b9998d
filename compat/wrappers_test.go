package compat

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/XSAM/otelsql"
	"github.com/lib/pq"
	"github.com/luna-duclos/instrumentedsql"
	"github.com/ngrok/sqlmw"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/pgpooled/pgpooled"
)

// calls counts what goes through a wrapper: one that sees nothing proves nothing.
type calls struct {
	sqlmw.NullInterceptor
	n atomic.Int64
}

func (c *calls) ConnQueryContext(ctx context.Context, conn driver.QueryerContext, query string, args []driver.NamedValue) (context.Context, driver.Rows, error) {
	c.n.Add(1)
	rows, err := conn.QueryContext(ctx, query, args)
	return ctx, rows, err
}

type instrumented struct{ *calls }

func (c instrumented) Log(context.Context, string, ...any) { c.n.Add(1) }

// registered gives database/sql a wrapped driver, and its name.
func registered(s *side, d driver.Driver) string {
	name := "wrapped-" + s.app
	sql.Register(name, d)
	return name
}

func base(s *side) driver.Driver {
	if s.lib() {
		return pq.Driver{}
	}
	return keeping{&pgpooled.Driver{}, s}
}

// keeping keeps the connectors: sqlmw's and instrumentedsql's have no Close, so
// db.Close does not reach the pool, and who wraps with them closes it.
type keeping struct {
	*pgpooled.Driver
	s *side
}

// OpenConnector is driver.DriverContext.
func (k keeping) OpenConnector(dsn string) (driver.Connector, error) {
	c, err := pgpooled.NewConnector(dsn)
	if err == nil {
		k.s.kept = append(k.s.kept, c)
	}
	return c, err
}

// wrappers open a database through one or several of them. Those that hide
// IsValid need db.SetMaxIdleConns(-1).
var wrappers = []struct {
	name       string
	hides, one bool
	open       func(*side, *calls) (*sql.DB, error)
}{
	{name: "otelsql.Open", open: func(s *side, c *calls) (*sql.DB, error) {
		return otelsql.Open(s.driver, s.dsn, traced(c))
	}},
	{name: "sqlmw", open: func(s *side, c *calls) (*sql.DB, error) {
		return sql.Open(registered(s, sqlmw.Driver(base(s), c)), s.dsn)
	}},
	{name: "otelsql over sqlmw", open: func(s *side, c *calls) (*sql.DB, error) {
		return otelsql.Open(registered(s, sqlmw.Driver(base(s), c)), s.dsn, traced(c))
	}},
	{name: "sqlmw over otelsql", open: func(s *side, c *calls) (*sql.DB, error) {
		return sql.Open(registered(s, sqlmw.Driver(otelsql.WrapDriver(base(s), traced(c)), c)), s.dsn)
	}},
	{name: "instrumentedsql", hides: true, open: func(s *side, c *calls) (*sql.DB, error) {
		return sql.Open(registered(s, instrumentedsql.WrapDriver(base(s), instrumentedsql.WithLogger(instrumented{c}))), s.dsn)
	}},
	{name: "otelsql over instrumentedsql", hides: true, open: func(s *side, c *calls) (*sql.DB, error) {
		return otelsql.Open(registered(s, instrumentedsql.WrapDriver(base(s), instrumentedsql.WithLogger(instrumented{c}))), s.dsn, traced(c))
	}},
}

// traced counts spans.
func traced(c *calls) otelsql.Option {
	return otelsql.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(counter{c, tracetest.NewNoopExporter()})))
}

type counter struct {
	c *calls
	sdktrace.SpanExporter
}

func (c counter) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	c.c.n.Add(int64(len(spans)))
	return nil
}

func TestWrappersAndTheLimitBelowThem(t *testing.T) {
	for _, w := range wrappers {
		t.Run(w.name, func(t *testing.T) {
			both(t, func(t *testing.T, s *side) {
				c := &calls{}
				db, err := w.open(s, c)
				must(t, err)
				t.Cleanup(func() { must(t, db.Close()) })
				switch {
				case s.lib():
					db.SetMaxOpenConns(maxOpen)
				case w.hides:
					db.SetMaxIdleConns(-1)
				}
				application(t, s, db)
				crowd(t, s, db)
				if c.n.Load() == 0 {
					t.Error("the wrapper saw nothing")
				}
			})
		})
	}
}

// application does a little of everything.
func application(t *testing.T, s *side, db *sql.DB) {
	t.Helper()
	ctx := t.Context()
	_, err := db.ExecContext(ctx, "CREATE TABLE a (id int PRIMARY KEY, v text[])")
	must(t, err)
	for i := range 3 {
		res, err := db.ExecContext(ctx, "INSERT INTO a VALUES ($1, $2), ($1::int+10, NULL)", i, pq.Array([]string{"x", "y"}))
		must(t, err)
		n, err := res.RowsAffected()
		s.see("inserted", n, err)
		_, err = db.ExecContext(ctx, "INSERT INTO a VALUES ($1, NULL)", i)
		s.see("double", err)
		rows, err := db.QueryContext(ctx, "SELECT id, v FROM a WHERE id < $1 ORDER BY id", 100)
		s.result("rows", rows, err)
		rows, err = db.QueryContext(ctx, "SELECT 1; SELECT 2")
		s.result("two sets", rows, err)
		st, err := db.PrepareContext(ctx, "SELECT v FROM a WHERE id = $1")
		must(t, err)
		var v []string
		s.see("prepared", st.QueryRowContext(ctx, i).Scan(pq.Array(&v)), v, st.QueryRowContext(ctx, -1).Scan(&v), st.Close())
		tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
		must(t, err)
		_, err = tx.ExecContext(ctx, "DELETE FROM a")
		s.see("in a transaction", err, tx.Rollback(), tx.Commit())
		s.see("ping", db.PingContext(ctx))
	}
}

// crowd is twenty callers; the server counts what they have open.
func crowd(t *testing.T, s *side, db *sql.DB) {
	t.Helper()
	var wg sync.WaitGroup
	most := atomic.Int64{}
	for range 20 {
		wg.Go(func() {
			for range 10 {
				var n int64
				err := db.QueryRow("SELECT count(*) FROM pg_stat_activity, pg_sleep(0.002) WHERE application_name = $1", s.app).Scan(&n)
				if err != nil {
					t.Error(err)
					return
				}
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
				}
			}
		})
	}
	wg.Wait()
	if n := most.Load(); n > maxOpen || n < 2 {
		t.Errorf("the server saw up to %d sessions, the limit is %d", n, maxOpen)
	}
}

// Without the remedy the hint is given.
func TestTheHintNamesTheRemedyForAWrapperThatHidesIsValid(t *testing.T) {
	var log lockedBuffer
	was := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(was)
	for _, w := range wrappers {
		t.Run(w.name, func(t *testing.T) {
			log.Reset()
			s := newSide(t, "pgpooled")
			db, err := w.open(s, &calls{})
			must(t, err)
			defer func() { must(t, db.Close()) }()
			for range 5 {
				_, err := db.Exec("SELECT 1")
				must(t, err)
			}
			hinted := func() bool { return strings.Contains(log.String(), "SetMaxIdleConns(-1)") }
			for until := time.Now().Add(10 * time.Second); hinted() != w.hides && time.Now().Before(until); { // the log is written beside the calls
				<-time.After(time.Millisecond)
			}
			if hinted() != w.hides {
				t.Errorf("hinted %v, hides IsValid %v: %s", hinted(), w.hides, log.String())
			}
		})
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Reset empties it.
func (l *lockedBuffer) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}
