package pgpooled_test

import (
	"database/sql"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// shop is an application that gets its driver and its DSN from configuration. It
// knows nothing of pgpooled.
func shop(config map[string]string) (string, error) {
	db, err := sql.Open(config["DB_DRIVER"], config["DATABASE_URL"])
	if err != nil {
		return "", err
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		return "", err
	}
	defer tx.Rollback()
	if _, err := tx.Exec("create temp table orders (id int primary key, item text) on commit drop"); err != nil {
		return "", err
	}
	if _, err := tx.Exec("insert into orders values ($1, $2), ($3, $4)", 1, "pen", 2, "ink"); err != nil {
		return "", err
	}
	var items string
	if err := tx.QueryRow("select string_agg(item, ',' order by id) from orders").Scan(&items); err != nil {
		return "", err
	}
	_, err = tx.Exec("insert into orders values (1, 'again')")
	answer, ok := err.(*pq.Error)
	if !ok {
		return "", fmt.Errorf("want the server's own error, got %T %v", err, err)
	}
	return items + " " + string(answer.Code) + " " + answer.Constraint, tx.Rollback()
}

func TestTheWayBackIsConfigurationAlone(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]string{
		"key=value": server.DSN("application_name", app(), "max_open_conns", "5", "pool_timeout", "3s", "connect_timeout", "5s", "min_idle_conns", "1"),
		"URL":       server.URL("application_name", app(), "connection_limit", "5", "pool_timeout", "3", "retry_mode", "safe"),
	} {
		cfg, err := pgpooled.ParseDSN(dsn)
		if err != nil {
			t.Fatal(err)
		}
		plain := cfg.PlainDSN()
		there, err := shop(map[string]string{"DB_DRIVER": "pgpooled", "DATABASE_URL": dsn})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		back, err := shop(map[string]string{"DB_DRIVER": "postgres", "DATABASE_URL": plain})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		same, err := shop(map[string]string{"DB_DRIVER": "pgpooled", "DATABASE_URL": plain})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if there != "pen,ink 23505 orders_pkey" || back != there || same != there {
			t.Errorf("%s: %q, %q, %q", name, there, back, same)
		}
		if _, err := shop(map[string]string{"DB_DRIVER": "postgres", "DATABASE_URL": dsn}); err == nil {
			t.Errorf("%s: lib/pq took pgpooled's keys; then docs/rollback.md is wrong", name)
		}
	}
}

// What docs/rollback.md quotes is what lib/pq says of a DSN with our keys.
func TestRollbackDocQuotesWhatLibPQSays(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("docs/rollback.md")
	if err != nil {
		t.Fatal(err)
	}
	_, err = shop(map[string]string{"DB_DRIVER": "postgres", "DATABASE_URL": server.DSN("application_name", app(), "max_open_conns", "5")})
	if err == nil || !strings.Contains(err.Error(), `unrecognized configuration parameter "max_open_conns"`) ||
		!strings.Contains(string(doc), `unrecognized configuration parameter "max_open_conns"`) {
		t.Errorf("lib/pq says %v", err)
	}
}

// Each heading of docs/troubleshooting.md that quotes an error quotes a text
// that is in our sources, or one that these tests have had from lib/pq or
// PostgreSQL (the second list).
func TestTroubleshootingQuotesErrorsThatOccur(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	var sources strings.Builder
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".go") && !strings.HasSuffix(f.Name(), "_test.go") {
			b, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			sources.Write(b)
		}
	}
	seen := elsewhere(t)
	quoted := regexp.MustCompile("(?m)^## `(.+)`").FindAllStringSubmatch(string(doc), -1)
	if len(quoted) < 12 {
		t.Errorf("only %d entries", len(quoted))
	}
	for _, q := range quoted {
		if !strings.Contains(sources.String(), q[1]) && !strings.Contains(seen, q[1]) {
			t.Errorf("nothing says %q", q[1])
		}
	}
	for _, query := range regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(string(doc), -1) {
		if _, err := server.Admin().ExecContext(testContext(t), strings.ReplaceAll(query[1], "'shop'", "current_database()")); err != nil {
			t.Errorf("%s: %v", query[1], err)
		}
	}
}

// elsewhere provokes errors of lib/pq, PostgreSQL and the system.
func elsewhere(t *testing.T) string {
	t.Helper()
	role := fmt.Sprintf("few%d", appCount.Add(1))
	mustExec(t, server.Admin(), "create role "+role+" login connection limit 0")
	gone := newProxy(t, server.Addr())
	must(t, gone.Refuse(true))
	var texts []string
	for _, dsn := range []string{
		server.DSN("user", role), server.DSN("port", fmt.Sprint(gone.Port())), server.DSN("dbname", "nowhere"),
		server.DSN("sslmode", "verify-full", "sslrootcert", "system"),
	} {
		db := openWith(t, dsn+" retry_mode=off")
		if err := db.Ping(); err == nil {
			t.Errorf("%s: no error", dsn)
		} else {
			texts = append(texts, err.Error())
		}
	}
	// TestAServerThatStartsUpIsWaitedFor meets this one.
	return strings.Join(append(texts, lockedErrors(t), "the database system is starting up"), "\n")
}

// lockedErrors are those that need a server of their own: a wrong password, no
// TLS, no room.
func lockedErrors(t *testing.T) (texts string) {
	t.Helper()
	s := pgtest.StartT(t, pgtest.Options{Password: "right", MaxConnections: 5, Params: map[string]string{"superuser_reserved_connections": "0", "max_wal_senders": "0"}})
	wrong := openWith(t, s.DSN("password", "wrong"))
	bare := openWith(t, s.DSN("sslmode", "require"))
	texts = fmt.Sprintln(wrong.Ping(), bare.Ping())
	full := openWith(t, s.DSN("pool_timeout", "200ms", "application_name", app()))
	for range 5 {
		c, err := full.Conn(testContext(t))
		if err != nil {
			texts += fmt.Sprintln(err)
			break
		}
		defer c.Close()
		if err := c.PingContext(testContext(t)); err != nil {
			texts += fmt.Sprintln(err)
		}
	}
	return texts + fmt.Sprintln(full.Ping())
}
