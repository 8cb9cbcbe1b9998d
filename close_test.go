package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/pgpooled/pgpooled"
)

func TestAfterCloseEverythingAnswersAtOnce(t *testing.T) {
	t.Parallel()
	name := app()
	db, err := pgpooled.Open(server.DSN("application_name", name), quiet)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := pgpooled.ConnectorOf(db)
	if err := db.Ping(); err != nil {
		t.Fatal(err)
	}
	closeAndCount(t, server, db, name)
	if err := db.Ping(); err == nil {
		t.Error("Ping after Close succeeded")
	}
	if _, err := c.Connect(context.Background()); !errors.Is(err, pgpooled.ErrClosed) {
		t.Errorf("Connect after Close: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	if s := c.Stats(); s.Open != 0 {
		t.Errorf("%+v", s)
	}
}

func TestCloseLetsLeasedSessionsFinish(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	db, name := openAs(t, "max_open_conns", "2")
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "insert into "+table+" values (1, 'x')")
	closed := make(chan error, 1)
	go func() { closed <- db.Close() }()
	eventually(t, "the pool is closed for others", func() bool {
		_, err := db.Exec("select 1")
		return err != nil
	})
	if err := tx.Commit(); err != nil {
		t.Errorf("the transaction that was under way: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	if n := queryInt(t, server.Admin(), "select count(*) from "+table); n != 1 {
		t.Errorf("%d rows", n)
	}
	if n, err := server.CountSessions(testContext(t), name); err != nil || n != 0 {
		t.Errorf("%d sessions left, %v", n, err)
	}
}

func TestCloseCutsWhatDoesNotFinish(t *testing.T) {
	t.Parallel()
	for _, tls := range []string{"disable", "require"} {
		name := app()
		db, err := pgpooled.Open(server.DSN("application_name", name, "close_timeout", "100ms", "sslmode", tls), quiet)
		if err != nil {
			t.Fatal(err)
		}
		running := make(chan error, 1)
		go func() {
			_, err := db.Exec("do $$ begin perform pg_sleep(30); end $$")
			running <- err
		}()
		eventually(t, "the statement runs", func() bool { return stats(t, db).InUse == 1 })
		conn, err := db.Conn(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, conn, "select 1")
		if err := db.Close(); err == nil || !strings.Contains(err.Error(), "still in use after close_timeout (100ms) were cut: 2") {
			t.Errorf("Close: %v", err)
		}
		var unknown *pgpooled.OutcomeUnknownError
		if err := <-running; !errors.As(err, &unknown) {
			t.Errorf("the statement that was cut: %T %v", err, err)
		}
		conn.Close()
		mustExec(t, server.Admin(), "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = $1", name)
	}
}

func TestCloseFailsThoseWhoWait(t *testing.T) {
	t.Parallel()
	db, _ := openAs(t, "max_open_conns", "1")
	conn, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, "select 1")
	waiting := make(chan error, 1)
	go func() { waiting <- db.Ping() }()
	eventually(t, "somebody waits", func() bool { return stats(t, db).Waiting == 1 })
	closed := make(chan error, 1)
	go func() { closed <- db.Close() }()
	if err := <-waiting; !errors.Is(err, pgpooled.ErrClosed) {
		t.Errorf("the one who waited: %v", err)
	}
	conn.Close()
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestCloseTakesUnusedLeasesAway(t *testing.T) {
	t.Parallel()
	db, name := openAs(t, "close_timeout", "1m")
	conn, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	closeAndCount(t, server, db, name) // at once, not after a minute
	if _, err := conn.ExecContext(testContext(t), "select 1"); !errors.Is(err, pgpooled.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// A statement, a transaction, rows and a connection that outlive their lease
// must not reach the session's next owner.
func TestAClosedLeaseIsInert(t *testing.T) {
	t.Parallel()
	db, _ := openAs(t, "max_open_conns", "1")
	c, _ := pgpooled.ConnectorOf(db)
	ctx := testContext(t)
	lease, err := c.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	st, err := lease.(driver.ConnPrepareContext).PrepareContext(ctx, "select 1")
	if err != nil {
		t.Fatal(err)
	}
	tx, err := lease.(driver.ConnBeginTx).BeginTx(ctx, driver.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	rows, err := lease.(driver.QueryerContext).QueryContext(ctx, "select 1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := rows.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := lease.Close(); err != nil {
			t.Fatal(err)
		}
	}
	other, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lease.(driver.ExecerContext).ExecContext(ctx, "select 1", nil); err == nil {
		t.Error("the lease still works")
	}
	if _, err := st.(driver.StmtExecContext).ExecContext(ctx, nil); err == nil {
		t.Error("the statement still works")
	}
	if err := tx.Commit(); err == nil {
		t.Error("the transaction still works")
	}
	if err := rows.Next(make([]driver.Value, 1)); err == nil {
		t.Error("the rows still work")
	}
	_, _, _ = st.Close(), rows.Close(), lease.Close()
	if n := queryInt(t, other, "select 42"); n != 42 {
		t.Error("the next owner was disturbed")
	}
	if err := other.Commit(); err != nil {
		t.Errorf("the next owner was disturbed: %v", err)
	}
}

// hiding is a tracing wrapper that forgets driver.Validator.
type hiding struct{ driver.Connector }

func (h hiding) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := h.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return struct {
		driver.Conn
		driver.ExecerContext
		driver.QueryerContext
		driver.SessionResetter
	}{c, c.(driver.ExecerContext), c.(driver.QueryerContext), c.(driver.SessionResetter)}, nil
}

func TestAWrapperThatHidesIsValidIsReportedOnceWithTheRemedy(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	name := app()
	c, err := pgpooled.NewConnector(server.DSN("application_name", name, "max_open_conns", "3"),
		pgpooled.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(hiding{c})
	for range 5 {
		if n := queryInt(t, db, "select 1"); n != 1 {
			t.Fatal(n)
		}
	}
	eventually(t, "the hint is logged", func() bool { return strings.Contains(log.String(), "SetMaxIdleConns(-1)") })
	if n := strings.Count(log.String(), "hides driver.Validator"); n != 1 {
		t.Errorf("the hint was logged %d times", n)
	}
	db.SetMaxIdleConns(-1)
	if s := c.Stats(); s.InUse != 0 {
		t.Errorf("after the remedy %d sessions stay leased", s.InUse)
	}
	db.Close()
	if err := c.Close(); err != nil { // the wrapper hides Close as well
		t.Error(err)
	}
	if n, err := server.CountSessions(testContext(t), name); err != nil || n != 0 {
		t.Errorf("%d sessions left, %v", n, err)
	}
}
