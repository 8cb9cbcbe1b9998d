package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

func TestTheStatusPageTellsOfOutagesLostStatementsAndLeaks(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	mustExec(t, s.Admin(), "create table t (i int)")
	db, proxy := through(t, s, "leak_detection_threshold", "50ms", "pool_timeout", "1m", "sslmode", "disable")
	h := pgpooled.StatusHandler(db)
	must(t, db.Ping())

	proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	var unknown *pgpooled.OutcomeUnknownError
	if _, err := db.Exec("insert into t values (4711)"); !errors.As(err, &unknown) {
		t.Fatalf("%T %v", err, err)
	}
	must(t, db.Ping())
	proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	if n := queryInt(t, db, "select 4712"); n != 4712 {
		t.Error(n)
	}
	must(t, s.Down("fast"))
	done := make(chan error, 1)
	go func() { done <- db.Ping() }()
	eventually(t, "an outage", func() bool { got, _ := statusOf(t, h); _, ok := got.event("trying again"); return ok })
	must(t, s.Up(testContext(t)))
	must(t, <-done)
	holdOnTo(t, db)

	leak := func(s *statusJSON) string { attrs, _ := s.event("leak_detection_threshold"); return attrs["stack"] }
	eventually(t, "the leak is reported, with who took it", func() bool { got, _ := statusOf(t, h); return strings.Contains(leak(got), "holdOnTo") })
	got, text := statusOf(t, h)
	for event, attr := range map[string]string{
		"cannot be reached": "error", "trying again": "attempt", "server is back": "outage", "outcome unknown": "cause", "reading again": "cause", "leak_detection_threshold": "stack",
	} {
		if attrs, _ := got.event(event); attrs[attr] == "" {
			t.Errorf("%s: %v", event, attrs)
		}
	}
	if strings.Contains(leak(got), "database/sql") {
		t.Errorf("database/sql is in the stack: %s", leak(got))
	}
	if strings.Count(text, "holdOnTo") < 2 {
		t.Error("one of the two forms does not have the stack")
	}
	if got.Pool.OutcomesUnknown != 1 || got.Pool.Replays != 1 {
		t.Errorf("%+v", got.Pool)
	}
	eventually(t, "the session is listed", func() bool {
		got, _ := statusOf(t, h)
		return len(got.Held) == 1 && strings.Contains(got.Held[0].Stack, "holdOnTo")
	})
	if strings.Contains(text, "insert") || strings.Contains(text, "(4711)") || strings.Contains(text, "select 47") {
		t.Error("a statement is on the page")
	}
}

// holdOnTo leases a session until the test ends.
func holdOnTo(t *testing.T, db *sql.DB) {
	t.Helper()
	c, err := db.Conn(testContext(t))
	must(t, err)
	mustExec(t, c, "select 1")
	t.Cleanup(func() { c.Close() })
}

func TestNoSecretIsOnTheStatusPage(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Password: "right"})
	const secret = "hunter2-%2F-x"
	for name, dsn := range map[string]string{
		"wrong password": s.DSN("password", secret),
		"nobody there":   s.DSN("password", secret, "port", "1"),
		"no TLS":         s.DSN("password", secret, "sslmode", "require"),
		"a key":          s.DSN("password", "right", "sslmode", "require", "sslinline", "true", "sslcert", "-----BEGIN "+secret, "sslkey", "-----BEGIN "+secret),
		"run time":       s.DSN("password", "right", "application_name", secret, "options", "-c a.b="+secret),
		"a URL":          s.URL("password", secret),
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := pgpooled.ParseDSN(dsn)
			must(t, err)
			cfg.PoolTimeout, cfg.ConnectTimeout = time.Minute, time.Minute // all but one fail, or succeed, at once
			if name == "nobody there" {
				cfg.PoolTimeout = 100 * time.Millisecond
			}
			var opts []pgpooled.Option
			if name == "a URL" {
				opts = append(opts, pgpooled.WithBeforeConnect(func(_ context.Context, cfg *pq.Config) error {
					cfg.Password = "token-" + secret
					return nil
				}))
			}
			c, err := pgpooled.NewConnectorConfig(cfg, append(opts, quiet)...)
			must(t, err)
			db := sql.OpenDB(c)
			defer db.Close()
			if err := db.Ping(); (err == nil) != (name == "run time") {
				t.Errorf("ping: %v", err)
			}
			got, text := statusOf(t, pgpooled.StatusHandler(db))
			if strings.Contains(text, "hunter2") {
				t.Errorf("the secret is in %s", text)
			}
			if want, ok := map[string]string{"wrong password": "refused", "nobody there": "unreachable", "run time": "working"}[name]; ok && got.State != want {
				t.Errorf("%s, want %s", got.State, want)
			}
			if name != "run time" && (got.Error == "" || len(got.Events) < 2) {
				t.Errorf("nothing of the failure is there: %+v", got)
			}
		})
	}
}
