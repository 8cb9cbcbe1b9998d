package main

import (
	"database/sql"
	"encoding/json"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pressly/goose/v3/lock"

	"github.com/pgpooled/pgpooled/pgpooledtest"
)

// patient is for the tests in which nothing may be given up because the machine
// is slow.
var patient = slices.Clip([]string{"REQUEST_TIMEOUT", "30s", "SHUTDOWN_TIMEOUT", "1m"})

func open(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgpooled", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestNothingIsLostOrDoubledWhileTheDatabaseRestarts(t *testing.T) {
	t.Parallel()
	server := pgpooledtest.Start(t)
	database := server.Database(t)
	p := launch(t, append(patient, "DATABASE_URL", database, "PGPOOLED_POOL_TIMEOUT", "500ms")...)
	url := p.url(t, "api")
	probes := probe(t, url)
	p.await(t, "it is ready", func() bool { return probes.ready.Load() == 200 })
	clients := startLoad(t, url, 8)
	goesOn := func() {
		t.Helper()
		before := clients.count()
		p.await(t, "100 more transfers are booked", func() bool { return clients.count() >= before+100 })
	}
	goesOn()

	if err := server.Stop(pgpooledtest.Fast); err != nil {
		t.Fatal(err)
	}
	p.await(t, "it is not ready", func() bool { return probes.ready.Load() == 503 })
	alive := probes.alive.Load()
	p.await(t, "it is alive all the same", func() bool { return probes.alive.Load() >= alive+20 })
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.await(t, "it is ready again", func() bool { return probes.ready.Load() == 200 })
	goesOn()

	for _, mode := range []pgpooledtest.StopMode{pgpooledtest.Immediate, pgpooledtest.Fast} {
		if err := server.Restart(t.Context(), mode); err != nil {
			t.Fatal(err)
		}
		goesOn()
	}
	if _, err := server.Terminate(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	goesOn()

	clients.end()
	metrics(t, p)
	probes.end()
	p.terminate(t)
	p.ends(t, 0)
	clients.check(t, open(t, database))
	if probes.dead.Load() {
		t.Error("liveness failed")
	}
	probes.others.Range(func(status, _ any) bool {
		if status != 200 && status != 503 {
			t.Errorf("readiness answered %v", status)
		}
		return true
	})
	if clients.refused > 0 {
		t.Errorf("%d requests were refused", clients.refused)
	}
}

// metrics checks that the pool and the requests are on the page.
func metrics(t *testing.T, p *process) {
	t.Helper()
	_, body := get(p.url(t, "admin") + "/debug/vars")
	var vars struct {
		Pgpooled struct{ Opens int }
		Requests map[string]int
	}
	if err := json.Unmarshal([]byte(body), &vars); err != nil || vars.Pgpooled.Opens == 0 || vars.Requests["POST /transfers 201"] < 400 {
		t.Errorf("metrics: %v\n%s", err, body)
	}
}

func TestASIGTERMUnderLoadDropsNoRequest(t *testing.T) {
	t.Parallel()
	server := pgpooledtest.Start(t)
	database := server.Database(t)
	p := launch(t, append(patient, "DATABASE_URL", database, "DRAIN_DELAY", "5s")...)
	url := p.url(t, "api")
	probes := probe(t, url)
	p.await(t, "it is ready", func() bool { return probes.ready.Load() == 200 })
	clients := startLoad(t, url, 8)
	p.await(t, "transfers are booked", func() bool { return clients.count() >= 50 })

	// Three requests that wait for a row when the listener closes.
	db := open(t, database)
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec("SELECT FROM accounts WHERE id = 1 FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	var held sync.WaitGroup
	for _, key := range []string{"a", "b", "c"} {
		held.Go(func() { clients.insist(transfer{Key: key, From: 1, To: 2, Cents: 5}) })
	}
	p.await(t, "three requests wait", func() bool {
		var n int
		err := db.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'INSERT INTO transfers%'").Scan(&n)
		return err == nil && n == 3
	})

	p.terminate(t)
	p.await(t, "it is not ready", func() bool { return probes.ready.Load() != 200 })
	before := clients.count()
	p.await(t, "what still comes is served", func() bool { return clients.count() > before })
	clients.end() // the load balancer has noticed
	probes.end()
	p.await(t, "the listener is closed", func() bool {
		c, err := net.DialTimeout("tcp", strings.TrimPrefix(url, "http://"), time.Minute)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	held.Wait()
	p.ends(t, 0)
	clients.check(t, db)
	if clients.refused > 0 || clients.later > 0 {
		t.Errorf("%d requests were refused, %d told to come later", clients.refused, clients.later)
	}
	if _, drained := probes.others.Load(503); !drained {
		t.Error("the listener closed before readiness said so")
	}
}

// The test holds the lock until both replicas are there.
func TestOfTwoReplicasThatStartAtOnceOneMigrates(t *testing.T) {
	t.Parallel()
	server := pgpooledtest.Start(t)
	database := server.Database(t)
	db := open(t, database)
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), "SELECT pg_advisory_lock($1)", lock.DefaultLockID); err != nil {
		t.Fatal(err)
	}
	env := append(patient, "DATABASE_URL", database)
	replicas := []*process{launch(t, env...), launch(t, env...)}
	for _, p := range replicas {
		p.await(t, "both have asked for the lock", func() bool {
			var n int
			err := db.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%pg_try_advisory_lock%'").Scan(&n)
			return err == nil && n == 2
		})
		if status, _ := get(p.url(t, "api") + "/healthz"); status != 200 {
			t.Errorf("liveness while it waits: %d", status)
		}
		if status, body := get(p.url(t, "api") + "/readyz"); status != 503 || !strings.Contains(body, "starting") {
			t.Errorf("readiness while it waits: %d %s", status, body)
		}
		if status, _ := get(p.url(t, "api") + "/accounts/1"); status != 503 {
			t.Errorf("a request while it waits: %d", status)
		}
	}
	if _, err := conn.ExecContext(t.Context(), "SELECT pg_advisory_unlock($1)", lock.DefaultLockID); err != nil {
		t.Fatal(err)
	}
	migrated := 0
	for _, p := range replicas {
		p.await(t, "it is ready", func() bool { return len(p.logged("ready")) == 1 })
		migrated += len(p.logged("migrated"))
		if status, body := get(p.url(t, "api") + "/accounts/10"); status != 200 {
			t.Errorf("an account: %d %s", status, body)
		}
	}
	var rows int
	if err := db.QueryRow("SELECT count(*) FROM goose_db_version WHERE version_id > 0").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	if migrated != 2 || rows != 2 {
		t.Errorf("%d migrations were run, %d are on record, want 2", migrated, rows)
	}
	for _, p := range replicas {
		p.terminate(t)
		p.ends(t, 0)
	}
}

func TestADatabaseThatIsAwayAtTheStartIsWaitedFor(t *testing.T) {
	t.Parallel()
	server := pgpooledtest.Start(t)
	url := server.URL()
	if err := server.Stop(pgpooledtest.Fast); err != nil {
		t.Fatal(err)
	}
	p := launch(t, "DATABASE_URL", url, "PGPOOLED_POOL_TIMEOUT", "50ms")
	p.await(t, "it tried", func() bool { return strings.Contains(p.text(), "pool_timeout") })
	if status, body := get(p.url(t, "api") + "/readyz"); status != 503 {
		t.Errorf("readiness: %d %s", status, body)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.await(t, "it is ready", func() bool { return len(p.logged("ready")) == 1 })
}

func TestWhatCannotWorkEndsTheProcessAndShowsNoSecret(t *testing.T) {
	t.Parallel()
	server := pgpooledtest.Start(t, pgpooledtest.WithPassword("right"))
	for name, c := range map[string]struct {
		env    []string
		status int
		says   string
	}{
		"a wrong password":    {[]string{"DATABASE_URL", server.URL("password", "s3cret")}, 1, "28P01"},
		"a misspelt key":      {[]string{"DATABASE_URL", server.URL("password", "s3cret", "max_open_con", "5")}, 2, "max_open_con"},
		"no database":         {nil, 2, "DATABASE_URL"},
		"a bad duration":      {[]string{"DATABASE_URL", "postgres://u:s3cret@h/d", "DRAIN_DELAY", "soon"}, 2, "DRAIN_DELAY"},
		"too little shutdown": {[]string{"DATABASE_URL", "postgres://u:s3cret@h/d", "SHUTDOWN_TIMEOUT", "1s"}, 2, "SHUTDOWN_TIMEOUT"},
		"a port in use":       {[]string{"DATABASE_URL", server.URL("password", "right"), "LISTEN_ADDR", server.Addr()}, 1, "address already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := launch(t, c.env...)
			p.ends(t, c.status)
			if text := p.text(); !strings.Contains(text, c.says) || strings.Contains(text, "s3cret") {
				t.Errorf("it says:\n%s", text)
			}
		})
	}
}
