package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// crowd is callers that never stop asking, and what became of their calls.
type crowd struct {
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	longest time.Duration
	ok      []time.Time
	failed  map[string]int // by kind
	strange []error
}

// gather starts n callers; each waits a little after a failure, as programs do.
func gather(db *sql.DB, n int) *crowd {
	ctx, stop := context.WithCancel(context.Background())
	c := &crowd{stop: stop, failed: map[string]int{}}
	for range n {
		c.wg.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				_, err := db.Exec("select 1")
				end := time.Now()
				c.note(end.Sub(start), end, err)
				pause := 2 * time.Millisecond
				if err != nil {
					pause = 50 * time.Millisecond
				}
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
		})
	}
	return c
}

func (c *crowd) note(took time.Duration, end time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.longest = max(c.longest, took)
	var lost *pgpooled.ConnLostError
	switch {
	case err == nil:
		c.ok = append(c.ok, end)
	case errors.Is(err, pgpooled.ErrPoolTimeout):
		c.failed["pool timeout"]++
	case errors.As(err, &lost):
		c.failed["connection lost"]++
	default:
		c.failed["other"]++
		c.strange = append(c.strange, err)
	}
}

// after counts calls that succeeded after t, and says when the first one did.
func (c *crowd) after(t time.Time) (n int, first time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, end := range c.ok {
		if end.After(t) {
			if n++; n == 1 {
				first = end.Sub(t)
			}
		}
	}
	return n, first
}

func (c *crowd) end() { c.stop(); c.wg.Wait() }

// TestOutages runs its scenarios side by side: each waits for most of its time.
func TestOutages(t *testing.T) {
	t.Parallel()
	const timeout = 3 * time.Second
	stopped := func(mode string) func(*pgtest.Server, *faultnet.Proxy) error {
		return func(s *pgtest.Server, _ *faultnet.Proxy) error { return s.Down(mode) }
	}
	started := func(s *pgtest.Server, _ *faultnet.Proxy) error { return s.Up(context.Background()) }
	var wg sync.WaitGroup
	for _, sc := range []struct {
		name     string
		gone     time.Duration
		above    int // db.SetMaxOpenConns
		away     func(*pgtest.Server, *faultnet.Proxy) error
		back     func(*pgtest.Server, *faultnet.Proxy) error
		mustFail bool // longer than pool_timeout
	}{
		{"stopped for 1 s", time.Second, 0, stopped("fast"), started, false},
		{"stopped for 10 s", 10 * time.Second, 0, stopped("fast"), started, true},
		{"stopped for 30 s below db.SetMaxOpenConns(10)", 30 * time.Second, 10, stopped("immediate"), started, true},
		{"accepting and silent for 10 s", 10 * time.Second, 0,
			func(_ *pgtest.Server, p *faultnet.Proxy) error { p.Freeze(); return nil },
			func(_ *pgtest.Server, p *faultnet.Proxy) error { p.Cut(faultnet.ResetBoth); p.Thaw(); return nil }, true},
		{"accepting and silent for 10 s below db.SetMaxOpenConns(10)", 10 * time.Second, 10,
			func(_ *pgtest.Server, p *faultnet.Proxy) error { p.Freeze(); return nil },
			func(_ *pgtest.Server, p *faultnet.Proxy) error { p.Cut(faultnet.ResetBoth); p.Thaw(); return nil }, true},
		{"refusing for 10 s below db.SetMaxOpenConns(10)", 10 * time.Second, 10,
			func(_ *pgtest.Server, p *faultnet.Proxy) error { err := p.Refuse(true); p.CutAll(true); return err },
			func(_ *pgtest.Server, p *faultnet.Proxy) error { return p.Refuse(false) }, true},
	} {
		s := pgtest.StartT(t, pgtest.Options{})
		proxy := newProxy(t, s.Addr())
		// What is silent is noticed by socket_timeout, or not before the proxy
		// resets it.
		db := openWith(t, s.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "application_name", app(),
			"pool_timeout", timeout.String(), "socket_timeout", "1s"))
		db.SetMaxOpenConns(sc.above)
		wg.Go(func() {
			c := gather(db, 50)
			defer c.end()
			fault := func(format string, args ...any) {
				t.Errorf("%s: %s", sc.name, fmt.Sprintf(format, args...))
			}
			if !within(10*time.Second, func() bool { n, _ := c.after(time.Time{}); return n > 200 }) {
				fault("no start")
				return
			}
			if err := sc.away(s, proxy); err != nil {
				fault("%v", err)
			}
			<-time.After(sc.gone) // the outage lasts this long
			dials := proxy.Dials()
			if err := sc.back(s, proxy); err != nil {
				fault("%v", err)
			}
			back := time.Now()
			if !within(10*time.Second, func() bool { n, _ := c.after(back); return n > 200 }) {
				fault("no recovery: %v", c.strange)
				return
			}
			_, first := c.after(back)
			c.end()
			t.Logf("%s: longest call %s, first success %s after the server was back, failed %v, %d dials", sc.name, c.longest, first, c.failed, dials)
			// retry_max_delay is 1 s; the machine may be busy.
			if first > 5*time.Second {
				fault("the first success came %s after the server was back", first)
			}
			// The call itself may take socket_timeout before it looks for another session.
			if c.longest > 2*timeout+2*time.Second {
				fault("a caller waited %s, pool_timeout is %s", c.longest, timeout)
			}
			if len(c.strange) > 0 {
				fault("%d unexpected errors, as %v", len(c.strange), c.strange[0])
			}
			if (c.failed["pool timeout"] > 0) != sc.mustFail {
				fault("failed: %v", c.failed)
			}
			// At most one dial per caller's slot when it begins, then one probe
			// at a time, on average half of retry_max_delay apart.
			if most := 2*10 + 10 + 4*int(sc.gone/time.Second); dials > most {
				fault("%d dials in %s, at most %d expected", dials, sc.gone, most)
			}
		})
	}
	wg.Wait()
}

// within polls until the condition holds; for goroutines that may not call Fatal.
func within(d time.Duration, holds func() bool) bool {
	for end := time.Now().Add(d); !holds(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// With connect_timeout longer than pool_timeout nobody has said yet that the
// server is away when the first callers give up; below db.SetMaxOpenConns the
// others are served one by one.
func TestNoCallerWaitsLongerThanTwicePoolTimeoutWhileTheFirstDialsHang(t *testing.T) {
	t.Parallel()
	proxy := newProxy(t, server.Addr())
	proxy.Freeze()
	for _, above := range []int{0, 10} {
		db := openWith(t, server.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "pool_timeout", "500ms", "connect_timeout", "5s"))
		db.SetMaxOpenConns(above)
		var wg sync.WaitGroup
		took := make([]time.Duration, 50)
		for i := range took {
			wg.Go(func() {
				start := time.Now()
				if err := db.Ping(); !errors.Is(err, pgpooled.ErrPoolTimeout) {
					t.Errorf("got %v", err)
				}
				took[i] = time.Since(start)
			})
		}
		wg.Wait()
		longest := time.Duration(0)
		for _, d := range took {
			longest = max(longest, d)
		}
		if longest > 2*500*time.Millisecond+500*time.Millisecond {
			t.Errorf("db.SetMaxOpenConns(%d): a caller waited %s, pool_timeout is 500ms", above, longest)
		}
	}
}

func TestAFlappingServerLosesNoCallerItsBudget(t *testing.T) {
	t.Parallel()
	db, proxy := through(t, server, "pool_timeout", "10s", "max_open_conns", "5")
	c := gather(db, 20)
	for range 8 {
		mark := time.Now()
		if err := proxy.Refuse(true); err != nil {
			t.Fatal(err)
		}
		proxy.CutAll(false)
		dials := stats(t, db).OpenErrors
		eventually(t, "somebody dials in vain", func() bool { return stats(t, db).OpenErrors > dials })
		if err := proxy.Refuse(false); err != nil {
			t.Fatal(err)
		}
		mark = time.Now()
		eventually(t, "calls succeed again", func() bool { n, _ := c.after(mark); return n > 20 })
	}
	c.end()
	if len(c.failed) != 0 {
		t.Errorf("failed: %v %v", c.failed, c.strange)
	}
}

// 57P03: the server recovers from an archive that has nothing for four seconds.
func TestAServerThatStartsUpIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	if err := s.Down("fast"); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(s.DataDir(), "postgresql.auto.conf")
	write(t, s, conf, "restore_command = 'sleep 2; false'\n")
	write(t, s, filepath.Join(s.DataDir(), "recovery.signal"), "")
	log := &journal{}
	db := openWith(t, s.DSN("pool_timeout", "30s", "application_name", app()), log.option())
	up := make(chan error, 1)
	go func() { up <- s.Up(context.Background()) }()
	if err := db.Ping(); err != nil {
		t.Error(err)
	}
	if err := <-up; err != nil {
		t.Fatal(err)
	}
	eventually(t, "57P03, which docs/troubleshooting.md quotes, is logged", func() bool { return log.count("the database system is starting up") > 0 })
	eventually(t, "the outage is logged", func() bool { return log.count("cannot be reached") > 0 })
	if log.count("cannot be reached") != 1 {
		t.Errorf("%d outages:\n%s", log.count("cannot be reached"), log)
	}
}

// write makes a file that belongs to the server's user.
func write(t *testing.T, s *pgtest.Server, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	chownLike(t, s.DataDir(), path)
}

// A standby refuses (57P03) without hot_standby, answers with it, and is what
// target_session_attrs waits for until it is promoted.
func TestAServerInRecoveryIsWaitedForUntilItIsPromoted(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	if err := s.Down("fast"); err != nil {
		t.Fatal(err)
	}
	write(t, s, filepath.Join(s.DataDir(), "standby.signal"), "")
	if err := s.Up(testContext(t)); err != nil {
		t.Fatal(err)
	}
	any := openWith(t, s.DSN("application_name", app()))
	var in bool
	if err := any.QueryRow("select pg_is_in_recovery()").Scan(&in); err != nil || !in {
		t.Fatalf("no standby: %v", err)
	}
	for _, attrs := range []string{"primary", "read-write"} {
		short := openWith(t, s.DSN("target_session_attrs", attrs, "pool_timeout", "300ms", "application_name", app()))
		if err := short.Ping(); !errors.Is(err, pgpooled.ErrPoolTimeout) {
			t.Errorf("%s: %v", attrs, err)
		}
	}
	db := openWith(t, s.DSN("target_session_attrs", "primary", "pool_timeout", "30s", "application_name", app()))
	done := make(chan error, 1)
	go func() { done <- db.Ping() }()
	eventually(t, "an attempt met the standby", func() bool { return stats(t, db).OpenErrors > 1 })
	mustExec(t, s.Admin(), "select pg_promote()")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// 53300: with no session in hand it is an outage, with one it is not.
func TestAFullServerIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	mustExec(t, s.Admin(), "create role crowded login connection limit 2")
	log := &journal{}
	db := openWith(t, s.DSN("user", "crowded", "pool_timeout", "500ms", "application_name", app()), log.option())
	var held []*sql.Conn
	for range 2 {
		c, err := db.Conn(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, c, "select 1")
		held = append(held, c)
	}
	for range 3 {
		start := time.Now()
		err := db.Ping()
		var e *pgpooled.PoolTimeoutError
		var answer *pq.Error
		if !errors.As(err, &e) || e.OutageFor != 0 || !errors.As(err, &answer) || answer.Code != "53300" || time.Since(start) < 450*time.Millisecond {
			t.Fatalf("got %v", err)
		}
		if !strings.Contains(err.Error(), "too many connections for role") {
			t.Error(err)
		}
	}
	if log.count("cannot be reached") != 0 {
		t.Errorf("an outage was reported although two sessions are in hand:\n%s", log)
	}
	held[0].Close()
	if err := db.Ping(); err != nil {
		t.Error(err)
	}
	held[1].Close()

	other := openWith(t, s.DSN("user", "crowded", "pool_timeout", "500ms", "application_name", app()))
	for _, c := range []*sql.DB{db} {
		if _, err := c.Exec("select 1"); err != nil {
			t.Fatal(err)
		}
	}
	err := other.Ping()
	var e *pgpooled.PoolTimeoutError
	if !errors.As(err, &e) || e.OutageFor == 0 || pgpooled.HealthReason(err) != "full" {
		t.Errorf("a full server with no session in hand: %v", err)
	}
	db.Close()
	eventually(t, "there is room", func() bool { return other.Ping() == nil })
}

// chownLike gives a file to the owner of another one.
func chownLike(t *testing.T, like, path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	st, err := os.Stat(like)
	if err != nil {
		t.Fatal(err)
	}
	v := reflect.Indirect(reflect.ValueOf(st.Sys())) // *syscall.Stat_t, where there is one
	if err := os.Chown(path, int(v.FieldByName("Uid").Uint()), int(v.FieldByName("Gid").Uint())); err != nil {
		t.Fatal(err)
	}
}
