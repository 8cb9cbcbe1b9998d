package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// poolerModes are PgBouncer's, with what each needs in the DSN.
var poolerModes = map[string][]string{"session": nil, "transaction": {"pgbouncer", "true"}}

// behind opens a database through a PgBouncer and closes it with the test.
func behind(t *testing.T, b *pgtest.Bouncer, mode string, kv ...string) (db *sql.DB, name string) {
	t.Helper()
	name = app()
	kv = append(append([]string{"application_name", name}, poolerModes[mode]...), kv...)
	return openWith(t, b.DSN(kv...), quiet), name
}

// locked keeps everybody out of a table until release is called.
func locked(t *testing.T, s *pgtest.Server, table string) (release func()) {
	t.Helper()
	db, _ := openOn(t, s)
	tx, err := db.Begin()
	must(t, err)
	mustExec(t, tx, "lock table "+table+" in access exclusive mode")
	return func() { _ = tx.Rollback() }
}

// heldUp waits until a statement of that application waits for a lock and returns
// its server process.
func heldUp(t *testing.T, s *pgtest.Server, name string) (pid int) {
	t.Helper()
	eventually(t, "the statement waits for the lock", func() bool {
		err := s.Admin().QueryRowContext(testContext(t),
			"select pid from pg_stat_activity where application_name = $1 and wait_event_type = 'Lock'", name).Scan(&pid)
		return err == nil
	})
	return pid
}

// beside runs a call in a goroutine.
func beside(call func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	return done
}

func inserting(t *testing.T, db *sql.DB, table string) <-chan error {
	return beside(func() error {
		_, err := db.ExecContext(testContext(t), "insert into "+table+" values (1)")
		return err
	})
}

// A pooler refuses a start with a key that it does not know, and so does the
// server. Every key of docs/parameters.md is in the DSN.
func TestNoKeyOfOursReachesAPoolerOrItsServer(t *testing.T) {
	t.Parallel()
	values := map[string]string{
		"max_open_conns": "3", "max_idle_conns": "2", "min_idle_conns": "1", "conn_max_idle_time": "1m", "conn_max_lifetime": "2m", "conn_max_lifetime_jitter": "1s",
		"pool_timeout": "30s", "connect_timeout": "30s", "socket_timeout": "31s", "cancel_grace": "1s", "close_timeout": "6s", "tcp_user_timeout": "21s",
		"keepalives": "1", "keepalives_idle": "29s", "keepalives_interval": "9s", "keepalives_count": "4",
		"retry_mode": "connect", "retry_max_attempts": "5", "retry_base_delay": "60ms", "retry_max_delay": "2s", "statement_cache_capacity": "0",
		"pgbouncer": "true", "commit_check": "on", "leak_detection_threshold": "1h", "pool_name": app(), "schema": "public", "sslaccept": "accept_invalid_certs",
		"channel_binding": "prefer",
	}
	var dsn []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\|").FindAllStringSubmatch(readFile(t, "docs/parameters.md"), -1) {
		v, known := values[row[1]]
		if !known {
			t.Errorf("%s: this test has no value for it", row[1])
		}
		if !strings.HasPrefix(row[1], "ssl") {
			dsn = append(dsn, row[1], v)
		}
	}
	if len(dsn) < 2*20 {
		t.Fatalf("only %d keys were found", len(dsn)/2)
	}
	for _, mode := range []string{"session", "transaction"} {
		b := pgtest.BouncerT(t, server, pgtest.BouncerOptions{Mode: mode, Size: 5})
		db := openWith(t, b.DSN(append(dsn, "pool_name", app(), "sslmode", "disable")...), quiet)
		tx := begun(t, testContext(t), db)
		mustExec(t, tx, "select 1")
		must(t, tx.Commit())
		if n := queryInt(t, db, "select count(*) from pg_settings where name ~ 'pool|_conns|retry|keepalives$|grace|leak|cache_capacity' and setting = any($1)", pq.Array([]string{"5", "60ms", "6s"})); n != 0 {
			t.Errorf("%s: %d settings of ours on the server", mode, n)
		}
		must(t, db.Close())
	}
}

// The server process behind the pooler is killed while it runs a statement:
// PgBouncer says "server conn crashed?". A write may have been done, a read runs
// again, a transaction is gone.
func TestAServerProcessKilledBehindPgBouncer(t *testing.T) {
	t.Parallel()
	for mode := range poolerModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := pgtest.StartT(t, pgtest.Options{})
			mustExec(t, s.Admin(), "create table held (id int)")
			b := pgtest.BouncerT(t, s, pgtest.BouncerOptions{Mode: mode, Size: 3, Params: map[string]string{"server_login_retry": "0.1"}})
			db, name := behind(t, b, mode, "pool_timeout", "50s")
			killWhatRuns(t, s, db, name)
		})
	}
}

// killWhatRuns kills the server processes of statements that run in db. The
// table held is there, and empty.
func killWhatRuns(t *testing.T, s *pgtest.Server, db *sql.DB, name string) {
	t.Helper()
	kill := func(call func() error) error {
		t.Helper()
		release := locked(t, s, "held")
		defer release()
		done := beside(call)
		kill9(t, heldUp(t, s, name)) // the server ends all sessions and recovers
		return result(t, done)
	}

	err := kill(func() error { return result(t, inserting(t, db, "held")) })
	if asUnknown(t, err); errors.Is(err, sql.ErrConnDone) {
		t.Error(err)
	}
	var n int
	err = kill(func() error { return db.QueryRowContext(testContext(t), "select count(*) from held").Scan(&n) })
	if err != nil || n != 0 {
		t.Errorf("a read: %d rows, %v", n, err)
	}
	tx := begun(t, testContext(t), db)
	err = kill(func() error { _, err := tx.ExecContext(testContext(t), "insert into held values (1)"); return err })
	if lost := asLost(t, err); !lost.InTx {
		t.Error(err)
	}
	_ = tx.Rollback()
	if n := queryInt(t, db, "select count(*) from held"); n != 0 {
		t.Errorf("%d rows", n)
	}
}

// turnedAway is the last line that PgBouncer logs of it.
const turnedAway = "pooler error: query_wait_timeout"

// A session that PgBouncer has no server connection for gets query_wait_timeout.
// What was sent never ran, and is repeated. With TLS the text is lost on the way: a
// write is unknown then, and not repeated; a read, a BEGIN and a Ping are.
func TestPgBouncersQueryWaitTimeout(t *testing.T) {
	t.Parallel()
	for _, tls := range []string{"disable", "require"} {
		t.Run(tls, func(t *testing.T) {
			t.Parallel()
			table := looseTable(t)
			b := pgtest.BouncerT(t, server, pgtest.BouncerOptions{Mode: "transaction", Params: map[string]string{"query_wait_timeout": "1"}})
			db, _ := behind(t, b, "transaction", "pool_timeout", "50s", "sslmode", tls)
			for what, call := range map[string]func() error{
				"write": func() error { return result(t, inserting(t, db, table)) },
				"write with arguments": func() error {
					_, err := db.ExecContext(testContext(t), "insert into "+table+" values ($1)", 1)
					return err
				},
				"write on a connection": func() error {
					conn, err := db.Conn(testContext(t))
					if err != nil {
						return err
					}
					defer conn.Close()
					_, err = conn.ExecContext(testContext(t), "insert into "+table+" values (1)")
					return err
				},
				"read": func() error {
					var n int
					return db.QueryRowContext(testContext(t), "select count(*) from "+table).Scan(&n)
				},
				"begin": func() error {
					tx, err := db.BeginTx(testContext(t), nil)
					if err == nil {
						err = tx.Rollback()
					}
					return err
				},
				"ping": func() error { return db.PingContext(testContext(t)) },
			} {
				mustExec(t, db, "select 1") // else a new session is asked for an answer first
				must(t, b.Command(testContext(t), "PAUSE"))
				before := strings.Count(b.Log(), turnedAway)
				done := beside(call)
				eventually(t, "PgBouncer turns it away", func() bool { return strings.Count(b.Log(), turnedAway) > before })
				must(t, b.Command(testContext(t), "RESUME"))
				var lost *pgpooled.ConnLostError
				switch err := result(t, done); {
				case tls == "require" && strings.HasPrefix(what, "write"):
					asUnknown(t, err)
				case what == "write on a connection":
					if !errors.As(err, &lost) || !strings.HasSuffix(err.Error(), ": FATAL: query_wait_timeout (08P01))") {
						t.Errorf("%s: %T %v", what, err, err)
					}
				case err != nil:
					t.Errorf("%s: %T %v", what, err, err)
				}
			}
			if n := rowsIn(t, table); n != map[string]int{"disable": 2, "require": 0}[tls] {
				t.Errorf("%d rows", n)
			}
		})
	}
}

// SHUTDOWN hangs up on everybody. The statement may go on at the server, and does
// so here: unknown is the truth. Calls that begin then wait for PgBouncer.
func TestAPgBouncerThatIsShutDownAndComesBack(t *testing.T) {
	t.Parallel()
	for mode := range poolerModes {
		table := looseTable(t)
		b := pgtest.BouncerT(t, server, pgtest.BouncerOptions{Mode: mode})
		db, name := behind(t, b, mode, "pool_timeout", "50s")
		release := locked(t, server, table)
		done := inserting(t, db, table)
		heldUp(t, server, name)
		_ = b.Command(testContext(t), "SHUTDOWN")
		must(t, b.AwaitExit(testContext(t)))
		asUnknown(t, result(t, done))
		release()
		eventually(t, "the row is there after all", func() bool { return rowsIn(t, table) == 1 })

		read := beside(func() error { _, err := db.ExecContext(testContext(t), "insert into "+table+" values (2)"); return err })
		eventually(t, "an outage begins", func() bool { return stats(t, db).OpenErrors > 0 })
		must(t, b.Up(testContext(t)))
		if err := result(t, read); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		must(t, db.Close())
	}
}

// What an operator says to the server, or to PgBouncer, ends sessions in the
// middle of a statement.
func TestSessionsThatAnOperatorEndsBehindPgBouncer(t *testing.T) {
	t.Parallel()
	for mode := range poolerModes {
		table := looseTable(t)
		b := pgtest.BouncerT(t, server, pgtest.BouncerOptions{Mode: mode})
		db, name := behind(t, b, mode, "pool_timeout", "50s")
		for what, end := range map[string]func(pid int){
			"pg_terminate_backend": func(pid int) { mustExec(t, server.Admin(), fmt.Sprintf("select pg_terminate_backend(%d)", pid)) },
			"KILL":                 func(int) { must(t, b.Command(testContext(t), "KILL postgres")) },
		} {
			release := locked(t, server, table)
			done := inserting(t, db, table)
			pid := heldUp(t, server, name)
			end(pid)
			if err := result(t, done); asUnknown(t, err) == nil {
				t.Errorf("%s: %v", what, err)
			}
			release()
			_ = b.Command(testContext(t), "RESUME postgres") // after KILL
			mustExec(t, db, "select 1")
		}
		must(t, db.Close())
	}
}

// PgBouncer gives every error of its own the code 08P01, which says that trying
// again is of no use. A new connection that it turns away for a reason that
// passes is tried again within pool_timeout.
func TestPgBouncersRefusalsThatPassAreWaitedFor(t *testing.T) {
	t.Parallel()
	t.Run("max_client_conn", func(t *testing.T) {
		t.Parallel()
		b := pgtest.BouncerT(t, server, pgtest.BouncerOptions{Mode: "transaction", Params: map[string]string{"max_client_conn": "3"}})
		others, _ := behind(t, b, "transaction", "max_open_conns", "0")
		release := hold(t, others, 2)
		db, _ := behind(t, b, "transaction", "pool_timeout", "50s", "max_open_conns", "2")
		mine := hold(t, db, 1)
		done := beside(func() error { _, err := db.ExecContext(testContext(t), "select 1"); return err })
		eventually(t, "PgBouncer turns it away", func() bool { return stats(t, db).OpenErrors > 0 })
		mine()
		if err := result(t, done); err != nil {
			t.Errorf("the session that came back serves it: %v", err)
		}
		mine = hold(t, db, 1)
		done = beside(func() error { _, err := db.ExecContext(testContext(t), "select 1"); return err })
		eventually(t, "it waits", func() bool { return stats(t, db).Waiting == 1 })
		release()
		must(t, others.Close())
		if err := result(t, done); err != nil {
			t.Errorf("there is room now: %v", err)
		}
		mine()

		hold(t, db, 2)
		taken, _ := behind(t, b, "transaction")
		hold(t, taken, 1)
		late, _ := behind(t, b, "transaction", "pool_timeout", "50s")
		checkFull(t, late, "08P01")
		// Last: PgBouncer 1.18 may keep a place for the socket that this hangs up on.
		if h := pgpooled.CheckHealth(testContext(t), db); !h.Healthy {
			t.Errorf("full is not down: %v", h.Error)
		}
	})
	t.Run("no server", func(t *testing.T) {
		t.Parallel()
		s := pgtest.StartT(t, pgtest.Options{})
		mustExec(t, s.Admin(), "create table t (id int)")
		b := pgtest.BouncerT(t, s, pgtest.BouncerOptions{Mode: "transaction", Params: map[string]string{"server_login_retry": "0.1"}})
		// PgBouncer lets clients in, to find that it has no server for them. One has
		// to wait for it to notice.
		first, _ := behind(t, b, "transaction")
		mustExec(t, first, "select 1")
		must(t, s.Down("fast"))
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		waiting := beside(func() error { return first.PingContext(ctx) })
		eventually(t, "PgBouncer knows", func() bool { return strings.Contains(b.Log(), "connect failed") })
		cancel()
		if err := result(t, waiting); !errors.Is(err, context.Canceled) {
			t.Errorf("the first to wait: %v", err)
		}

		db, _ := behind(t, b, "transaction", "pool_timeout", "50s")
		var done []<-chan error
		for range 4 { // the first of them is sent to find out
			done = append(done, inserting(t, db, "t"))
		}
		eventually(t, "the outage is noticed, and nobody else sends", func() bool { return stats(t, db).OpenErrors > 2 && stats(t, db).Waiting == 4 })
		must(t, s.Up(testContext(t)))
		for _, d := range done {
			if err := result(t, d); err != nil {
				t.Error(err)
			}
		}
		if n := queryInt(t, s.Admin(), "select count(*) from t"); n != 4 {
			t.Errorf("%d rows", n)
		}
	})
	t.Run("what does not pass", func(t *testing.T) {
		t.Parallel()
		b := pgtest.BouncerT(t, server, pgtest.BouncerOptions{Mode: "transaction"})
		for _, kv := range [][]string{{"search_path", "x"}, {"user", "nobody_here"}} {
			db, _ := behind(t, b, "transaction", append(kv, "pool_timeout", "50s")...)
			if err := db.PingContext(testContext(t)); err == nil || errors.Is(err, pgpooled.ErrPoolTimeout) {
				t.Errorf("%s: %v", kv, err)
			}
		}
	})
}

// checkFull has a pool wait for a connection that it is refused, until its caller
// gives up.
func checkFull(t *testing.T, db *sql.DB, code string) {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	done := beside(func() error { return db.PingContext(ctx) })
	eventually(t, "it is turned away", func() bool { return stats(t, db).OpenErrors > 0 })
	cancel()
	err := result(t, done)
	var (
		waited *pgpooled.PoolTimeoutError
		answer *pq.Error
	)
	if !errors.As(err, &waited) || !errors.As(err, &answer) || string(answer.Code) != code || pgpooled.HealthReason(err) != "full" {
		t.Errorf("%s: %T %v", pgpooled.HealthReason(err), err, err)
	}
}

// outOfProcesses is a server that could not start a process for its first client.
type outOfProcesses struct{ asked atomic.Int32 }

func (d *outOfProcesses) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d.asked.Add(1) > 1 {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		_, _ = theirs.Read(make([]byte, 1024))
		_, _ = theirs.Write([]byte("Ecould not fork new process for connection: Resource temporarily unavailable\n\x00"))
	}()
	return ours, nil
}

// PostgreSQL says so in a form of its own, and pgpool-II has such errors for a
// server that starts up: lib/pq gives no SQLSTATE.
func TestAServerThatCannotStartAProcessIsTriedAgain(t *testing.T) {
	t.Parallel()
	dialer := &outOfProcesses{}
	db := openWith(t, server.DSN("sslmode", "disable", "application_name", app(), "pool_timeout", "50s"), quiet, pgpooled.WithDialer(dialer))
	mustExec(t, db, "select 1")
	if n := dialer.asked.Load(); n != 2 {
		t.Errorf("%d dials", n)
	}
}
