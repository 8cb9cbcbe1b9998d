package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

type callKey struct{}

// ear remembers what a call observer hears, and of which call.
type ear struct {
	mu    sync.Mutex
	heard []pgpooled.CallEvent
	of    []any
}

func (e *ear) observe(ctx context.Context, ev pgpooled.CallEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard, e.of = append(e.heard, ev), append(e.of, ctx.Value(callKey{}))
}

func (e *ear) take() (heard []pgpooled.CallEvent, of []any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	heard, of, e.heard, e.of = e.heard, e.of, nil, nil
	return heard, of
}

// What an observer hears is what the counters count, with the call's context.
func TestACallObserverHearsWhatTheCountersCount(t *testing.T) {
	t.Parallel()
	var e ear
	db, proxy := throughWith(t, server, []pgpooled.Option{pgpooled.WithCallObserver(e.observe)},
		"dbname", server.Database(t), "max_open_conns", "2", "pool_timeout", "50s", "commit_check", "ledger")
	mustExec(t, db, "create table t (id int)")
	cut := func() {
		if err := db.Ping(); err != nil {
			t.Error(err)
		}
		proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	}
	unknown := func(err error) error {
		var u *pgpooled.OutcomeUnknownError
		if !errors.As(err, &u) {
			return fmt.Errorf("no OutcomeUnknownError but %T %w", err, err)
		}
		return nil
	}
	for _, step := range []struct {
		name  string
		do    func(ctx context.Context) error
		kinds []pgpooled.CallEventKind
		count func(s pgpooled.Stats) int64
	}{
		{"a read", func(ctx context.Context) error {
			cut()
			_, err := db.ExecContext(ctx, "select 1")
			return err
		}, []pgpooled.CallEventKind{pgpooled.CallReadAgain}, func(s pgpooled.Stats) int64 { return s.Replays }},
		{"a write", func(ctx context.Context) error {
			cut()
			_, err := db.ExecContext(ctx, "insert into t values (1)")
			return unknown(err)
		}, []pgpooled.CallEventKind{pgpooled.CallOutcomeUnknown}, func(s pgpooled.Stats) int64 { return s.OutcomesUnknown }},
		{"an idempotent write", func(ctx context.Context) error {
			cut()
			_, err := db.ExecContext(pgpooled.WithIdempotent(ctx), "delete from t")
			return err
		}, []pgpooled.CallEventKind{pgpooled.CallOutcomeUnknown, pgpooled.CallRunAgain}, func(s pgpooled.Stats) int64 { return s.Reruns }},
		{"a commit whose answer is lost", func(ctx context.Context) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, "insert into t values (2)"); err != nil {
				return err
			}
			proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
			return tx.Commit()
		}, []pgpooled.CallEventKind{pgpooled.CallCommitResolved}, func(s pgpooled.Stats) int64 { return s.LostCommitted }},
		{"a transaction that collides", func(ctx context.Context) error {
			collided := false
			return pgpooled.RunTx(ctx, db, nil, func(tx *sql.Tx) error {
				if collided {
					return nil
				}
				collided = true
				_, err := tx.ExecContext(ctx, "do $$ begin raise exception using errcode = '40001'; end $$")
				return err
			})
		}, []pgpooled.CallEventKind{pgpooled.CallTxAgain}, func(s pgpooled.Stats) int64 { return s.TxRepeated }},
		{"an outage", func(ctx context.Context) error {
			if err := proxy.Refuse(true); err != nil {
				return err
			}
			proxy.CutAll(false)
			done := make(chan error, 1)
			go func() { done <- db.PingContext(ctx) }()
			eventually(t, "the outage is noticed", func() bool { return stats(t, db).OutageFor > 0 })
			if err := proxy.Refuse(false); err != nil {
				return err
			}
			return <-done
		}, []pgpooled.CallEventKind{pgpooled.CallWaitedOutage}, func(s pgpooled.Stats) int64 { return s.Outages }},
	} {
		before := stats(t, db)
		if err := step.do(context.WithValue(testContext(t), callKey{}, step.name)); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		heard, of := e.take()
		var kinds []pgpooled.CallEventKind
		for i, ev := range heard {
			kinds = append(kinds, ev.Kind)
			if of[i] != step.name {
				t.Errorf("%s: %s came with the context of %v", step.name, ev.Kind, of[i])
			}
		}
		if !reflect.DeepEqual(kinds, step.kinds) {
			t.Errorf("%s: heard %v, want %v", step.name, kinds, step.kinds)
		}
		if n := step.count(stats(t, db)) - step.count(before); n != 1 {
			t.Errorf("%s: counted %d times", step.name, n)
		}
	}
	if s := stats(t, db); s.OutageFor != 0 {
		t.Errorf("the server is back, and away for %v", s.OutageFor)
	}
}

// A slow observer holds up its own call, and nobody else's.
func TestASlowCallObserverHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	proxy, err := faultnet.New(server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	entered, leave := make(chan struct{}), make(chan struct{})
	db, err := pgpooled.Open(server.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "application_name", app(), "max_open_conns", "2", "close_timeout", "10ms"),
		quiet, pgpooled.WithCallObserver(func(context.Context, pgpooled.CallEvent) { close(entered); <-leave }))
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, "select 1")
	proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	done := make(chan error, 1)
	go func() {
		_, err := db.Exec("do $$ begin end $$")
		done <- err
	}()
	<-entered
	for range 3 {
		mustExec(t, db, "select 1")
	}
	if s := stats(t, db); s.InUse != 1 || s.OutcomesUnknown != 1 {
		t.Errorf("%+v", s)
	}
	if err := db.Close(); err == nil {
		t.Error("Close does not say that a session was in use")
	}
	close(leave)
	var unknown *pgpooled.OutcomeUnknownError
	if err := <-done; !errors.As(err, &unknown) {
		t.Errorf("got %T %v", err, err)
	}
}

// asking is an error whose text needs the pool.
type asking struct{ db *sql.DB }

func (a asking) Error() string {
	s, _ := pgpooled.StatsOf(a.db)
	return fmt.Sprintf("broken span of %d", s.Opens)
}

// A panicking observer is logged, is not called again, and changes nothing.
func TestAPanickingCallObserverChangesNothing(t *testing.T) {
	t.Parallel()
	var (
		log   lockedBuffer
		calls int
		db    *sql.DB
		proxy *faultnet.Proxy
	)
	db, proxy = throughWith(t, server, []pgpooled.Option{
		pgpooled.WithLogger(slog.New(slog.NewTextHandler(&log, nil))),
		pgpooled.WithCallObserver(func(context.Context, pgpooled.CallEvent) { calls++; panic(asking{db}) }),
	})
	for range 2 {
		mustExec(t, db, "select 1")
		proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
		if n := queryInt(t, db, "select 42"); n != 42 {
			t.Errorf("got %d", n)
		}
	}
	eventually(t, "the panic is logged", func() bool { return strings.Contains(log.String(), "broken span") })
	if s := stats(t, db); calls != 1 || s.Replays != 2 || strings.Count(log.String(), "panicked") != 1 {
		t.Errorf("called %d times, %+v\n%s", calls, s, log.String())
	}
}

// Functions cannot be compared, so two that share a pool may not both have one.
func TestConnectorsOfOnePoolNameMayNotBothHaveAnObserver(t *testing.T) {
	t.Parallel()
	dsn := server.DSN("pool_name", app())
	observer := pgpooled.WithCallObserver(func(context.Context, pgpooled.CallEvent) {})
	first, err := pgpooled.NewConnector(dsn, quiet, observer)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := pgpooled.NewConnector(dsn, quiet, observer); err == nil {
		t.Error("no error")
	}
}
