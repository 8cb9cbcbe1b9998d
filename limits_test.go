package pgpooled_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled"
)

// sample counts the server's sessions of one application until stopped, and
// returns the most that it ever saw and how often it looked.
func sample(t *testing.T, name string) (stop func() (most, looks int)) {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	var most, looks int
	done := make(chan struct{})
	conn, err := server.Admin().Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(done)
		defer conn.Close()
		for ctx.Err() == nil {
			var n int
			err := conn.QueryRowContext(ctx, `select count(*) from pg_stat_activity where application_name = $1`, name).Scan(&n)
			if err == nil {
				most, looks = max(most, n), looks+1
			}
		}
	}()
	return func() (int, int) {
		cancel()
		<-done
		return most, looks
	}
}

func TestTheLimitHoldsByTheServersOwnCount(t *testing.T) {
	for _, callers := range []int{50, 1000} {
		db, name := openAs(t, "max_open_conns", "5", "pool_timeout", "60s")
		stop := sample(t, name)
		var failed atomic.Int64
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for range max(1, 1000/callers) {
					if _, err := db.Exec("select pg_sleep(0.002)"); err != nil {
						failed.Add(1)
						t.Log(err)
					}
				}
			})
		}
		wg.Wait()
		most, looks := stop()
		if most > 5 || most < 2 || looks < 10 || failed.Load() > 0 {
			t.Errorf("%d callers: the server counted up to %d sessions in %d looks, limit 5; %d calls failed", callers, most, looks, failed.Load())
		}
		if s := stats(t, db); s.PeakInUse > 5 || s.Opens > 5 {
			t.Errorf("%d callers: %+v", callers, s)
		}
	}
}

// database/sql with lib/pq goes over its limit here: it forgets a connection
// whose backend still winds down (8 sessions with a limit of 5).
func TestTheLimitHoldsWhileContextsEndEarly(t *testing.T) {
	for _, tls := range []string{"disable", "require"} {
		db, name := openAs(t, "max_open_conns", "5", "pool_timeout", "60s", "sslmode", tls)
		stop := sample(t, name)
		var ended, fine atomic.Int64
		var wg sync.WaitGroup
		for i := range 20 {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			wg.Go(func() {
				for range 15 {
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+rnd.IntN(20))*time.Millisecond)
					_, err := db.ExecContext(ctx, "select pg_sleep(0.01)")
					cancel()
					switch {
					case err == nil:
						fine.Add(1)
					case errors.Is(err, context.DeadlineExceeded):
						ended.Add(1)
					default:
						t.Errorf("got %T %v", err, err)
					}
				}
			})
		}
		wg.Wait()
		most, looks := stop()
		if most > 5 || ended.Load() == 0 {
			t.Errorf("sslmode=%s: the server counted up to %d sessions in %d looks, limit 5; %d ended early, %d did not",
				tls, most, looks, ended.Load(), fine.Load())
		}
		if s := stats(t, db); s.ClosedCancelled == 0 {
			t.Errorf("no session was cancelled: %+v", s)
		}
	}
}

func TestALimitOnTheSQLDBAboveUsLeavesEverythingWorking(t *testing.T) {
	t.Parallel()
	db, name := openAs(t, "max_open_conns", "10", "pool_timeout", "30s")
	db.SetMaxOpenConns(3)
	stop := sample(t, name)
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			for j := range 20 {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				if (i+j)%5 == 0 { // some give up, so that fresh leases get parked
					ctx, cancel = context.WithTimeout(ctx, time.Millisecond)
				}
				_, err := db.ExecContext(ctx, "select pg_sleep(0.001)")
				cancel()
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	wg.Wait()
	if most, _ := stop(); most > 6 { // 3 leased, and those that wind down after a cancel
		t.Errorf("the server counted %d sessions", most)
	}
	if n := queryInt(t, db, "select 1"); n != 1 {
		t.Error("the database is of no use afterwards")
	}
}

func TestAPoolTimeoutTellsTheNumbersAndTheUsualCause(t *testing.T) {
	t.Parallel()
	db := open(t, "max_open_conns", "2", "pool_timeout", "1s")
	var held []*sql.Rows
	for range 2 {
		rows, err := db.Query("select generate_series(1, 10)")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, rows)
	}
	err := db.Ping()
	var pe *pgpooled.PoolTimeoutError
	if !errors.Is(err, pgpooled.ErrPoolTimeout) || !errors.As(err, &pe) {
		t.Fatalf("got %T %v", err, err)
	}
	if pe.Limit != 2 || pe.InUse != 2 || pe.Waiting != 1 || pe.Waited < time.Second || !strings.Contains(err.Error(), "rows or a transaction left open") {
		t.Errorf("got %+v: %v", pe, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := db.PingContext(ctx); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, pgpooled.ErrPoolTimeout) {
		t.Errorf("got %v", err)
	}
	for _, rows := range held {
		rows.Close()
	}
	if err := db.Ping(); err != nil {
		t.Error(err)
	}
}

func TestLimitsMoveWhileThePoolRuns(t *testing.T) {
	t.Parallel()
	db, name := openAs(t, "max_open_conns", "1", "pool_timeout", "30s")
	c, _ := pgpooled.ConnectorOf(db)
	held, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, held, "select 1")
	done := make(chan error, 1)
	go func() { done <- db.Ping() }()
	eventually(t, "somebody waits", func() bool { return c.Stats().Waiting == 1 })
	c.SetMaxOpenConns(2)
	if err := <-done; err != nil {
		t.Fatalf("a higher limit did not help at once: %v", err)
	}
	c.SetMaxOpenConns(1)
	eventually(t, "the idle session goes", func() bool {
		n, err := server.CountSessions(testContext(t), name)
		return err == nil && n == 1
	})
	held.Close()
	c.SetMaxIdleConns(0)
	eventually(t, "no idle session is kept", func() bool { return c.Stats().Open == 0 })
}

func TestWarmSessionsAreOpenedInTheBackgroundAndIdleOnesExpire(t *testing.T) {
	t.Parallel()
	db, name := openAs(t, "min_idle_conns", "3", "max_open_conns", "5")
	eventually(t, "three warm sessions", func() bool {
		n, err := server.CountSessions(testContext(t), name)
		return err == nil && n == 3
	})
	mustExec(t, server.Admin(), "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = $1", name)
	if err := db.Ping(); err != nil {
		t.Errorf("a dead session was handed out: %v", err)
	}

	idle, name := openAs(t, "conn_max_idle_time", "50ms")
	if err := idle.Ping(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the idle session expires", func() bool {
		n, err := server.CountSessions(testContext(t), name)
		return err == nil && n == 0 && stats(t, idle).ClosedMaxIdleTime == 1
	})
	old, name := openAs(t, "conn_max_lifetime", "50ms", "conn_max_lifetime_jitter", "10ms")
	if err := old.Ping(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old session expires", func() bool {
		n, err := server.CountSessions(testContext(t), name)
		return err == nil && n == 0 && stats(t, old).ClosedMaxLifetime == 1
	})
}

func TestAnUnusedLeaseGivesItsSessionToAWaiter(t *testing.T) {
	t.Parallel()
	db := open(t, "max_open_conns", "1", "pool_timeout", "10s")
	unused, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer unused.Close()
	pid := queryInt(t, db, "select pg_backend_pid()") // waits, then gets it
	if s := stats(t, db); s.Reclaimed != 1 {
		t.Errorf("%+v", s)
	}
	if got := queryInt(t, unused, "select pg_backend_pid()"); got != pid {
		t.Error("with a limit of 1 both must have had the same session")
	}
}

func TestTheFirstCallOfAParkedLeaseLooksAtTheSocketAgain(t *testing.T) {
	t.Parallel()
	db, name := openAs(t, "max_open_conns", "2")
	parked, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer parked.Close()
	<-time.After(50 * time.Millisecond) // it counts as parked by its age
	mustExec(t, server.Admin(), "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = $1", name)
	mustExec(t, parked, "select 1")
}

func TestALeakIsReportedWithTheBorrowersStack(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	db, err := pgpooled.Open(server.DSN("application_name", app(), "leak_detection_threshold", "20ms", "pool_name", "leaky"),
		pgpooled.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query("select 1")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	eventually(t, "the leak is reported", func() bool {
		return stats(t, db).Leaks == 1 && strings.Contains(log.String(), "leak_detection_threshold")
	})
	if !strings.Contains(log.String(), "TestALeakIsReportedWithTheBorrowersStack") || !strings.Contains(log.String(), "pool=leaky") {
		t.Errorf("the log does not show who took it: %s", log.String())
	}
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
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
