package compat

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

// pqConn gives lib/pq's own connection out of sql.Conn.Raw, whichever driver it
// is.
func pqConn(s *side, c any) any {
	if s.lib() {
		return c
	}
	return pgpooled.PQConn(c)
}

func TestNoticesReachTheHandlerSetThroughPQConn(t *testing.T) {
	both(t, func(t *testing.T, s *side) {
		db := s.open(t)
		conn, err := db.Conn(t.Context())
		must(t, err)
		defer conn.Close()
		var notices []string
		must(t, conn.Raw(func(c any) error {
			raw := pqConn(s, c)
			pq.SetNoticeHandler(raw.(driver.Conn), func(n *pq.Error) { notices = append(notices, n.Severity+" "+string(n.Code)+" "+n.Message) })
			return nil
		}))
		_, err = conn.ExecContext(t.Context(), "DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; RAISE INFO 'three'; END $$")
		s.see("raised", err, notices)
		_, err = conn.ExecContext(t.Context(), "DROP TABLE IF EXISTS nowhere")
		s.see("dropped", err, notices)
	})
}

func TestNotificationsReachTheListenerOnThePlainDSN(t *testing.T) {
	both(t, func(t *testing.T, s *side) {
		db := s.open(t)
		dsn := s.dsn
		if !s.lib() {
			cfg, err := pgpooled.ParseDSN(s.dsn)
			must(t, err)
			dsn = cfg.PlainDSN()
		}
		l := pq.NewListener(dsn, 10*time.Millisecond, time.Second, nil)
		must(t, l.Listen("news"))
		for _, text := range []string{"one", "", "ü"} {
			_, err := db.Exec("SELECT pg_notify('news', $1)", text)
			must(t, err)
		}
		tx, err := db.Begin()
		must(t, err)
		_, err = tx.Exec("NOTIFY news, 'rolled back'")
		s.see("rolled back", err, tx.Rollback())
		_, err = db.Exec("NOTIFY news, 'last'")
		must(t, err)
		for n := 0; n < 4; {
			select {
			case got := <-l.Notify:
				if got == nil {
					t.Fatal("the listener had to connect again")
				}
				n++
				s.see("notified", got.Channel, got.Extra)
			case <-time.After(20 * time.Second):
				t.Fatal("no notification in 20 s")
			}
		}
		s.see("close", l.Close())
	})
}

// A large object's descriptor lives in its transaction.
func TestLargeObjects(t *testing.T) {
	both(t, func(t *testing.T, s *side) {
		db := s.open(t)
		tx, err := db.Begin()
		must(t, err)
		var oid, fd, n int
		must(t, tx.QueryRow("SELECT lo_create(424242)").Scan(&oid))
		must(t, tx.QueryRow("SELECT lo_open($1, $2)", oid, 0x20000|0x40000).Scan(&fd))
		data := []byte(strings.Repeat("\x00\xff large ", 100000))
		for chunk := range 3 {
			must(t, tx.QueryRow("SELECT lowrite($1, $2)", fd, data).Scan(&n))
			s.see("written", chunk, n)
		}
		must(t, tx.QueryRow("SELECT lo_lseek64($1, $2, 0)", fd, len(data)).Scan(&n))
		var back []byte
		must(t, tx.QueryRow("SELECT loread($1, $2)", fd, len(data)).Scan(&back))
		s.see("read back", n, len(back), string(back) == string(data))
		s.see("commit", tx.Commit())
		s.see("gone", db.QueryRow("SELECT loread($1, 1)", fd).Scan(&back))
		s.see("whole", db.QueryRow("SELECT length(lo_get($1))", oid).Scan(&n), n)
		_, err = db.Exec("SELECT lo_unlink($1)", oid)
		s.see("unlinked", err)
	})
}

// What a sql.Conn sets stays with it as long as it is held.
func TestAConnKeepsItsSession(t *testing.T) {
	both(t, func(t *testing.T, s *side) {
		db := s.open(t)
		ctx := t.Context()
		conn, err := db.Conn(ctx)
		must(t, err)
		for _, text := range []string{"CREATE TEMP TABLE mine (n int)", "INSERT INTO mine VALUES (1)", "SET TimeZone = 'Asia/Tokyo'", "SELECT pg_advisory_lock(7)"} {
			_, err := conn.ExecContext(ctx, text)
			s.see(text, err)
		}
		rows, err := conn.QueryContext(ctx, "SELECT n, '2024-01-01 00:00+00'::timestamptz::text FROM mine WHERE n = $1", 1)
		s.result("mine", rows, err)
		var free bool
		s.see("another", db.QueryRow("SELECT pg_try_advisory_lock(7)").Scan(&free), free)
		tx, err := conn.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
		must(t, err)
		_, err = tx.Exec("INSERT INTO mine VALUES (2)")
		s.see("in a transaction", err, tx.Rollback())
		_, err = conn.ExecContext(ctx, "SELECT pg_advisory_unlock(7)")
		s.see("unlock", err, conn.PingContext(ctx))
		s.see("raw", conn.Raw(func(any) error { return io.EOF }))
		_, err = conn.ExecContext(ctx, "RESET TimeZone")
		s.see("reset", err, conn.Close(), conn.Close())
		_, err = conn.ExecContext(ctx, "SELECT 1")
		s.see("after", err)
	})
}

// The server's answer is the same; pgpooled's error is the context's as well.
func TestADeadlineEndsAStatement(t *testing.T) {
	both(t, func(t *testing.T, s *side) {
		db := s.open(t)
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			var out string
			err := db.QueryRowContext(ctx, "SELECT pg_sleep($1)", 30).Scan(&out)
			var pe *pq.Error
			if !errors.As(err, &pe) {
				t.Fatalf("not the server's answer: %v", err)
			}
			s.see("slept", pe.Code, pe.Message)
			if !s.lib() && !errors.Is(err, context.DeadlineExceeded) { // lib/pq's is not
				t.Errorf("it does not say whose end it was: %v", err)
			}
			cancel()
			s.see("usable", db.PingContext(t.Context()))
		}
	})
}
