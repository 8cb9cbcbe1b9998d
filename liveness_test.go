package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// hidden is a conn that cannot be peeked at, as on Windows or behind a tunnel:
// its liveness is probed by a short read.
// Embedding the interface hides SyscallConn and NetConn.
type hidden struct{ net.Conn }

// hidingDialer is a dialer of such conns.
func hidingDialer() *meter { return &meter{hide: true} }

// rest makes n sessions and leaves them idle; it returns their server processes.
func rest(t *testing.T, db *sql.DB, n int) []int {
	t.Helper()
	conns := make([]*sql.Conn, n)
	pids := make([]int, n)
	for i := range conns {
		c, err := db.Conn(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		conns[i], pids[i] = c, queryInt(t, c, "select pg_backend_pid()")
	}
	for _, c := range conns {
		c.Close()
	}
	return pids
}

// kill9 kills a process and returns when it is gone, its sockets included.
func kill9(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	awaitExit(t, pid)
}

func awaitExit(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process is gone", func() bool { return p.Signal(syscall.Signal(0)) != nil })
}

// Whatever ends idle sessions, no call sees it: FACTS, section 3.
func TestNoCallFailsAfterIdleSessionsHaveEnded(t *testing.T) {
	t.Parallel()
	afterIdleSessionsHaveEnded(t, "peek", &meter{})
}

// A look by reading can be held up between its two ends, and sees nothing then.
// So this runs while no other test does.
func TestNoCallFailsAfterIdleSessionsHaveEndedByReading(t *testing.T) {
	afterIdleSessionsHaveEnded(t, "read", hidingDialer())
}

func afterIdleSessionsHaveEnded(t *testing.T, by string, dialer *meter) {
	s := pgtest.StartT(t, pgtest.Options{TLS: true})
	ends := []struct {
		name string
		end  func(pids []int) (dead int)
	}{
		{"restart fast", func(pids []int) int { must(t, s.Restart(testContext(t), "fast")); return len(pids) }},
		{"restart immediate", func(pids []int) int { must(t, s.Restart(testContext(t), "immediate")); return len(pids) }},
		{"kill -9 of all", func(pids []int) int {
			must(t, s.Down("kill"))
			must(t, s.Up(testContext(t)))
			return len(pids)
		}},
		{"kill -9 of the postmaster", func(pids []int) int {
			kill9(t, s.Pid())
			for _, pid := range pids {
				awaitExit(t, pid)
			}
			must(t, s.Down("kill"))
			must(t, s.Up(testContext(t)))
			return len(pids)
		}},
		{"pg_terminate_backend of one", func(pids []int) int {
			mustExec(t, s.Admin(), "select pg_terminate_backend($1, 5000)", pids[0])
			return 1
		}},
		{"kill -9 of its own backend", func(pids []int) int {
			kill9(t, pids[0]) // the server then ends all others
			for _, pid := range pids {
				awaitExit(t, pid)
			}
			return len(pids)
		}},
		{"kill -9 of another's backend", func(pids []int) int {
			kill9(t, queryInt(t, s.Admin(), "select pg_backend_pid()"))
			for _, pid := range pids {
				awaitExit(t, pid)
			}
			return len(pids)
		}},
	}
	for _, mode := range []string{"disable", "require"} {
		db := openWith(t, s.DSN("sslmode", mode, "application_name", app(), "pool_timeout", "30s", "max_open_conns", "4"), pgpooled.WithDialer(dialer))
		for _, e := range ends {
			pids := rest(t, db, 4)
			before := stats(t, db)
			dead := int64(e.end(pids))
			for i := range 8 {
				if _, err := db.Exec("create temp table if not exists t (i int)"); err != nil { // not a reader: nothing repeats it
					t.Errorf("%s, sslmode=%s, by %s: call %d: %v", e.name, mode, by, i, err)
				}
			}
			rest(t, db, 4) // looks at each of them
			now := stats(t, db)
			held := now.ClosedDead - before.ClosedDead - dead // looks that were held up: closed as well
			if held < 0 || held > 0 && by == "peek" || now.ClosedBroken != before.ClosedBroken || now.OutcomesUnknown != before.OutcomesUnknown {
				t.Errorf("%s, sslmode=%s, by %s: %d dead ones noticed of %d, %d broke in a call", e.name, mode, by,
					now.ClosedDead-before.ClosedDead, dead, now.ClosedBroken-before.ClosedBroken)
			}
		}
		db.Close()
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tardy is a hidden conn whose reader is held up for a moment, as the scheduler
// does on a busy machine: the first look is over before it begins.
type tardy struct{ net.Conn }

func (c tardy) Read(b []byte) (int, error) {
	<-time.After(2 * time.Millisecond)
	return c.Conn.Read(b)
}

func TestADeadSessionIsNoticedByAReaderThatIsHeldUp(t *testing.T) {
	t.Parallel()
	m := &meter{hide: true, wrap: func(c net.Conn) net.Conn { return tardy{c} }}
	name := app()
	db := openWith(t, server.DSN("application_name", name, "sslmode", "disable"), pgpooled.WithDialer(m))
	rest(t, db, 2)
	mustExec(t, server.Admin(), "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = $1", name)
	for range 2 {
		if _, err := db.Exec("create temp table if not exists t (i int)"); err != nil {
			t.Errorf("a dead session was handed out: %v", err)
		}
	}
}

// Sessions that min_idle_conns keeps warm are of use after a restart only if
// they are warm again before the first caller comes.
func TestWarmSessionsAreWarmAgainAfterARestartThatNobodySaw(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	db, name := openOn(t, s, "min_idle_conns", "3")
	warm := func() bool {
		n, err := s.CountSessions(testContext(t), name)
		return err == nil && n == 3
	}
	eventually(t, "three warm sessions", warm)
	must(t, s.Restart(testContext(t), "fast"))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.AwaitSessions(ctx, name, 3); err != nil {
		t.Errorf("five seconds after the restart: %v; the pool says %+v", err, stats(t, db))
	}
}

// While a caller asks, warm sessions come back through an outage by themselves.
func TestWarmSessionsComeBackAfterAnOutage(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	db, name := openOn(t, s, "min_idle_conns", "3", "pool_timeout", "30s")
	must(t, s.AwaitSessions(testContext(t), name, 3))
	must(t, s.Down("immediate"))
	failed := stats(t, db).OpenErrors
	done := make(chan error, 1)
	go func() { done <- db.Ping() }()
	eventually(t, "dials fail", func() bool { return stats(t, db).OpenErrors > failed+2 })
	must(t, s.Up(testContext(t)))
	must(t, <-done)
	eventually(t, "three warm sessions", func() bool {
		n, err := s.CountSessions(testContext(t), name)
		return err == nil && n >= 3 && stats(t, db).Idle >= 3
	})
}

// A load balancer that forgot its connections gives no sign: each looks fine
// until something is sent. The first call that meets this makes the pool ask the
// others before it hands them out.
func TestOneLostConnectionMakesThePoolAskTheOthers(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	calls := map[string]func(db *sql.DB) error{
		"begin": func(db *sql.DB) error {
			tx, err := db.Begin()
			if err != nil {
				return err
			}
			return tx.Rollback()
		},
		"prepare": func(db *sql.DB) error {
			st, err := db.Prepare("select 1")
			if err != nil {
				return err
			}
			return st.Close()
		},
		"read": func(db *sql.DB) error { _, err := count(db, "select 1"); return err },
		"ping": func(db *sql.DB) error { return db.Ping() },
	}
	for name, call := range calls {
		db, proxy := through(t, server, "max_open_conns", "10")
		rest(t, db, 8)
		proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
		if err := call(db); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if s := stats(t, db); s.ClosedBroken != 1 || s.ClosedDead != 7 {
			t.Errorf("%s: %d broke in a call, %d found dead, want 1 and 7", name, s.ClosedBroken, s.ClosedDead)
		}
	}
	// A write that met it is unknown; the next ones do not meet it.
	db, proxy := through(t, server, "max_open_conns", "10")
	rest(t, db, 8)
	proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	var unknown *pgpooled.OutcomeUnknownError
	if _, err := db.Exec("insert into " + table + " values (1)"); !errors.As(err, &unknown) {
		t.Errorf("the first: %v", err)
	}
	for i := range 8 {
		if _, err := db.Exec("insert into " + table + " values (1)"); err != nil {
			t.Errorf("after it, %d: %v", i, err)
		}
	}
}

// Those that live stay, and are asked once only.
func TestAfterALostConnectionTheOthersAreAskedOnce(t *testing.T) {
	t.Parallel()
	db, proxy := through(t, server, "max_open_conns", "10")
	rest(t, db, 4)
	conn, err := db.Conn(testContext(t))
	must(t, err)
	mustExec(t, server.Admin(), "select pg_terminate_backend($1, 5000)", queryInt(t, conn, "select pg_backend_pid()"))
	if _, err := conn.ExecContext(testContext(t), "select 1"); err == nil {
		t.Fatal("not lost")
	}
	conn.Close()
	opens := stats(t, db).Opens
	var sent [3]int
	for i := range sent {
		before, _ := bytesOf(proxy)
		rest(t, db, 3)
		after, _ := bytesOf(proxy)
		sent[i] = after - before
	}
	if now := stats(t, db).Opens; now != opens {
		t.Errorf("%d sessions were opened anew", now-opens)
	}
	if sent[0] <= sent[1] || sent[1] != sent[2] {
		t.Errorf("bytes sent by the same calls: %v", sent)
	}
}

// A caller with little time does not wait for an answer as long as others would.
// That it got none says nothing about the other sessions.
func TestACallerInAHurryCondemnsOneSessionOnly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		timeout string
		within  time.Duration
		want    error
		closed  func(pgpooled.Stats) int64
	}{
		{"pool_timeout", "900ms", time.Minute, pgpooled.ErrPoolTimeout, func(s pgpooled.Stats) int64 { return s.ClosedDead }},
		{"context", "1m", 300 * time.Millisecond, context.DeadlineExceeded, func(s pgpooled.Stats) int64 { return s.ClosedCancelled }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			db, proxy := through(t, server, "max_open_conns", "4", "pool_timeout", tt.timeout)
			rest(t, db, 4)
			conn, err := db.Conn(testContext(t))
			must(t, err)
			mustExec(t, server.Admin(), "select pg_terminate_backend($1, 5000)", queryInt(t, conn, "select pg_backend_pid()"))
			if _, err := conn.ExecContext(testContext(t), "select 1"); err == nil {
				t.Fatal("not lost")
			}
			conn.Close()
			proxy.Freeze()
			defer proxy.Thaw()
			ctx, cancel := context.WithTimeout(testContext(t), tt.within)
			defer cancel()
			if err := db.PingContext(ctx); !errors.Is(err, tt.want) {
				t.Errorf("a silent network: %v", err)
			}
			if s := stats(t, db); tt.closed(s) != 1 || s.ClosedDead+s.ClosedCancelled != 1 {
				t.Errorf("%d were given up for dead and %d with a context, want the one that was asked", s.ClosedDead, s.ClosedCancelled)
			}
		})
	}
}
