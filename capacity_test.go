package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// crowded is a server with 24 connections, of which 3 are reserved: role app has
// 2 in the database other, role stranger 3 in shop, and the administrator 1.
func crowded(t *testing.T) *pgtest.Server {
	t.Helper()
	s := pgtest.StartT(t, pgtest.Options{TLS: true, MaxConnections: 24})
	s.Admin().SetMaxOpenConns(1)
	for _, text := range []string{"create database shop", "create database other", "create role app login", "create role stranger login"} {
		mustExec(t, s.Admin(), text)
	}
	hold(t, openWith(t, s.DSN("user", "app", "dbname", "other", "application_name", "jobs"), quiet), 2)
	hold(t, openWith(t, s.DSN("user", "stranger", "dbname", "shop", "application_name", "reports"), quiet), 3)
	return s
}

// hold takes n sessions until the end of the test. An unused one could be taken
// back for the next.
func hold(t *testing.T, db *sql.DB, n int) (release func()) {
	t.Helper()
	var held []*sql.Conn
	for range n {
		held = append(held, pinned(t, db))
		mustExec(t, held[len(held)-1], "select 1")
	}
	return func() {
		for _, c := range held {
			_ = c.Close()
		}
	}
}

func capacity(t *testing.T, db *sql.DB, instances int) pgpooled.Capacity {
	t.Helper()
	c, err := pgpooled.CheckCapacity(testContext(t), db, instances)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// An ordinary role learns how much room there is, and that is how much the
// server then grants, to the session.
func TestCheckCapacityIsWhatTheServerGrants(t *testing.T) {
	t.Parallel()
	s := crowded(t)
	for _, tt := range []struct {
		what           string
		alter          string
		role, database int // limits
		room           int
		how            string
	}{
		{"the server's limit", "select 1", -1, -1, 24 - 3 - 1 - 2 - 3, "max_connections 24 - 3 reserved - 6 in use by others"},
		{"the database's limit", "alter database shop connection limit 12", -1, 12, 12 - 3, `CONNECTION LIMIT 12 of database "shop" - 3 sessions of other roles`},
		{"the role's limit", "alter role app connection limit 9", 9, 12, 9 - 2, `CONNECTION LIMIT 9 of role "app" - 2 of its sessions in other databases`},
		{"a limit that others have used up", "alter database shop connection limit 4", 9, 4, 4 - 3, `CONNECTION LIMIT 4 of database "shop"`},
	} {
		mustExec(t, s.Admin(), tt.alter)
		db := openWith(t, s.DSN("user", "app", "dbname", "shop", "application_name", "web", "max_open_conns", "0", "pool_timeout", "50s"), quiet)
		c := capacity(t, db, 3)
		if c.Role != "app" || c.Database != "shop" || c.MaxConnections != 24 || c.Reserved != 3 || c.RoleLimit != tt.role || c.DatabaseLimit != tt.database {
			t.Errorf("%s: %+v", tt.what, c)
		}
		if c.Sessions != 7 || c.RoleSessions != 3 || c.DatabaseSessions != 4 || c.OwnSessions != 1 {
			t.Errorf("%s: %+v", tt.what, c)
		}
		if want := "[{stranger shop reports 3} {app other jobs 2} {app shop web 1} {postgres postgres pgtest-admin 1}]"; fmt.Sprint(c.Users) != want {
			t.Errorf("%s: %v", tt.what, c.Users)
		}
		if c.Room != tt.room || c.Largest != tt.room/3 || c.Fits || !strings.Contains(c.String(), tt.how) {
			t.Errorf("%s: room for %d, at most %d; %s", tt.what, c.Room, c.Largest, c)
		}
		release := hold(t, db, c.Room)
		more := openWith(t, s.DSN("user", "app", "dbname", "shop", "retry_mode", "off", "pool_timeout", "50s"), quiet)
		err := more.PingContext(testContext(t))
		if full, ok := err.(*pq.Error); !ok || full.Code != "53300" {
			t.Errorf("%s: one session more than there is room for: %v", tt.what, err)
		}
		release()
		must(t, db.Close())
		must(t, s.AwaitSessions(testContext(t), "web", 0))
	}
}

// The limits of role and database do not bind a superuser, and what is reserved
// is not for the fleet.
func TestCheckCapacityOfASuperuser(t *testing.T) {
	t.Parallel()
	s := crowded(t)
	mustExec(t, s.Admin(), "alter database shop connection limit 1")
	mustExec(t, s.Admin(), "alter role postgres connection limit 1")
	c := capacity(t, openWith(t, s.DSN("dbname", "shop"), quiet), 1)
	if c.RoleLimit != -1 || c.DatabaseLimit != -1 || c.Room != 24-3-6 {
		t.Errorf("%+v", c)
	}
}

// PostgreSQL 16 reserves more, RDS too; an older server does not know the
// settings.
func TestCheckCapacityKeepsOffEverythingThatIsReserved(t *testing.T) {
	t.Parallel()
	params, want := map[string]string{"superuser_reserved_connections": "4", "rds.rds_superuser_reserved_connections": "2"}, 4+2
	if major(t) >= 16 {
		params["reserved_connections"], want = "5", 4+2+5
	}
	s := pgtest.StartT(t, pgtest.Options{Params: params, MaxConnections: 30})
	if c := capacity(t, openWith(t, s.DSN(), quiet), 1); c.Reserved != want {
		t.Errorf("%d are reserved, want %d", c.Reserved, want)
	}
}

// A logical WAL sender is in a database and has a role, as a session; its place is
// one of max_wal_senders. No role takes it for a session.
func TestCheckCapacityLeavesOutWALSenders(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{MaxConnections: 24, Params: map[string]string{"wal_level": "logical", "max_wal_senders": "2"}})
	mustExec(t, s.Admin(), "create role app login")
	mustExec(t, s.Admin(), "create role feed login replication")
	conn := pinned(t, openWith(t, s.DSN("user", "feed", "application_name", "feed", "replication", "database"), quiet))
	must(t, conn.PingContext(testContext(t)))
	for _, role := range []string{"app", "feed", "postgres"} {
		c := capacity(t, openWith(t, s.DSN("user", role, "application_name", "web"), quiet), 1)
		for _, u := range c.Users {
			if u.Application == "feed" {
				t.Errorf("%s: %+v", role, c.Users)
			}
		}
	}
}

// The smaller limit wins, the pool's or that of the sql.DB above; other drivers
// have only the latter.
func TestCheckCapacityKnowsTheLimitOfOnePool(t *testing.T) {
	t.Parallel()
	plain, err := sql.Open("postgres", server.DSN("application_name", app()))
	must(t, err)
	t.Cleanup(func() { must(t, plain.Close()) })
	for _, tt := range []struct {
		db          *sql.DB
		above, want int
	}{
		{open(t, "max_open_conns", "7"), 0, 7},
		{open(t, "max_open_conns", "7"), 9, 7},
		{open(t, "max_open_conns", "7"), 2, 2},
		{open(t, "max_open_conns", "0"), 2, 2},
		{open(t, "max_open_conns", "0"), 0, 0},
		{plain, 0, 0},
		{plain, 3, 3},
	} {
		tt.db.SetMaxOpenConns(tt.above)
		if c := capacity(t, tt.db, 1); c.MaxOpenConns != tt.want || c.Fits != (tt.want > 0) {
			t.Errorf("%+v", c)
		}
	}
}

// What stands between has limits that cannot be seen from here.
func TestCheckCapacityTellsAPoolerFromAServer(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"session", "transaction"} {
		b := pgtest.BouncerT(t, server, pgtest.BouncerOptions{Mode: mode, Size: 3})
		for _, tt := range []struct {
			kv   []string
			want string
		}{
			{[]string{"sslmode", "disable"}, "yes"},
			{[]string{"sslmode", "require"}, "unknown"},
			{[]string{"sslmode", "require", "pgbouncer", "true"}, "yes"},
		} {
			db, _ := client(t, b, tt.kv...)
			c := capacity(t, db, 1)
			if c.Pooler != tt.want || c.Fits != (tt.want != "yes") || !strings.Contains(c.String(), "pooler") {
				t.Errorf("%s, %s: %q; %s", mode, tt.kv, c.Pooler, c)
			}
		}
	}
	forwarder, sockets := newProxy(t, server.Addr()), forwardSocket(t, filepath.Join(server.SocketDir(), fmt.Sprintf(".s.PGSQL.%d", server.Port())))
	for _, tt := range []struct {
		kv   []string
		want string
	}{
		{[]string{"sslmode", "disable"}, "no"},
		{[]string{"sslmode", "require"}, "no"},
		{[]string{"sslmode", "disable", "pgbouncer", "true"}, "no"},
		{[]string{"sslmode", "require", "pgbouncer", "true"}, "no"},
		{[]string{"host", server.SocketDir(), "sslmode", "disable"}, "no"},
		{[]string{"host", sockets, "port", "1", "sslmode", "disable"}, "unknown"},
		{[]string{"sslmode", "disable", "port", strconv.Itoa(forwarder.Port())}, "unknown"},
		{[]string{"sslmode", "require", "port", strconv.Itoa(forwarder.Port())}, "unknown"},
	} {
		db := open(t, tt.kv...)
		for range 2 { // also when the statement cache has asked the same
			if c := capacity(t, db, 1); c.Pooler != tt.want || !c.Fits {
				t.Errorf("%s: %+v", tt.kv, c)
			}
			for range 3 {
				askFor(t, db, "select $1::int", 1)
			}
		}
	}
}

// forwardSocket listens on a Unix socket of port 1, as pgpool-II does on one of
// 9999, for connections to target. It returns the folder.
func forwardSocket(t *testing.T, target string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "") // short: a socket's path has about 100 bytes
	must(t, err)
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.1"))
	must(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("unix", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{client, s}, {s, client}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_, _ = client.Close(), s.Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
		_ = os.RemoveAll(dir)
	})
	return dir
}

func TestCheckCapacityFails(t *testing.T) {
	t.Parallel()
	db := open(t)
	if _, err := pgpooled.CheckCapacity(testContext(t), db, 0); err == nil || !strings.Contains(err.Error(), "0 instances") {
		t.Errorf("no instances: %v", err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	if _, err := pgpooled.CheckCapacity(ctx, db, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("context: %v", err)
	}
	nobody := openWith(t, server.DSN("port", freePort(t), "pool_timeout", "100ms"), quiet)
	if _, err := pgpooled.CheckCapacity(testContext(t), nobody, 1); !errors.Is(err, pgpooled.ErrPoolTimeout) {
		t.Errorf("no server: %v", err)
	}
}

func TestCapacityInOneSentence(t *testing.T) {
	t.Parallel()
	base := pgpooled.Capacity{Instances: 4, MaxOpenConns: 10, Role: "app", Database: "shop", MaxConnections: 100, Reserved: 3, RoleLimit: -1, DatabaseLimit: -1,
		Sessions: 25, RoleSessions: 6, DatabaseSessions: 9, OwnSessions: 5, Pooler: "no", Largest: 19, Room: 77, Fits: true}
	for want, change := range map[string]func(*pgpooled.Capacity){
		"4 × max_open_conns 10 = 40 sessions fit: there is room for 77 (max_connections 100 - 3 reserved - 20 in use by others), at most max_open_conns=19": func(*pgpooled.Capacity) {},
		"4 × max_open_conns 30 = 120 sessions do not fit: there is room for 77 (max_connections 100 - 3 reserved - 20 in use by others): set max_open_conns=19, or raise max_connections": func(c *pgpooled.Capacity) {
			c.MaxOpenConns, c.Fits = 30, false
		},
		"4 × max_open_conns 0 (no limit) do not fit: there is room for 77 (max_connections 100 - 3 reserved - 20 in use by others): set max_open_conns=19, or raise max_connections": func(c *pgpooled.Capacity) {
			c.MaxOpenConns, c.Fits = 0, false
		},
		`4 × max_open_conns 10 = 40 sessions do not fit: there is room for 19 (CONNECTION LIMIT 20 of role "app" - 1 of its sessions in other databases): set max_open_conns=4, or raise the role's CONNECTION LIMIT`: func(c *pgpooled.Capacity) {
			c.RoleLimit, c.Room, c.Largest, c.Fits = 20, 19, 4, false
		},
		`4 × max_open_conns 10 = 40 sessions do not fit: there is room for 2 (CONNECTION LIMIT 6 of database "shop" - 4 sessions of other roles), less than one for each instance: raise the database's CONNECTION LIMIT, run fewer instances or put a pooler before the server`: func(c *pgpooled.Capacity) {
			c.DatabaseLimit, c.Room, c.Largest, c.Fits = 6, 2, 0, false
		},
		"4 × max_open_conns 10 = 40 sessions fit: there is room for 77 (max_connections 100 - 3 reserved - 20 in use by others), at most max_open_conns=19; if a pooler stands between, its limits count as well": func(c *pgpooled.Capacity) {
			c.Pooler = "unknown"
		},
		"cannot say whether 4 × max_open_conns 10 = 40 sessions fit: there is a pooler, whose limits cannot be asked for from here; keep the sum below what it takes from clients (PgBouncer: max_client_conn), and its own connections to the server below 77 (max_connections 100 - 3 reserved - 20 in use by others)": func(c *pgpooled.Capacity) {
			c.Pooler, c.Fits = "yes", false
		},
	} {
		c := base
		change(&c)
		if got := c.String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
