package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// running counts the statements that sleep on the server.
func running(t *testing.T, name string) int {
	t.Helper()
	return queryInt(t, server.Admin(), "select count(*) from pg_stat_activity where application_name = $1 and wait_event = 'PgSleep'", name)
}

func TestDeadlineTheServersStatementIsCancelledOnASlowNetworkToo(t *testing.T) {
	noLeaks(t)
	t.Run("networks", func(t *testing.T) {
		for _, latency := range []time.Duration{0, 150 * time.Millisecond} {
			for _, kind := range sessionKinds() {
				for how, args := range map[string][]any{"simple": nil, "extended": {60}} {
					t.Run(fmt.Sprintf("%s/%s/%s", latency, kind.name, how), func(t *testing.T) {
						t.Parallel()
						proxy, err := faultnet.New(server.Addr())
						if err != nil {
							t.Fatal(err)
						}
						proxy.SetLatency(latency)
						db, name := openOn(t, server, "host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "sslmode", kind.tls)
						t.Cleanup(func() { db.Close(); proxy.Close() })
						query := map[string]string{"simple": "select pg_sleep(60)", "extended": "select pg_sleep($1)"}[how]
						kind.ready(t, db)
						ctx, cancel := context.WithCancel(context.Background())
						done := make(chan error, 1)
						go func() { _, err := db.ExecContext(ctx, query, args...); done <- err }()
						eventually(t, "the statement runs", func() bool { return running(t, name) == 1 })
						cancel()
						var answer *pq.Error
						if err := <-done; !errors.Is(err, context.Canceled) || !errors.As(err, &answer) || answer.Code != "57014" {
							t.Errorf("%T %v", err, err)
						}
						eventually(t, "the statement ends", func() bool { return running(t, name) == 0 })
					})
				}
			}
		}
	})
}

// slowCancels sends the next connection over another, slower way.
type slowCancels struct {
	slow *faultnet.Proxy
	next atomic.Bool
	took atomic.Int64
}

func (d *slowCancels) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d.next.CompareAndSwap(true, false) {
		d.took.Add(1)
		address = d.slow.Addr()
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// The cancel request crawls; meanwhile the call returns and others come. With
// lib/pq's prepared path the next caller gets 57014.
func TestDeadlineNoCancelReachesALaterCaller(t *testing.T) {
	noLeaks(t)
	t.Run("links", func(t *testing.T) {
		for _, kind := range sessionKinds() {
			for _, latency := range []time.Duration{50 * time.Millisecond, 400 * time.Millisecond} {
				t.Run(kind.name+"/"+latency.String(), func(t *testing.T) {
					t.Parallel()
					slow, err := faultnet.New(server.Addr())
					if err != nil {
						t.Fatal(err)
					}
					slow.SetLatency(latency)
					d, name := &slowCancels{slow: slow}, app()
					db, err := pgpooled.Open(server.DSN("application_name", name, "sslmode", kind.tls, "max_open_conns", "1", "cancel_grace", "300ms"), quiet, pgpooled.WithDialer(d))
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { closeAndCount(t, server, db, name); slow.Close() })
					for _, call := range []func(context.Context) error{
						func(ctx context.Context) error { _, err := db.ExecContext(ctx, "select pg_sleep(0.2)"); return err },
						func(ctx context.Context) error {
							_, err := db.ExecContext(ctx, "select pg_sleep($1)", 0.2)
							return err
						},
						func(ctx context.Context) error {
							st, err := db.Prepare("select pg_sleep($1)")
							if err != nil {
								return err
							}
							defer st.Close()
							_, err = st.ExecContext(ctx, 0.2)
							return err
						},
					} {
						kind.ready(t, db)
						before := d.took.Load()
						ctx, cancel := context.WithCancel(context.Background())
						done := make(chan error, 1)
						go func() { done <- call(ctx) }()
						eventually(t, "the statement runs", func() bool { return running(t, name) == 1 })
						d.next.Store(true)
						cancel()
						<-done
						d.next.Store(false)
						if d.took.Load() == before {
							t.Error("no cancel request was sent")
						}
						// Longer than a cancel can be on its way.
						for until := time.Now().Add(3*latency + 300*time.Millisecond); time.Now().Before(until); {
							if _, err := db.Exec("select pg_sleep(0.02)"); err != nil {
								t.Errorf("an innocent caller: %v", err)
							}
						}
					}
				})
			}
		}
	})
}

// underWay takes the next connection's bytes and says goodbye, as a pooler does
// that will pass the cancel request on when it comes to it.
type underWay struct{ next atomic.Bool }

func (d *underWay) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d.next.CompareAndSwap(true, false) {
		here, there := net.Pipe()
		go func() {
			_, _ = there.Read(make([]byte, 64))
			_ = there.Close()
		}()
		return here, nil
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// The statement of a transaction is over, the cancel request crawls: COMMIT, and
// whatever else runs on the session, would be hit in its stead.
func TestDeadlineNothingRunsWhereACancelMayStillArrive(t *testing.T) {
	noLeaks(t)
	t.Run("calls", func(t *testing.T) {
		for name, run := range map[string]func(*sql.Tx) error{
			"commit": (*sql.Tx).Commit,
			"exec":   func(tx *sql.Tx) error { _, err := tx.Exec("select pg_sleep(1)"); return err },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				d, app := &underWay{}, app()
				db, err := pgpooled.Open(server.DSN("application_name", app, "sslmode", "disable", "cancel_grace", "30s"), quiet, pgpooled.WithDialer(d))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { closeAndCount(t, server, db, app) })
				tx := begun(t, context.Background(), db)
				st, err := tx.Prepare("select pg_sleep(0.2)")
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan error, 1)
				go func() { _, err := st.ExecContext(ctx); done <- err }()
				eventually(t, "the statement runs", func() bool { return running(t, app) == 1 })
				d.next.Store(true)
				cancel()
				if err := <-done; err != nil {
					t.Fatalf("the statement was over before the cancel request came, and said %v", err)
				}
				var lost *pgpooled.ConnLostError
				if err := run(tx); !errors.As(err, &lost) || lost.Sent != 0 || !lost.InTx || errors.Is(err, driver.ErrBadConn) {
					t.Errorf("%T %v", err, err)
				}
			})
		}
	})
}

// lib/pq's own connection knows no guard: only the dial of a cancel request tells
// that the session is not to be used again.
func TestDeadlineACancelOfLibPQsOwnStatementDoomsTheSession(t *testing.T) {
	t.Parallel()
	db := open(t, "max_open_conns", "1")
	conn := pinned(t, db)
	pid := queryInt(t, conn, "select pg_backend_pid()")
	err := conn.Raw(func(c any) error {
		st, err := pgpooled.PQConn(c).(driver.ConnPrepareContext).PrepareContext(context.Background(), "select pg_sleep(60)")
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		_, err = st.(driver.StmtExecContext).ExecContext(ctx, nil)
		return err
	})
	if err == nil {
		t.Error("not cancelled")
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if now := queryInt(t, db, "select pg_backend_pid()"); now == pid {
		t.Error("the session was used again")
	}
}

// With a standby that is not there COMMIT waits for it; a cancel request would
// make the server answer "done" (FACTS: a false success).
func TestDeadlineUnderSynchronousReplicationIsNeverASuccess(t *testing.T) {
	s := pgtest.StartT(t, pgtest.Options{TLS: true, Params: map[string]string{
		"synchronous_standby_names": "nobody", "synchronous_commit": "local",
	}})
	mustExec(t, s.Admin(), "create table w (id int)")
	noLeaks(t)
	for how, call := range map[string]func(context.Context, *sql.DB) error{
		"Commit": func(ctx context.Context, db *sql.DB) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			if _, err := tx.ExecContext(ctx, "insert into w values (1)"); err != nil {
				return err
			}
			return tx.Commit()
		},
		"one statement": func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, "insert into w values (1)")
			return err
		},
		"one statement with argument": func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, "insert into w values ($1)", 1)
			return err
		},
		"RETURNING": func(ctx context.Context, db *sql.DB) error {
			return db.QueryRowContext(ctx, "insert into w values ($1) returning id", 1).Scan(new(int))
		},
	} {
		for _, tls := range []string{"disable", "require"} {
			t.Run(how+"/"+tls, func(t *testing.T) {
				name := app()
				proxy, err := faultnet.New(s.Addr())
				if err != nil {
					t.Fatal(err)
				}
				defer proxy.Close()
				db, err := pgpooled.Open(s.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "application_name", name, "sslmode", tls,
					"cancel_grace", grace.String()), quiet, pgpooled.WithAfterConnect(func(ctx context.Context, c *sql.Conn) error {
					_, err := c.ExecContext(ctx, "set synchronous_commit = on")
					return err
				}))
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				if err := db.Ping(); err != nil {
					t.Fatal(err)
				}
				waiting := func() bool {
					return queryInt(t, s.Admin(), "select count(*) from pg_stat_activity where application_name = $1 and wait_event = 'SyncRep'", name) == 1
				}
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				dials, done := proxy.Dials(), make(chan error, 1)
				go func() { done <- call(ctx, db) }()
				eventually(t, "the server waits for its standby", waiting)
				cancel()
				var unknown *pgpooled.OutcomeUnknownError
				// database/sql itself may answer for rows whose context has ended.
				if err := <-done; err == nil || !errors.Is(err, context.Canceled) || how != "RETURNING" && !errors.As(err, &unknown) || errors.Is(err, driver.ErrBadConn) {
					t.Errorf("done on no standby, and told %T %v", err, err)
				}
				if how == "Commit" && (proxy.Dials() != dials || !waiting()) {
					t.Errorf("COMMIT was cancelled: %d connections more", proxy.Dials()-dials)
				}
				mustExec(t, s.Admin(), "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1", name)
				if err := s.AwaitSessions(testContext(t), name, 0); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

func TestDeadlineSocketTimeoutBoundsCallsWithoutAContext(t *testing.T) {
	noLeaks(t)
	t.Run("calls", func(t *testing.T) {
		for _, tls := range []string{"disable", "require"} {
			for _, c := range silencedCalls() {
				if c.name == "waiting for a connection" {
					continue
				}
				t.Run(tls+"/"+c.name, func(t *testing.T) {
					t.Parallel()
					table := newTable(t)
					db, proxy := through(t, server, "sslmode", tls, "socket_timeout", "300ms", "cancel_grace", grace.String(), "close_timeout", grace.String(),
						"connect_timeout", "300ms", "pool_timeout", "400ms")
					if err := db.Ping(); err != nil {
						t.Fatal(err)
					}
					call := c.ready(t, context.Background(), db, table)
					t.Cleanup(proxy.Thaw)
					proxy.Freeze()
					err := intime(t, c.name, call)
					var (
						lost    *pgpooled.ConnLostError
						unknown *pgpooled.OutcomeUnknownError
					)
					switch {
					case c.any, errors.Is(err, pgpooled.ErrPoolTimeout):
					case c.write && (!errors.As(err, &unknown) || !errors.Is(err, os.ErrDeadlineExceeded)), !c.write && !errors.As(err, &lost):
						t.Errorf("%T %v", err, err)
					}
				})
			}
		}
	})
}
