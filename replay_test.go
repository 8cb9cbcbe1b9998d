package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// Every byte of a read's exchange: it succeeds, or, once its first row was
// delivered, ends in a typed error; never in a short result without one.
func TestAReadCutAtAnyByteSucceedsOrSaysThatItIsIncomplete(t *testing.T) {
	t.Parallel()
	for _, tls := range []string{"disable", "require"} {
		for _, args := range [][]any{nil, {3}} {
			for _, dir := range []faultnet.Direction{faultnet.ToServer, faultnet.ToClient} {
				t.Run(fmt.Sprintf("%s/%dargs/%v", tls, len(args), dir), func(t *testing.T) {
					t.Parallel()
					db, proxy := through(t, server, "sslmode", tls)
					query := "select generate_series(1, 3)"
					if args != nil {
						query = "select generate_series(1, $1)"
					}
					step := map[string]int{"disable": 1, "require": 7}[tls]
					cuts, incomplete := 0, 0
					for after := 0; ; after += step {
						if err := db.Ping(); err != nil {
							t.Fatal(err)
						}
						fired := proxy.Fired()
						proxy.Arm(dir, after, faultnet.CutClient)
						n, err := count(db, query, args...)
						proxy.Disarm()
						var lost *pgpooled.ConnLostError
						switch {
						case err == nil && n == 3:
						case n >= 1 && errors.As(err, &lost) && !errors.Is(err, driver.ErrBadConn):
							incomplete++
						default:
							t.Fatalf("cut after byte %d: %d rows of 3, %T %v", after, n, err, err)
						}
						if err == nil && proxy.Fired() == fired {
							break
						}
						cuts++
					}
					if s := stats(t, db); cuts < 5 || s.OutcomesUnknown != 0 || s.Replays == 0 {
						t.Errorf("%d cuts, %d incomplete: %+v", cuts, incomplete, s)
					}
				})
			}
		}
	}
}

func count(db *sql.DB, query string, args ...any) (n int, err error) {
	rows, err := db.Query(query, args...)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		n++
	}
	return n, rows.Err()
}

// Texts that write without looking like it: the second run is refused by READ
// ONLY, so that there is one row at most, and the first run's fate is unknown.
func TestAReadThatWritesIsNotWrittenTwice(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	admin := server.Admin()
	mustExec(t, admin, fmt.Sprintf(`
		alter table %[1]s drop constraint %[1]s_pkey;
		create function %[1]s_f() returns int language sql as 'insert into %[1]s values (1) returning 1';
		create view %[1]s_view as select %[1]s_f() as x;
		create table %[1]s_src (id int); insert into %[1]s_src values (7);
		create function bump(%[1]s_src) returns int language sql as 'insert into %[1]s values (1) returning 1';
		create function length(%[1]s_src) returns int language sql as 'insert into %[1]s values (1) returning 1';
		create function %[1]s_op(int, text) returns int language sql as 'insert into %[1]s values (1) returning 1';
		create operator <<<>>> (leftarg = int, rightarg = text, function = %[1]s_op)`, table))
	t.Cleanup(func() { mustExec(t, admin, "drop operator <<<>>> (int, text)") })
	db, proxy := through(t, server)
	for name, query := range map[string]string{
		"view":               "select * from " + table + "_view",
		"function as column": "select src.bump from " + table + "_src as src",
		"overloaded":         "select length(src) from " + table + "_src as src",
		"operator":           "select 1 <<<>>> 'x'::text",
	} {
		mustExec(t, admin, "truncate "+table)
		if err := db.Ping(); err != nil {
			t.Fatal(err)
		}
		proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
		_, err := db.Exec(query)
		var unknown *pgpooled.OutcomeUnknownError
		if !errors.As(err, &unknown) {
			t.Errorf("%s: %T %v", name, err, err)
		}
		eventually(t, name+": the first run is there", func() bool { return queryInt(t, admin, "select count(*) from "+table) == 1 })
	}
	if s := stats(t, db); s.Replays != 4 || s.OutcomesUnknown != 4 {
		t.Errorf("%+v", s)
	}
}

func TestAfterARepeatedReadAPinnedConnectionCanWrite(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	db, proxy := through(t, server, "max_open_conns", "2")
	if err := db.Ping(); err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	if n := queryInt(t, conn, "select 42"); n != 42 {
		t.Fatal(n)
	}
	mustExec(t, conn, "insert into "+table+" values (1)")
	// From the second call on state of the session might be missing.
	proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	var lost *pgpooled.ConnLostError
	if _, err := conn.ExecContext(testContext(t), "select 1"); !errors.As(err, &lost) {
		t.Errorf("got %T %v", err, err)
	}
	if n := queryInt(t, db, "select count(*) from "+table); n != 1 {
		t.Errorf("%d rows", n)
	}
	conn.Close()
	if s := stats(t, db); s.Replays != 1 || s.ClosedReplay != 1 {
		t.Errorf("%+v", s)
	}
}

// A program reads the number of its session, to cancel it from elsewhere, say.
// What it does next has to happen there, also if the reading was repeated.
func TestAfterARepeatedReadAPinnedConnectionStaysWhereItWasRead(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	for _, tls := range []string{"disable", "require"} {
		db, proxy := through(t, server, "sslmode", tls)
		if err := db.Ping(); err != nil {
			t.Fatal(err)
		}
		conn, err := db.Conn(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
		pid := queryInt(t, conn, "select pg_backend_pid()")
		if stats(t, db).Replays != 1 {
			t.Fatal("not repeated")
		}
		mustExec(t, conn, "insert into "+table+" values (pg_backend_pid())") // no longer READ ONLY
		if got := queryInt(t, conn, "select id from "+table); got != pid {
			t.Errorf("sslmode=%s: read in session %d, written in session %d", tls, pid, got)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if s := stats(t, db); s.ClosedReplay != 1 {
			t.Errorf("a session that served a repeated read goes to nobody else: %+v", s)
		}
		mustExec(t, server.Admin(), "truncate "+table)
	}
}

// If that session is lost meanwhile, the connection is.
func TestAPinnedConnectionWhoseRepeatedReadsSessionIsLostSaysSo(t *testing.T) {
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
	queryInt(t, conn, "select pg_backend_pid()")
	proxy.CutAll(true)
	for range 2 {
		var lost *pgpooled.ConnLostError
		if _, err := conn.ExecContext(testContext(t), "select 1"); !errors.As(err, &lost) {
			t.Errorf("got %T %v", err, err)
		}
	}
}

func TestWhatTheCallerCallsIdempotentIsRepeated(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	upsert := "insert into " + table + " values (1, 'x') on conflict (id) do update set v = excluded.v"
	for _, test := range []struct {
		mode     string
		ctx      context.Context
		repeated bool
	}{
		{"safe", context.Background(), false},
		{"safe", pgpooled.WithIdempotent(context.Background()), true},
		{"all", context.Background(), true},
		{"off", context.Background(), false},
	} {
		db, proxy := through(t, server, "retry_mode", test.mode)
		if err := db.Ping(); err != nil {
			t.Fatal(err)
		}
		proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
		_, err := db.ExecContext(test.ctx, upsert)
		var unknown *pgpooled.OutcomeUnknownError
		if test.repeated != (err == nil) || !test.repeated && !errors.As(err, &unknown) {
			t.Errorf("retry_mode=%s: %T %v", test.mode, err, err)
		}
	}
	if n := queryInt(t, server.Admin(), "select count(*) from "+table); n != 1 {
		t.Errorf("%d rows", n)
	}
}

func TestReadsAreRepeatedInSafeModeOnly(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"off", "connect"} {
		db, proxy := through(t, server, "retry_mode", mode)
		if err := db.Ping(); err != nil {
			t.Fatal(err)
		}
		proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
		var lost *pgpooled.ConnLostError
		if _, err := db.Exec("select 1"); !errors.As(err, &lost) || errors.Is(err, driver.ErrBadConn) {
			t.Errorf("retry_mode=%s: %T %v", mode, err, err)
		}
	}
}

func TestSocketTimeoutEndsACallWithoutAContext(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	for _, tls := range []string{"disable", "require"} {
		db, proxy := through(t, server, "socket_timeout", "300ms", "sslmode", tls)
		if n := queryInt(t, db, "select 1 from pg_sleep(0.1)"); n != 1 {
			t.Error(n)
		}
		<-time.After(400 * time.Millisecond) // an idle session is none of its business
		if n := queryInt(t, db, "select 2"); n != 2 {
			t.Error(n)
		}
		if s := stats(t, db); s.Opens != 1 {
			t.Errorf("an idle session was lost: %+v", s)
		}
		proxy.Freeze()
		var unknown *pgpooled.OutcomeUnknownError
		if _, err := db.Exec("insert into " + table + " values (1)"); !errors.As(err, &unknown) {
			t.Errorf("write: %T %v", err, err)
		}
		proxy.Thaw()
		if err := db.Ping(); err != nil {
			t.Fatal(err)
		}
		// A slow statement is not run again: that would multiply the load.
		var lost *pgpooled.ConnLostError
		if _, err := db.Exec("select pg_sleep(5)"); !errors.As(err, &lost) || stats(t, db).Replays != 0 {
			t.Errorf("read: %T %v, %d replays", err, err, stats(t, db).Replays)
		}
		mustExec(t, server.Admin(), "truncate "+table)
	}
}

func TestAPreparedReadIsRepeatedLikeAFirstCall(t *testing.T) {
	t.Parallel()
	db, proxy := through(t, server)
	pooled, err := db.Prepare("select $1::int")
	if err != nil {
		t.Fatal(err)
	}
	defer pooled.Close()
	conn, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pinned, err := conn.PrepareContext(testContext(t), "select $1::int")
	if err != nil {
		t.Fatal(err)
	}
	defer pinned.Close()
	for name, st := range map[string]*sql.Stmt{"db.Prepare": pooled, "conn.Prepare": pinned} {
		for after := 0; after < 60; after += 3 {
			replays := stats(t, db).Replays
			proxy.Arm(faultnet.ToClient, after, faultnet.CutClient)
			var n int
			err := st.QueryRow(after).Scan(&n)
			proxy.Disarm()
			switch {
			case err == nil && n == after:
			case name == "conn.Prepare" && after > 0:
				// Something has run on the connection before.
				var lost *pgpooled.ConnLostError
				if !errors.As(err, &lost) || errors.Is(err, driver.ErrBadConn) {
					t.Fatalf("%s, cut after byte %d: %T %v", name, after, err, err)
				}
				after = 60
			default:
				t.Fatalf("%s, cut after byte %d: %d, %T %v", name, after, n, err, err)
			}
			if after == 0 && name == "conn.Prepare" && stats(t, db).Replays == replays {
				t.Error("not repeated")
			}
		}
	}
}
