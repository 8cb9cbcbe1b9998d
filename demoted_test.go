package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// demotable is a pool whose sessions came through a pooler to a primary; demote
// moves them to a standby. Its second host is the primary itself.
type demotable struct {
	*sql.DB
	log    *journal
	pooler *stickyPooler
	demote func()
}

func openDemotable(t *testing.T, primary, standby *pgtest.Server, kv ...string) demotable {
	t.Helper()
	p := newStickyPooler(t, primary)
	d := demotable{log: &journal{}, pooler: p, demote: func() { p.backend.Store(standby) }}
	name := app()
	dsn := primary.DSN(append([]string{"host", "127.0.0.1,127.0.0.1", "port", fmt.Sprintf("%d,%d", p.port(), primary.Port()),
		"target_session_attrs", "read-write", "application_name", name, "max_open_conns", "3"}, kv...)...)
	db, err := pgpooled.Open(dsn, d.log.option())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if primary.Pid() == 0 {
			return
		}
		// The pooler lets its client go before its server.
		if err := primary.AwaitSessions(testContext(t), name, 0); err != nil {
			t.Error(err)
		}
	})
	d.DB = db
	return d
}

// fill opens as many sessions as there may be.
func (d demotable) fill(t *testing.T) {
	t.Helper()
	var held []*sql.Conn
	for range 3 {
		c, err := d.Conn(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, c, "select 1")
		held = append(held, c)
	}
	for _, c := range held {
		_ = c.Close()
	}
}

// refused wants the server's own error, by direct type assertion.
func refused(t *testing.T, what string, err error) {
	t.Helper()
	if answer, ok := err.(*pq.Error); !ok || answer.Code != "25006" { // the promise is the direct type
		t.Errorf("%s: %T %v", what, err, err)
	}
}

func newPair(t *testing.T) (primary, standby *pgtest.Server, table string) {
	t.Helper()
	primary, standby = pgtest.PairT(t, pgtest.Options{})
	mustExec(t, primary.Admin(), "create table t (id int)")
	eventually(t, "the standby has the table", func() bool {
		return queryInt(t, standby.Admin(), "select count(*) from pg_class where relname = 't'") == 1
	})
	return primary, standby, "t"
}

var plainWrites = map[string]func(context.Context, *sql.DB) error{
	"exec": func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, "insert into t values (1);")
		return err
	},
	"with argument": func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, "insert into t values ($1)", 1)
		return err
	},
	"returning": func(ctx context.Context, db *sql.DB) error {
		return db.QueryRowContext(ctx, "insert into t values (1) returning id").Scan(new(int))
	},
	"prepared": func(ctx context.Context, db *sql.DB) error {
		st, err := db.PrepareContext(ctx, "insert into t values ($1)")
		if err != nil {
			return err
		}
		defer st.Close()
		_, err = st.ExecContext(ctx, 1)
		return err
	},
	"transaction": func(ctx context.Context, db *sql.DB) error {
		tx, err := db.BeginTx(ctx, nil) // a standby refuses BEGIN READ WRITE
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "insert into t values (1)"); err != nil {
			return err
		}
		return tx.Commit()
	},
	"first on a conn": func(ctx context.Context, db *sql.DB) error {
		c, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.ExecContext(ctx, "insert into t values (1)")
		return err
	},
}

func TestAPlainWriteRefusedByADemotedServerRunsElsewhereAndItsSessionsGo(t *testing.T) {
	t.Parallel()
	primary, standby, _ := newPair(t)
	rows := 0
	for _, attrs := range []string{"read-write", "primary"} {
		for what, write := range plainWrites {
			d := openDemotable(t, primary, standby, "target_session_attrs", attrs)
			d.fill(t)
			d.demote()
			if err := write(testContext(t), d.DB); err != nil {
				t.Errorf("%s, %s: %v", attrs, what, err)
			}
			rows++
			if n := queryInt(t, primary.Admin(), "select count(*) from t"); n != rows {
				t.Errorf("%s, %s: %d rows, want %d", attrs, what, n, rows)
			}
			d.fill(t)
			eventually(t, "the demotion is logged", func() bool { return d.log.count("not a primary any more") > 0 })
			if s := stats(t, d.DB); s.Demotions != 1 || s.ClosedDemoted != 3 || d.log.count("WARN")-d.log.count("there is a pooler") != 1 || d.log.count("not a primary any more") != 1 {
				t.Errorf("%s, %s: %+v, log:\n%s", attrs, what, s, d.log)
			}
			if n, err := standby.CountSessions(testContext(t), ""); err != nil || n != 0 {
				t.Errorf("%s, %s: %d sessions left on the standby, %v", attrs, what, n, err)
			}
		}
	}
}

// What may have had an effect before it was refused is not run again, nor what
// belongs to a session; the sessions go all the same.
func TestWhatIsNotOnePlainWriteGetsTheDemotedServersAnswer(t *testing.T) {
	t.Parallel()
	primary, standby, _ := newPair(t)
	mustExec(t, primary.Admin(), `create procedure p() language plpgsql as 'begin insert into t values (1); commit; end';
		create function f() returns int language sql as 'insert into t values (1) returning id'`)
	eventually(t, "the standby has them", func() bool {
		return queryInt(t, standby.Admin(), "select count(*) from pg_proc where proname in ('p', 'f')") == 2
	})
	exec := func(query string) func(context.Context, *sql.DB) error {
		return func(ctx context.Context, db *sql.DB) error { _, err := db.ExecContext(ctx, query); return err }
	}
	for what, write := range map[string]func(context.Context, *sql.DB) error{
		"two statements":   exec("insert into t values (1); insert into t values (2)"),
		"a COMMIT between": exec("insert into t values (1); commit; insert into t values (2)"),
		"DO":               exec("do 'begin insert into t values (1); end'"),
		"CALL":             exec("call p()"),
		"a function":       exec("select f()"),
		"a WITH":           exec("with x as (insert into t values (1) returning id) select * from x"),
		"in a transaction": func(ctx context.Context, db *sql.DB) error {
			c, err := db.Conn(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.ExecContext(ctx, "begin"); err != nil {
				return err
			}
			_, err = c.ExecContext(ctx, "insert into t values (1)")
			if _, e := c.ExecContext(ctx, "rollback"); e != nil {
				return e
			}
			return err
		},
		"second on a conn": func(ctx context.Context, db *sql.DB) error {
			c, err := db.Conn(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.ExecContext(ctx, "set application_name = 'mine'"); err != nil {
				return err
			}
			_, err = c.ExecContext(ctx, "insert into t values (1)")
			return err
		},
	} {
		d := openDemotable(t, primary, standby)
		d.fill(t)
		d.demote()
		refused(t, what, write(testContext(t), d.DB))
		if s := stats(t, d.DB); s.Demotions != 1 || s.ClosedDemoted != 3 {
			t.Errorf("%s: %+v", what, s)
		}
		if err := d.Ping(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	off := openDemotable(t, primary, standby, "retry_mode", "connect")
	off.fill(t)
	off.demote()
	_, err := off.Exec("insert into t values (1)")
	refused(t, "retry_mode=connect", err)
	if s := stats(t, off.DB); s.ClosedDemoted != 3 {
		t.Errorf("retry_mode=connect: %+v", s)
	}
	if n := queryInt(t, primary.Admin(), "select count(*) from t"); n != 0 {
		t.Errorf("%d rows", n)
	}
}

func TestAnApplicationsOwnReadOnlyTransactionIsLeftAlone(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	insert := "insert into " + table + " values (1)"
	log := &journal{}
	db := openWith(t, server.DSN("application_name", app(), "target_session_attrs", "read-write", "max_open_conns", "1"), log.option())
	pid := queryInt(t, db, "select pg_backend_pid()")
	tx, err := db.BeginTx(testContext(t), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec(insert)
	refused(t, "BeginTx", err)
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	var last string
	if err := server.Admin().QueryRow("select query from pg_stat_activity where pid = $1", pid).Scan(&last); err != nil || !strings.HasPrefix(last, "ROLLBACK") {
		t.Errorf("the server was asked: %q, %v", last, err)
	}
	// Sessions that say so themselves: as text, and for the whole session.
	for what, texts := range map[string][3]string{
		"BEGIN READ ONLY":         {"begin read only", insert, "rollback"},
		"SET TRANSACTION":         {"begin; set transaction read only", insert, "rollback"},
		"SESSION CHARACTERISTICS": {"set session characteristics as transaction read only", insert, "set session characteristics as transaction read write"},
	} {
		c, err := db.Conn(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, c, texts[0])
		_, err = c.ExecContext(testContext(t), texts[1])
		refused(t, what, err)
		mustExec(t, c, texts[2])
		_ = c.Close()
	}
	_, err = db.Exec("set default_transaction_read_only = on")
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(insert) // on the same session, which is the only one
	refused(t, "a setting of the session", err)
	if s := stats(t, db); s.Opens != 1 || s.Demotions != 0 || s.ClosedDemoted != 0 || log.count("WARN") != 0 {
		t.Errorf("%+v\n%s", s, log)
	}
	if now := queryInt(t, db, "select pg_backend_pid()"); now != pid {
		t.Error("the session was given up")
	}
}

// A replica's pool that is asked to write by mistake keeps its sessions.
func TestAPoolThatDidNotAskForAPrimaryKeepsItsStandby(t *testing.T) {
	t.Parallel()
	_, standby, _ := newPair(t)
	for _, attrs := range []string{"", "any", "standby", "prefer-standby"} {
		db := openWith(t, standby.DSN("application_name", app(), "target_session_attrs", attrs, "max_open_conns", "1"))
		pid := queryInt(t, db, "select pg_backend_pid()")
		_, err := db.Exec("insert into t values (1)")
		refused(t, attrs, err)
		if now := queryInt(t, db, "select pg_backend_pid()"); now != pid || stats(t, db).Demotions != 0 {
			t.Errorf("%s: the session was given up", attrs)
		}
	}
}

// Operators and providers make a server read-only before they switch over, and
// running sessions with it. To read-write that is a demotion, to primary not.
func TestAServerMadeReadOnlyByItsConfigurationIsDemotedForReadWrite(t *testing.T) {
	t.Parallel()
	old, other := pgtest.StartT(t, pgtest.Options{}), pgtest.StartT(t, pgtest.Options{})
	for _, s := range []*pgtest.Server{old, other} {
		mustExec(t, s.Admin(), "create table t (id int)")
	}
	dsn := func(attrs string) string {
		return old.DSN(append(pgtest.Hosts(old, other), "application_name", app(), "target_session_attrs", attrs, "max_open_conns", "1")...)
	}
	readWrite, primary := openWith(t, dsn("read-write")), openWith(t, dsn("primary"))
	for _, db := range []*sql.DB{readWrite, primary} {
		mustExec(t, db, "insert into t values (1)")
	}
	mustExec(t, old.Admin(), "alter system set default_transaction_read_only = on")
	mustExec(t, old.Admin(), "select pg_reload_conf()")
	eventually(t, "the session knows", func() bool {
		var setting string
		return primary.QueryRow("show default_transaction_read_only").Scan(&setting) == nil && setting == "on" &&
			readWrite.QueryRow("show default_transaction_read_only").Scan(&setting) == nil && setting == "on"
	})
	mustExec(t, readWrite, "insert into t values (2)")
	if s := stats(t, readWrite); s.Demotions != 1 || queryInt(t, other.Admin(), "select count(*) from t") != 1 {
		t.Errorf("read-write: %+v", s)
	}
	_, err := primary.Exec("insert into t values (2)")
	refused(t, "primary", err)
	if s := stats(t, primary); s.Demotions != 0 || s.Opens != 1 {
		t.Errorf("primary: %+v", s)
	}
}

// What a session has prepared is not on the server that it meets next.
func TestACachedWriteRefusedByADemotedServerRunsElsewhereToo(t *testing.T) {
	t.Parallel()
	primary, standby, _ := newPair(t)
	d := openDemotable(t, primary, standby, "max_open_conns", "1")
	for i := range 6 {
		if i == 4 {
			d.demote()
		}
		mustExec(t, d, "insert into t values ($1)", i)
	}
	if n := queryInt(t, primary.Admin(), "select count(distinct id) from t"); n != 6 || stats(t, d.DB).Demotions != 1 {
		t.Errorf("%d rows, %+v", n, stats(t, d.DB))
	}
}

// A session that was in use when the others went learns the same later.
func TestADemotionIsReportedOnce(t *testing.T) {
	t.Parallel()
	primary, standby, _ := newPair(t)
	d := openDemotable(t, primary, standby)
	var held []*sql.Conn
	for range 2 {
		c, err := d.Conn(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, c, "select 1")
		held = append(held, c)
	}
	d.demote()
	mustExec(t, d, "insert into t values (1)")
	for _, c := range held {
		_, err := c.ExecContext(testContext(t), "insert into t values (1)")
		refused(t, "held", err)
		_ = c.Close()
	}
	mustExec(t, d, "insert into t values (1)")
	eventually(t, "the demotion is logged", func() bool { return d.log.count("not a primary any more") > 0 })
	if s := stats(t, d.DB); s.Demotions != 1 || s.ClosedDemoted != 3 || d.log.count("not a primary any more") != 1 {
		t.Errorf("%+v\n%s", s, d.log)
	}
	if n := queryInt(t, primary.Admin(), "select count(*) from t"); n != 2 {
		t.Errorf("%d rows", n)
	}
}

func TestAWriteThatNoOtherServerTakesHasTheRefusalAndWhyItWasNotRepeated(t *testing.T) {
	t.Parallel()
	primary, standby, _ := newPair(t)
	d := openDemotable(t, primary, standby, "pool_timeout", "300ms")
	d.fill(t)
	d.demote()
	d.fill(t) // their server sessions move now: the primary says goodbye to those it has
	if err := primary.Down("fast"); err != nil {
		t.Fatal(err)
	}
	_, err := d.Exec("insert into t values (1)")
	var answer *pq.Error
	if !errors.As(err, &answer) || answer.Code != "25006" || !errors.Is(err, pgpooled.ErrPoolTimeout) || !strings.Contains(err.Error(), "hot standby") {
		t.Errorf("got %T %v", err, err)
	}
	if err := standby.Promote(testContext(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is a primary to the pool", func() bool { return d.Ping() == nil })
	mustExec(t, d, "insert into t values (1)")
	if n := queryInt(t, standby.Admin(), "select count(*) from t"); n != 1 {
		t.Errorf("%d rows", n)
	}
}
