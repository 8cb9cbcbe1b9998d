package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// contextless hides every interface that takes a context, as wrappers from
// before Go 1.8 do.
type contextless struct{ driver.Connector }

func (c contextless) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	return contextlessConn{conn}, err
}

type contextlessConn struct{ driver.Conn }

func (c contextlessConn) IsValid() bool { return false }

func (c contextlessConn) Prepare(query string) (driver.Stmt, error) {
	st, err := c.Conn.Prepare(query)
	if err != nil {
		return nil, err
	}
	return contextlessStmt{st}, nil
}

type contextlessStmt struct{ driver.Stmt }

func TestAWrapperThatKnowsNoContextGetsNoStatementRepeated(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	proxy := newProxy(t, server.Addr())
	name := app()
	c, err := pgpooled.NewConnector(server.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "application_name", name, "sslmode", "disable"), quiet)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(contextless{c})
	t.Cleanup(func() {
		db.Close()
		c.Close()
		proxy.Close() // it may keep the server's side of a connection that it cut
		if err := server.AwaitSessions(testContext(t), name, 0); err != nil {
			t.Error(err)
		}
	})
	for i, query := range []string{"insert into " + table + " values ($1)", "insert into " + table + " values ($1) returning id"} {
		if err := db.Ping(); err != nil {
			t.Fatal(err)
		}
		// The answer to Prepare, 27 bytes and 23 more for a column, passes.
		proxy.Arm(faultnet.ToClient, 27+23*i+3, faultnet.CutClient)
		var err error
		if i == 0 {
			_, err = db.Exec(query, 1)
		} else {
			err = db.QueryRow(query, 1).Scan(new(int))
		}
		proxy.Disarm()
		var unknown *pgpooled.OutcomeUnknownError
		if !errors.As(err, &unknown) || errors.Is(err, driver.ErrBadConn) {
			t.Errorf("call %d: %T %v", i, err, err)
		}
		eventually(t, "the row is there", func() bool { return rowsIn(t, table) > i })
		if n := rowsIn(t, table); n != i+1 {
			t.Errorf("call %d: %d rows", i, n)
		}
	}
}

// database/sql would repeat it and, finding no connection, report a timeout of
// the pool, as if nothing had been sent.
func TestOutcomeOfAnIdempotentStatementThatFindsNoOtherConnectionIsUnknown(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(context.Context, *sql.DB, string) error{
		"exec": func(ctx context.Context, db *sql.DB, q string) error { _, err := db.ExecContext(ctx, q, 1); return err },
		"query": func(ctx context.Context, db *sql.DB, q string) error {
			return db.QueryRowContext(ctx, q+" returning id", 1).Scan(new(int))
		},
		"prepared": func(ctx context.Context, db *sql.DB, q string) error {
			conn, err := db.Conn(ctx)
			if err != nil {
				return err
			}
			defer conn.Close()
			st, err := conn.PrepareContext(ctx, q)
			if err != nil {
				return err
			}
			defer st.Close()
			_, err = st.ExecContext(ctx, 1)
			return err
		},
	} {
		table := looseTable(t)
		db, proxy := through(t, server, "sslmode", "disable", "pool_timeout", "300ms", "max_open_conns", "1")
		if err := db.Ping(); err != nil {
			t.Fatal(err)
		}
		if err := proxy.Refuse(true); err != nil {
			t.Fatal(err)
		}
		proxy.Arm(faultnet.ToClient, 38, faultnet.CutClient) // the answer to Parse passes
		err := call(pgpooled.WithIdempotent(testContext(t)), db, "insert into "+table+" values ($1)")
		var unknown *pgpooled.OutcomeUnknownError
		if !errors.As(err, &unknown) || !errors.Is(err, pgpooled.ErrPoolTimeout) || errors.Is(err, driver.ErrBadConn) {
			t.Errorf("%s: %T %v", name, err, err)
		}
	}
}

// sql.Stmt tries again on the one connection it is pinned to, and would hide
// the cause behind sql.ErrConnDone.
func TestTheFirstCallOfAPinnedStatementIsRepeatedOrNamesItsCause(t *testing.T) {
	t.Parallel()
	for _, cut := range []string{"lost", "not sent", "not idempotent"} {
		table := looseTable(t)
		var (
			db    *sql.DB
			b     *brittle
			proxy *faultnet.Proxy
			ctx   = pgpooled.WithIdempotent(testContext(t))
		)
		switch cut {
		case "not sent":
			db, b = openBrittle(t)
		case "not idempotent":
			ctx = testContext(t)
			fallthrough
		default:
			db, proxy = through(t, server, "sslmode", "disable")
		}
		conn, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		st, err := conn.PrepareContext(ctx, "insert into "+table+" values ($1)")
		if err != nil {
			t.Fatal(err)
		}
		if b != nil {
			b.broken.Store(true)
		} else {
			proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
		}
		_, err = st.ExecContext(ctx, 1)
		var unknown *pgpooled.OutcomeUnknownError
		if again := cut != "not idempotent"; again != (err == nil) || again == errors.As(err, &unknown) || errors.Is(err, driver.ErrBadConn) {
			t.Errorf("%s: %T %v", cut, err, err)
		}
		want := map[string]int{"lost": 2, "not sent": 1, "not idempotent": 1}[cut]
		eventually(t, cut+": the rows are there", func() bool { return rowsIn(t, table) == want })
		if err == nil { // the connection goes on
			if _, err := st.ExecContext(ctx, 2); err != nil {
				t.Errorf("%s: %v", cut, err)
			}
		}
		_ = st.Close()
		_ = conn.Close()
	}
}

// A view that writes at its second row is refused when the first is with the
// caller already.
func TestAReadThatWritesLateIsUnknownWhenItsRepetitionIsRefused(t *testing.T) {
	t.Parallel()
	table := looseTable(t)
	mustExec(t, server.Admin(), fmt.Sprintf(`
		create function %[1]s_f() returns int language sql volatile as 'insert into %[1]s values (1) returning 1';
		create view %[1]s_view as select case when g = 3 then %[1]s_f() else g end from generate_series(1, 3) g`, table))
	db, proxy := through(t, server)
	if err := db.Ping(); err != nil {
		t.Fatal(err)
	}
	proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	_, err := count(db, "select * from "+table+"_view")
	eventually(t, "the first run is there", func() bool { return rowsIn(t, table) == 1 })
	var unknown *pgpooled.OutcomeUnknownError
	if !errors.As(err, &unknown) {
		t.Errorf("done, and told %T %v", err, err)
	}
}

func TestAPreparedReadIsNotRepeatedOnceLibPQsConnectionWasHandedOut(t *testing.T) {
	t.Parallel()
	schema := newTable(t) + "_s"
	mustExec(t, server.Admin(), fmt.Sprintf(`create schema %[1]s; create view %[1]s.pg_am as select 42 as x`, schema))
	db, proxy := through(t, server)
	conn, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	err = conn.Raw(func(c any) error {
		_, err := pgpooled.PQConn(c).(driver.ExecerContext).ExecContext(testContext(t), "set search_path = "+schema+", pg_catalog", nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	st, err := conn.PrepareContext(testContext(t), "select count(*) from pg_am")
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	var n int
	err = st.QueryRow().Scan(&n)
	var lost *pgpooled.ConnLostError
	if !errors.As(err, &lost) {
		t.Errorf("%d rows from another schema, %v", n, err)
	}
}

// The repetition is READ ONLY, and must not tell so.
func TestWhetherTheServerTakesWritesIsNotAskedInAReadOnlyTransaction(t *testing.T) {
	t.Parallel()
	db, proxy := through(t, server, "sslmode", "disable")
	for _, query := range []string{
		"show transaction_read_only", "SHOW Transaction_Read_Only", "select current_setting('transaction_read_only')",
		"select setting from pg_settings where name = 'transaction_read_only'", "select case setting when 'on' then 'on' end from pg_settings where name like 'transaction_read%'",
		`show "transaction_read_only"`, "show all",
	} {
		if err := db.Ping(); err != nil {
			t.Fatal(err)
		}
		proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
		var v sql.NullString
		if err := db.QueryRow(query).Scan(&v); v.String == "on" {
			t.Errorf("%s: %v, %v", query, v, err)
		}
	}
}
