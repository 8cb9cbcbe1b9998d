package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// A single statement commits too. When its cancel request meets the wait for a
// standby the server answers success, though no standby has the row.
func TestAWriteThatWasCancelledWhileItCommittedIsNotASuccess(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Params: map[string]string{"synchronous_standby_names": "nosuch"}})
	mustExec(t, s.Admin(), "set synchronous_commit = local; create table t (id int)")
	db, _ := openOn(t, s)
	st, err := db.Prepare("insert into t values ($1)")
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for name, write := range map[string]func(context.Context) error{
		"exec": func(ctx context.Context) error { _, err := db.ExecContext(ctx, "insert into t values (1)"); return err },
		"with argument": func(ctx context.Context) error {
			_, err := db.ExecContext(ctx, "insert into t values ($1)", 1)
			return err
		},
		"prepared": func(ctx context.Context) error { _, err := st.ExecContext(ctx, 1); return err },
		"returning": func(ctx context.Context) error {
			return db.QueryRowContext(ctx, "insert into t values (1) returning id").Scan(new(int))
		},
	} {
		if err := db.Ping(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(testContext(t), time.Second)
		err := write(ctx)
		cancel()
		var unknown *pgpooled.OutcomeUnknownError
		// database/sql itself may answer for rows whose context has ended.
		if name != "returning" && !errors.As(err, &unknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %T %v", name, err, err)
		}
	}
}

func TestPoolNameIsNotSharedWithOtherOptionsOrAnotherEnvironment(t *testing.T) {
	name := app()
	dsn := server.DSN("pool_name", name, "application_name", name, "dbname", "")
	setUp := pgpooled.WithAfterConnect(func(context.Context, *sql.Conn) error { return nil })
	t.Setenv("PGDATABASE", "postgres")
	a, err := pgpooled.Open(dsn, quiet, setUp)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := pgpooled.Open(dsn, quiet); err == nil {
		b.Close()
		t.Error("shared with a connector without the option")
	}
	a.Close()
	if a, err = pgpooled.Open(dsn, quiet); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	t.Setenv("PGDATABASE", "template1")
	if b, err := pgpooled.Open(dsn, quiet); err == nil {
		b.Close()
		t.Error("shared with a connector to another database")
	}
}

// The name is taken until the last session of the closing pool is gone.
func TestAPoolNameIsFreeOnceItsSessionsAreGone(t *testing.T) {
	t.Parallel()
	name := app()
	dsn := server.DSN("pool_name", name, "application_name", name, "max_open_conns", "1", "close_timeout", "30s")
	a, err := pgpooled.Open(dsn, quiet)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := a.Begin()
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- a.Close() }()
	eventually(t, "the pool is closing", func() bool {
		_, err := a.Exec("select 1")
		return err != nil
	})
	opened := make(chan *sql.DB, 1)
	go func() {
		b, err := pgpooled.Open(dsn, quiet)
		if err != nil {
			t.Error(err)
		}
		_ = b.Ping()
		opened <- b
	}()
	if n, err := server.CountSessions(testContext(t), name); err != nil || n > 1 {
		t.Errorf("%d sessions, limit 1, %v", n, err)
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	closeAndCount(t, server, <-opened, name)
}

func TestASecondCallWhileTheRowsOfARepeatedReadAreOpenIsRefused(t *testing.T) {
	t.Parallel()
	db, proxy := through(t, server)
	if err := db.Ping(); err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	rows, err := conn.QueryContext(testContext(t), "select g, repeat('x', 100) from generate_series(1, 20000) g")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for rows.Next() {
		if n++; n == 5 {
			if _, err := conn.ExecContext(testContext(t), "select 1"); err == nil {
				t.Error("a second call was let through")
			}
		}
	}
	if err := rows.Err(); err != nil || n != 20000 || stats(t, db).Replays == 0 {
		t.Errorf("%d rows, %v, %+v", n, err, stats(t, db))
	}
}

func copyInto(t *testing.T, db *sql.DB, table string, pause time.Duration) (*sql.Tx, *sql.Stmt) {
	t.Helper()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	//lint:ignore SA1019 applications use it, and COPY goes through Prepare
	st, err := tx.Prepare(pq.CopyIn(table, "id"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		<-time.After(pause)
		if _, err := st.Exec(i); err != nil {
			t.Fatal(err)
		}
	}
	return tx, st
}

func TestACopyMayTakeItsTimeToBeFedAndToBeClosed(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	mustExec(t, server.Admin(), fmt.Sprintf(`create function %[1]s_slow() returns trigger language plpgsql as 'begin perform pg_sleep(0.8); return null; end';
		create trigger slow after insert on %[1]s for each statement execute function %[1]s_slow()`, table))
	db := open(t, "socket_timeout", "2s", "cancel_grace", "100ms")
	tx, st := copyInto(t, db, table, 500*time.Millisecond)
	if err := st.Close(); err != nil { // ends it, without a last Exec
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if n := queryInt(t, db, "select count(*) from "+table); n != 5 {
		t.Errorf("%d rows", n)
	}
}

func TestACopyLeftOpenAtCommitIsNotCommitted(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	db := open(t)
	tx, _ := copyInto(t, db, table, 0)
	var lost *pgpooled.ConnLostError
	if err := tx.Commit(); !errors.As(err, &lost) || !lost.InTx || !strings.Contains(err.Error(), "COPY") {
		t.Errorf("got %T %v", err, err)
	}
	if n := queryInt(t, db, "select count(*) from "+table); n != 0 {
		t.Errorf("%d rows", n)
	}
}

func TestNoVerbPrintsASecret(t *testing.T) {
	t.Parallel()
	c, err := pgpooled.NewConnector("host=localhost user=u password=s3cr3t", quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		for _, v := range []any{c, c.Config(), *c.Config(), c.Driver()} {
			if text := fmt.Sprintf(verb, v); strings.Contains(text, "s3cr3t") || strings.Contains(text, "733363723374") {
				t.Errorf("%s of %T: %s", verb, v, text)
			}
		}
	}
	_, err = pgpooled.Open("host=localhost sslkey='-----BEGIN PRIVATE KEY----- MIISECRET'")
	if err == nil || strings.Contains(err.Error(), "MII") || !strings.Contains(err.Error(), "sslinline") {
		t.Errorf("got %v", err)
	}
}
