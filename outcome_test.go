package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// The tests of this file are the rows of the table in docs/retry.md.

// brittle dials connections whose next write fails before a byte has left.
type brittle struct{ broken atomic.Bool }

func (b *brittle) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &brittleConn{c.(*net.TCPConn), b}, nil
}

type brittleConn struct {
	*net.TCPConn
	b *brittle
}

func (c *brittleConn) Write(p []byte) (int, error) {
	if c.b.broken.CompareAndSwap(true, false) {
		_ = c.TCPConn.Close()
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", syscall.EPIPE)}
	}
	return c.TCPConn.Write(p)
}

func openBrittle(t *testing.T, kv ...string) (*sql.DB, *brittle) {
	t.Helper()
	b, name := &brittle{}, app()
	db, err := pgpooled.Open(server.DSN(append([]string{"application_name", name, "sslmode", "disable"}, kv...)...), quiet, pgpooled.WithDialer(b))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		db.Close()
		// The socket was closed under the pool, which so could not wait for the server.
		if err := server.AwaitSessions(testContext(t), name, 0); err != nil {
			t.Error(err)
		}
	})
	if err := db.Ping(); err != nil {
		t.Fatal(err)
	}
	return db, b
}

func TestOutcomeOpeningIsRepeatedForReasonsThatPass(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]faultnet.Script{
		"closed":            {{Dir: faultnet.ToServer, After: 0, Do: faultnet.CutBoth}},
		"reset":             {{Dir: faultnet.ToServer, After: 0, Do: faultnet.ResetBoth}},
		"closed in startup": {{Dir: faultnet.ToClient, After: 10, Do: faultnet.CutBoth}},
		"silent":            {{Dir: faultnet.ToClient, After: 10, Do: faultnet.Stall}},
	} {
		for _, tls := range []string{"disable", "require"} {
			db, proxy := through(t, server, "sslmode", tls, "connect_timeout", "300ms", "pool_timeout", "30s")
			proxy.SetScript(func(conn int) faultnet.Script {
				if conn < 2 {
					return fault
				}
				return nil
			})
			if _, err := db.Exec("select 1"); err != nil || proxy.Dials() < 3 {
				t.Errorf("%s, %s: %v after %d dials", name, tls, err, proxy.Dials())
			}
		}
	}
}

func TestOutcomeOpeningIsNotRepeatedForReasonsThatStay(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Password: "right"})
	for name, kv := range map[string][]string{
		"28P01": {"password", "wrong"},
		"3D000": {"dbname", "nowhere"},
		"SSL":   {"sslmode", "require"},
	} {
		db, _ := openOn(t, s, append([]string{"password", "right", "sslmode", "disable"}, kv...)...)
		err := db.Ping()
		if err == nil || !strings.Contains(err.Error(), name) || stats(t, db).OpenErrors != 1 {
			t.Errorf("%s: %v after %d attempts", name, err, stats(t, db).OpenErrors)
		}
		if answer, ok := err.(*pq.Error); name != "SSL" && (!ok || string(answer.Code) != name) {
			t.Errorf("%s: %T", name, err)
		}
	}
}

func TestOutcomePingPrepareAndBeginAreRepeatedWhereverTheyWereCut(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(*sql.DB) error{
		"ping": (*sql.DB).Ping,
		"begin": func(db *sql.DB) error {
			tx, err := db.Begin()
			if err == nil {
				err = tx.Rollback()
			}
			return err
		},
		"prepare": func(db *sql.DB) error {
			st, err := db.Prepare("select $1::int")
			if err == nil {
				err = st.Close()
			}
			return err
		},
	} {
		for _, dir := range []faultnet.Direction{faultnet.ToServer, faultnet.ToClient} {
			db, proxy := through(t, server, "sslmode", "disable")
			for after := range 11 { // the shortest answer to BEGIN has 17, to ";" 11
				if after > 5 && name == "ping" && dir == faultnet.ToServer {
					break
				}
				if err := db.Ping(); err != nil {
					t.Fatal(err)
				}
				fired := proxy.Fired()
				proxy.Arm(dir, after, faultnet.CutClient)
				if err := call(db); err != nil || proxy.Fired() == fired {
					t.Errorf("%s, %v, byte %d: %v, %d cuts", name, dir, after, err, proxy.Fired()-fired)
				}
				proxy.Disarm()
			}
		}
	}
}

func TestOutcomeAStatementOfWhichNotOneByteWasSentIsRepeated(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	db, b := openBrittle(t)
	for i, call := range []func() error{
		func() error { _, err := db.Exec("insert into " + table + " values (1)"); return err },
		func() error { _, err := db.Exec("insert into "+table+" values ($1)", 1); return err },
		func() error {
			return db.QueryRow("insert into " + table + " values (1) returning id").Scan(new(int))
		},
	} {
		b.broken.Store(true)
		if err := call(); err != nil || b.broken.Load() || rowsIn(t, table) != i+1 {
			t.Errorf("call %d: %v, %d rows", i, err, rowsIn(t, table))
		}
	}
	if s := stats(t, db); s.OutcomesUnknown != 0 || s.Opens != 4 {
		t.Errorf("%+v", s)
	}
}

// After three lost connections nobody knows whether one of the three runs had
// an effect.
func TestOutcomeOfAnIdempotentStatementThatIsNotRepeatedAgainIsUnknown(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	db, proxy := through(t, server, "sslmode", "disable", "max_open_conns", "1")
	if err := db.Ping(); err != nil {
		t.Fatal(err)
	}
	insert := "insert into " + table + " values (1)"
	// A session's startup takes some 350 bytes of answers, and a new one is pinged
	// after a loss; the statement's own answer is the first after them.
	startup := proxy.Bytes(faultnet.ToClient)
	proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	proxy.SetScript(func(int) faultnet.Script {
		return faultnet.Script{{Dir: faultnet.ToClient, After: startup, Do: faultnet.CutClient}}
	})
	_, err := db.ExecContext(pgpooled.WithIdempotent(testContext(t)), insert)
	proxy.SetScript(nil)
	eventually(t, "the runs end", func() bool { return rowsIn(t, table) > 0 })
	var unknown *pgpooled.OutcomeUnknownError
	if !errors.As(err, &unknown) {
		t.Errorf("done, and told %T %v", err, err)
	}

	conn, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mustExec(t, conn, "truncate "+table)
	proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	_, err = conn.ExecContext(pgpooled.WithIdempotent(testContext(t)), insert) // sql.Conn repeats nothing
	eventually(t, "the run ends", func() bool { return rowsIn(t, table) > 0 })
	if !errors.As(err, &unknown) {
		t.Errorf("pinned: done, and told %T %v", err, err)
	}
}

func TestOutcomeRowsHalfReadEndInAnErrorAndWritesInAnUnknownOne(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	for query, write := range map[string]bool{
		"insert into " + table + " select generate_series(1, 100000) returning id, repeat('x', 100)": true,
		"select generate_series(1, 100000), repeat('x', 100)":                                        false,
	} {
		for _, tls := range []string{"disable", "require"} {
			db, proxy := through(t, server, "sslmode", tls)
			rows, err := db.Query(query)
			if err != nil || !rows.Next() {
				t.Fatal(err)
			}
			proxy.Cut(faultnet.ResetClient)
			n := 1
			for rows.Next() {
				n++
			}
			var (
				unknown *pgpooled.OutcomeUnknownError
				lost    *pgpooled.ConnLostError
			)
			err = rows.Err()
			if errors.As(err, &unknown) != write || errors.As(err, &lost) == write || errors.Is(err, driver.ErrBadConn) || n >= 100000 {
				t.Errorf("%s, %s: %d rows, %T %v", query, tls, n, err, err)
			}
		}
	}
}

func TestOutcomeACommitThatWasNotSentSaysNotCommitted(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	db, b := openBrittle(t)
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "insert into "+table+" values (1)")
	b.broken.Store(true)
	err = tx.Commit()
	var lost *pgpooled.ConnLostError
	if !errors.As(err, &lost) || !lost.InTx || lost.Sent != 0 || errors.Is(err, driver.ErrBadConn) || !strings.Contains(err.Error(), "not committed") {
		t.Errorf("%T %v", err, err)
	}
	if n := rowsIn(t, table); n != 0 {
		t.Errorf("%d rows", n)
	}
}

func TestOutcomeACommitWithoutAnAnswerIsUnknownWhateverTheReason(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	for name, test := range map[string]struct {
		timeout string
		ends    bool // the context does
		cause   error
	}{
		"context":        {"0", true, context.Canceled},
		"socket_timeout": {"2s", false, os.ErrDeadlineExceeded},
	} {
		db, proxy := through(t, server, "socket_timeout", test.timeout, "cancel_grace", "200ms")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, tx, "insert into "+table+" values (1)")
		fired := proxy.Fired()
		proxy.Arm(faultnet.ToServer, 0, faultnet.Stall)
		if test.ends {
			go func() {
				_ = proxy.AwaitFired(testContext(t), fired+1) // COMMIT is under way
				cancel()
			}()
		}
		err = tx.Commit()
		proxy.Thaw()
		var unknown *pgpooled.OutcomeUnknownError
		if !errors.As(err, &unknown) || unknown.Op != "commit" || !errors.Is(err, test.cause) || errors.Is(err, driver.ErrBadConn) {
			t.Errorf("%s: %T %v", name, err, err)
		}
	}
}

func TestOutcomeOfAWriteWhoseContextEndedIsUnknownAndOfAReadTheContextsError(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	db, proxy := through(t, server, "cancel_grace", "200ms")
	for query, write := range map[string]bool{"insert into " + table + " values (1)": true, "select 1": false} {
		if err := db.Ping(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		proxy.Freeze()
		_, err := db.ExecContext(pgpooled.WithIdempotent(ctx), query)
		_, err2 := db.ExecContext(ctx, query) // and with a context that is over already
		proxy.Thaw()
		cancel()
		var unknown *pgpooled.OutcomeUnknownError
		if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &unknown) != write || errors.Is(err, driver.ErrBadConn) {
			t.Errorf("%s: %T %v", query, err, err)
		}
		if !errors.Is(err2, context.DeadlineExceeded) || errors.As(err2, &unknown) {
			t.Errorf("%s, not sent: %T %v", query, err2, err2)
		}
	}
}

func TestOutcomeTimeoutsOfTheServerAreNotRepeated(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	mustExec(t, server.Admin(), "insert into "+table+" values (1)")
	db := open(t, "retry_mode", "all")
	tx, err := server.Admin().Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	mustExec(t, tx, "lock table "+table+" in access exclusive mode")
	for code, query := range map[string]string{
		"57014": "set statement_timeout = 100; select pg_sleep(60)",
		"55P03": "set lock_timeout = 100; select * from " + table,
	} {
		_, err := db.Exec(query)
		if answer, ok := err.(*pq.Error); !ok || string(answer.Code) != code {
			t.Errorf("%s: %T %v", code, err, err)
		}
	}
	if s := stats(t, db); s.Replays != 0 || s.Opens != 1 {
		t.Errorf("%+v", s)
	}
}

func TestOutcomeOnAPinnedStatementNamesTheCauseEveryTime(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	db, proxy := through(t, server)
	for _, ctx := range []context.Context{testContext(t), pgpooled.WithIdempotent(testContext(t))} {
		conn, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		st, err := conn.PrepareContext(ctx, "insert into "+table+" values ($1)")
		if err != nil {
			t.Fatal(err)
		}
		before := rowsIn(t, table)
		if _, err := st.ExecContext(ctx, 1); err != nil {
			t.Fatal(err)
		}
		proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
		for i := range 3 {
			_, err := st.ExecContext(ctx, 1)
			if err == nil || errors.Is(err, sql.ErrConnDone) || errors.Is(err, driver.ErrBadConn) || !strings.Contains(err.Error(), "the server closed the connection") {
				t.Errorf("exec %d: %T %v", i, err, err)
			}
			var unknown *pgpooled.OutcomeUnknownError
			if errors.As(err, &unknown) != (i == 0) {
				t.Errorf("exec %d says unknown=%t: %v", i, i != 0, err)
			}
		}
		_ = st.Close()
		_ = conn.Close()
		eventually(t, "one run more", func() bool { return rowsIn(t, table) == before+2 })
	}
}

func TestOutcomeErrorsNameTheCauseThatLibPQDrops(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	for name, test := range map[string]struct {
		do    faultnet.Action
		text  string
		cause error
	}{
		"closed":    {faultnet.CutClient, "the server closed the connection", nil},
		"reset":     {faultnet.ResetClient, "the connection was reset", syscall.ECONNRESET},
		"timed out": {faultnet.Stall, "nothing came for socket_timeout", os.ErrDeadlineExceeded},
	} {
		for _, tls := range []string{"disable", "require"} {
			db, proxy := through(t, server, "sslmode", tls, "socket_timeout", "500ms")
			if err := db.Ping(); err != nil {
				t.Fatal(err)
			}
			proxy.Arm(faultnet.ToClient, 0, test.do)
			_, err := db.Exec(fmt.Sprintf("insert into %s values (1)", table))
			if err == nil || !strings.Contains(err.Error(), test.text) || test.cause != nil && !errors.Is(err, test.cause) || !strings.Contains(err.Error(), "may have been executed") {
				t.Errorf("%s, %s: %v", name, tls, err)
			}
			proxy.Thaw()
		}
	}
}
