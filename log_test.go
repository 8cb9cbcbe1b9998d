package pgpooled_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// journal is a slog handler that keeps what it gets.
type journal struct {
	min slog.Level

	mu    sync.Mutex
	lines []string
}

func (j *journal) Enabled(_ context.Context, l slog.Level) bool { return l >= j.min }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler           { return j }
func (j *journal) WithGroup(string) slog.Handler                { return j }
func (j *journal) Handle(_ context.Context, r slog.Record) error {
	line := fmt.Sprintf("%s %q", r.Level, r.Message)
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
	return nil
}

func (j *journal) option() pgpooled.Option { return pgpooled.WithLogger(slog.New(j)) }

func (j *journal) with(text string) (found []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range j.lines {
		if strings.Contains(l, text) {
			found = append(found, l)
		}
	}
	return found
}

func (j *journal) count(text string) int { return len(j.with(text)) }
func (j *journal) String() string        { return strings.Join(j.with(""), "\n") }

// One line when it begins and one when it ends, however many callers wait; one
// for each attempt between. The password is in none.
func TestAnOutageIsOneLineWhenItBeginsAndOneWhenItEnds(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Password: "s3cret-p4ss"})
	log := &journal{}
	db := openWith(t, s.DSN("pool_timeout", "20s", "pool_name", "orders", "application_name", app()), log.option())
	if err := db.Ping(); err != nil {
		t.Fatal(err)
	}
	if err := s.Down("fast"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := db.Ping(); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "somebody dials in vain", func() bool { return stats(t, db).OpenErrors > 3 })
	if err := s.Up(testContext(t)); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	db.Close()
	for text, want := range map[string]int{"pool opened": 1, "cannot be reached": 1, "the server is back": 1, "pool closed": 1} {
		if n := log.count(text); n != want {
			t.Errorf("%d lines with %q, want %d:\n%s", n, text, want, log)
		}
	}
	if back := log.with("the server is back"); len(back) != 1 || !strings.Contains(back[0], "outage=") {
		t.Errorf("how long it was is not in %v", back)
	}
	if n, errs := log.count("trying again"), int(stats(t, db).OpenErrors); n == 0 || n > errs {
		t.Errorf("%d lines of attempts for %d failed dials", n, errs)
	}
	for _, l := range log.with("") {
		if !strings.Contains(l, "pool=orders") || strings.Contains(l, "s3cret") || !strings.Contains(l, `"pgpooled: `) {
			t.Error(l)
		}
	}
	if infos := log.count("INFO"); infos != 2 {
		t.Errorf("%d lines at Info, want opened and closed:\n%s", infos, log)
	}
}

func TestTheHandlersLevelDecides(t *testing.T) {
	t.Parallel()
	log := &journal{min: slog.LevelWarn}
	db := openWith(t, server.DSN("application_name", app()), log.option())
	if err := db.Ping(); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if s := log.String(); s != "" {
		t.Errorf("below the level: %s", s)
	}
}

func TestNothingThatFailsPutsASecretIntoTheLog(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Password: "right"})
	proxy := newProxy(t, s.Addr())
	if err := proxy.Refuse(true); err != nil {
		t.Fatal(err)
	}
	const secret = "hunter2-%2F-x"
	log := &journal{}
	for _, dsn := range []string{
		s.DSN("password", secret, "pool_timeout", "100ms"),
		s.DSN("password", secret, "pool_timeout", "100ms", "port", fmt.Sprint(proxy.Port())),
		s.URL("password", secret, "pool_timeout", "100ms", "port", fmt.Sprint(proxy.Port())),
		s.DSN("password", secret, "pool_timeout", "100ms", "sslmode", "require"),
		s.DSN("password", secret, "pool_timeout", "100ms", "host", "/nowhere"),
		s.DSN("password", secret, "pool_timeout", "100ms", "min_idle_conns", "2"),
	} {
		db := openWith(t, dsn, log.option(), pgpooled.WithBeforeConnect(func(_ context.Context, cfg *pq.Config) error {
			cfg.Password = "token-" + secret
			return nil
		}))
		err := db.Ping()
		if err == nil {
			t.Fatalf("%s: no failure", dsn)
		}
		db.Close()
		if text := fmt.Sprintf("%v %+v %#v", err, err, err) + log.String(); strings.Contains(text, "hunter2") {
			t.Errorf("the password is in %s", text)
		}
	}
}

// Nobody is told of a warm session that cannot be opened, except by the log.
func TestAWarmSessionThatCannotBeOpenedIsLoggedOnce(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Password: "right"})
	log := &journal{}
	db := openWith(t, s.DSN("password", "wrong", "min_idle_conns", "2", "retry_max_delay", "50ms"), log.option())
	eventually(t, "several dials failed", func() bool { return stats(t, db).OpenErrors > 5 })
	db.Close()
	if n := log.count("password authentication failed"); n != 1 {
		t.Errorf("%d lines say why min_idle_conns is not kept up:\n%s", n, log)
	}
}

// Where the server answers again, though with a refusal, the outage is over and
// the log says so.
func TestAnOutageThatEndsInARefusalIsEndedInTheLogToo(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	proxy := newProxy(t, s.Addr())
	if err := proxy.Refuse(true); err != nil {
		t.Fatal(err)
	}
	log := &journal{}
	db := openWith(t, s.DSN("port", fmt.Sprint(proxy.Port()), "dbname", "nowhere", "pool_timeout", "20s"), log.option())
	done := make(chan error, 1)
	go func() { done <- db.Ping() }()
	eventually(t, "the outage is noticed", func() bool { return log.count("cannot be reached") == 1 })
	if err := proxy.Refuse(false); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Fatal("connected to a database that does not exist")
	}
	db.Close()
	if log.count("the server is back") != 1 {
		t.Errorf("begun but never ended:\n%s", log)
	}
}

// A handler that blocks must not hold up callers.
func TestALogHandlerThatBlocksHoldsUpNobody(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	db, err := pgpooled.Open(server.DSN("application_name", app(), "max_open_conns", "2"),
		pgpooled.WithLogger(slog.New(blockingHandler{release})))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	defer close(release)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 20 {
				if _, err := db.ExecContext(testContext(t), "select 1"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	// A lease on which nothing runs has to be given up for a waiter all the same.
	var idle [2]*sql.Conn
	for i := range idle {
		if idle[i], err = db.Conn(testContext(t)); err != nil {
			t.Fatal(err)
		}
		defer idle[i].Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := db.PingContext(ctx); err != nil {
		t.Errorf("while the handler blocks: %v", err)
	}
}

type blockingHandler struct{ release chan struct{} }

func (h blockingHandler) Enabled(context.Context, slog.Level) bool  { return true }
func (h blockingHandler) WithAttrs([]slog.Attr) slog.Handler        { return h }
func (h blockingHandler) WithGroup(string) slog.Handler             { return h }
func (h blockingHandler) Handle(context.Context, slog.Record) error { <-h.release; return nil }
