package main

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// jsonOf runs check --json and compares the exit status in it.
func jsonOf(t *testing.T, status int, env []string, args ...string) checkResult {
	t.Helper()
	e := run(t, env, append([]string{"check", "--json"}, args...)...)
	e.want(t, status)
	r := decode[checkResult](t, e)
	if r.ExitStatus != status {
		t.Errorf("exit_status %d in the JSON, the process says %d", r.ExitStatus, status)
	}
	return r
}

func (r checkResult) step(name string) *step {
	for i := range r.Steps {
		if r.Steps[i].Name == name {
			return &r.Steps[i]
		}
	}
	return nil
}

func (r checkResult) setting(key string) setting {
	for _, s := range r.Settings {
		if s.Key == key {
			return s
		}
	}
	return setting{}
}

func says(list []advice, text string) bool {
	return slices.ContainsFunc(list, func(a advice) bool { return strings.Contains(a.Text+" "+a.Remedy, text) })
}

func execSQL(t *testing.T, s *pgtest.Server, queries ...string) {
	t.Helper()
	for _, q := range queries {
		if _, err := s.Admin().ExecContext(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

func TestCheckOfAServerWithTLS(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{TLS: true, Password: secret, MaxConnections: 40, Params: map[string]string{
		"superuser_reserved_connections": "4", "idle_session_timeout": "30s", "tcp_keepalives_idle": "60"}})
	execSQL(t, s, "create role app login password '"+secret+"' connection limit 12")
	dsn := s.URL("user", "app", "sslmode", "verify-full", "sslrootcert", s.CACert(), "host", "localhost", "connection_limit", "3", "statement_timeout", "5s")

	r := jsonOf(t, exitWarnings, []string{"DATABASE_URL=" + dsn, "PGPOOLED_POOL_TIMEOUT=4s"}, "--instances", "5")
	if r.DSNSource != "DATABASE_URL" || !strings.Contains(r.DSN, "password=xxxxx") || !r.Connected || r.Error != nil {
		t.Errorf("source %q, dsn %q, connected %v, error %+v", r.DSNSource, r.DSN, r.Connected, r.Error)
	}
	for key, want := range map[string]setting{
		"max_open_conns": {Value: "3", Source: "alias", Name: "connection_limit"},
		"pool_timeout":   {Value: "4s", Source: "environment", Name: "PGPOOLED_POOL_TIMEOUT"},
		"close_timeout":  {Value: "5s", Source: "default"},
		"sslmode":        {Value: "verify-full", Source: "dsn"},
		"password":       {Value: "xxxxx", Source: "dsn", Hidden: true},
		"max_idle_conns": {Meaning: "as max_open_conns", Source: "default"},
	} {
		want.Key = key
		if got := r.setting(key); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	var names []string
	for _, st := range r.Steps {
		names = append(names, st.Name)
		if !st.OK || st.Millis < 0 || st.Millis > 60_000 {
			t.Errorf("step %+v", st)
		}
	}
	if want := []string{"dns", "tcp", "tls", "authentication", "first answer"}; !slices.Equal(names, want) {
		t.Errorf("steps %q, want %q", names, want)
	}
	if x := r.TLS; x == nil || x.Version != "TLS 1.3" || x.Cipher == "" || x.DaysLeft != 1 || x.Verified != "name and issuer" ||
		!slices.Contains(x.Names, "localhost") || !strings.Contains(x.Issuer, "throwaway CA") || x.Subject == "" || x.Error != "" {
		t.Errorf("TLS %+v", x)
	} else if _, err := time.Parse(time.RFC3339, x.NotAfter); err != nil {
		t.Error(err)
	}
	if x := r.Server; x == nil || x.VersionNumber < 140000 || x.Version == "" || x.Replica || x.ReadOnly || x.Role != "app" || x.Superuser || x.Database != "postgres" {
		t.Errorf("server %+v", x)
	} else if x.Timeouts["idle_session_timeout"].Millis != 30000 || x.Timeouts["statement_timeout"] != (serverTimeout{5000, "client"}) || x.Timeouts["tcp_keepalives_idle"].Millis != 60000 {
		t.Errorf("timeouts %+v", x.Timeouts)
	}
	if x := r.Pooler; x == nil || x.Present != "no" || x.Mode != "" || x.Why == "" {
		t.Errorf("pooler %+v", x)
	}
	c := r.Capacity
	if c == nil || c.Instances != 5 || c.MaxOpenConns != 3 || c.MaxConnections != 40 || c.Reserved != 4 || c.RoleLimit != 12 || c.DatabaseLimit != -1 || c.Fits || c.Largest != 2 {
		t.Fatalf("capacity %+v", c)
	}
	if !slices.ContainsFunc(c.Users, func(u capacityUser) bool {
		return u.Role == "app" && u.Application == "pgpooled_check" && u.Sessions == 1
	}) || c.Sessions < 1 {
		t.Errorf("users %+v", c.Users)
	}
	for _, want := range []string{"CONNECTION LIMIT 12", "conn_max_idle_time=24s", "runs out in 1 day"} {
		if !says(r.Warnings, want) {
			t.Errorf("no warning has %q: %+v", want, r.Warnings)
		}
	}
	if len(r.Warnings) != 3 || says(r.Notes, "not verified") || says(r.Notes, "tcp_keepalives_idle") || says(r.Notes, "Arguments") {
		t.Errorf("warnings %+v, notes %+v", r.Warnings, r.Notes)
	}
	if !strings.Contains(r.Use, "not shown") || !strings.Contains(r.Use, "max_open_conns=2") || !strings.Contains(r.Use, "conn_max_idle_time=24s") {
		t.Errorf("use %q", r.Use) // the file of the CA is not shown
	}

	// The same for people, from an argument.
	run(t, nil, "check", s.URL("user", "app")).want(t, exitWarnings, "given", "TLS 1.3", "1 day left", "authentication", "primary", "none: the process",
		"max_connections 40, of it 4 reserved", `application "pgpooled_check"`, "WARNING", "Arguments can be seen", "postgres://app:xxxxx@127.0.0.1", "it connects, with")
}

func TestCheckWithoutWarnings(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	execSQL(t, s, "create role app login")
	port := strconv.Itoa(s.Port())
	env := []string{"PGHOST=127.0.0.1", "PGPORT=" + port, "PGUSER=app", "PGDATABASE=postgres", "PGSSLMODE=disable"}
	r := jsonOf(t, exitOK, env)
	if r.DSNSource != "PG* variables" || len(r.Warnings) > 0 || r.setting("port") != (setting{Key: "port", Value: port, Source: "environment", Name: "PGPORT"}) || r.TLS != nil {
		t.Errorf("%+v", r)
	}
	run(t, env, "check").want(t, exitOK, "all is well", "from PGHOST", "--instances N")
	run(t, []string{"DATABASE_URL=" + s.URL("user", "app")}, "check").want(t, exitOK, "from DATABASE_URL", "use        postgres://app@127.0.0.1:"+port)
	run(t, nil, "check", "host="+s.SocketDir()+" user=app dbname=postgres port="+port).want(t, exitOK, "socket", "all is well")
	r = jsonOf(t, exitOK, nil, s.DSN("user", "app", "pgbouncer", "true"))
	if r.Pooler.Present != "no" || !r.Capacity.Fits || !says(r.Notes, "the server is reached directly") {
		t.Errorf("pgbouncer=true without one: %+v, %+v, %+v", r.Pooler, r.Capacity, r.Notes)
	}
	run(t, nil, "check").want(t, exitUsage, "no database: give a DSN")

	run(t, env, "check", "--quick").want(t, exitOK, "healthy: connected and answered in")
	got := decode[map[string]any](t, run(t, env, "check", "--quick", "--json"))
	if ms, ok := got["latency"].(float64); got["healthy"] != true || got["exit_status"] != 0.0 || !ok || ms <= 0 || len(got) != 3 {
		t.Errorf("%v", got)
	}

	execSQL(t, s, "alter role app set default_transaction_read_only = on", "alter role app set idle_in_transaction_session_timeout = '7s'",
		"alter role app set statement_timeout = '9s'")
	r = jsonOf(t, exitWarnings, nil, s.DSN("user", "app", "socket_timeout", "3s", "max_open_conns", "0", "supa", "x"))
	for _, want := range []string{"default_transaction_read_only", "socket_timeout (3s)", "no limit", "The DSN: supa"} {
		if !says(r.Warnings, want) {
			t.Errorf("no warning has %q: %+v", want, r.Warnings)
		}
	}
	if !says(r.Notes, "leak_detection_threshold") || !says(r.Notes, "tcp_keepalives_idle=60") {
		t.Errorf("notes %+v", r.Notes)
	}
}

func TestCheckSaysWhyThereIsNoConnection(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{TLS: true, CertExpired: true, Password: secret, MaxConnections: 8})
	execSQL(t, s, "create role app login password '"+secret+"'")
	plain := pgtest.StartT(t, pgtest.Options{})
	silent, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, nobody, _ := net.SplitHostPort(closed.Addr().String())
	_ = closed.Close()
	_, mute, _ := net.SplitHostPort(silent.Addr().String())

	tests := []struct {
		name, dsn            string
		step, reason, remedy string
	}{
		{"a wrong password", s.DSN("password", "hush-hush-not"), "authentication", "auth", "percent-encoded"},
		{"no such database", s.DSN("dbname", "nosuch"), "authentication", "auth", "no such database"},
		{"nobody listens", "host=127.0.0.1 user=x sslmode=disable port=" + nobody, "tcp", "refused", "Nobody listens"},
		{"no answer", "host=127.0.0.1 user=x connect_timeout=300ms sslmode=disable port=" + mute, "authentication", "timeout", "300ms"},
		{"no answer to the request for TLS", "host=127.0.0.1 user=x connect_timeout=300ms sslmode=require port=" + mute, "tls", "timeout", "300ms"},
		{"a certificate that ran out", s.DSN("sslmode", "verify-full", "sslrootcert", s.CACert(), "host", "localhost"), "tls", "tls", "certificate"},
		{"a server without TLS", plain.DSN("sslmode", "require"), "tls", "tls", "has no TLS"},
		{"no socket there", "host=/nonexistent user=x", "socket", "refused", "Nobody listens"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := jsonOf(t, exitFailed, nil, tt.dsn)
			if e := r.Error; r.Connected || e == nil || e.Step != tt.step || e.Reason != tt.reason || !strings.Contains(e.Remedy, tt.remedy) || e.Message == "" {
				t.Fatalf("%+v, steps %+v", r.Error, r.Steps)
			}
			if st := r.step(tt.step); st == nil || st.OK {
				t.Errorf("steps %+v", r.Steps)
			}
			if tt.remedy == "certificate" && (r.TLS == nil || r.TLS.DaysLeft != -1 || !r.TLS.Expired) {
				t.Errorf("TLS %+v", r.TLS)
			}
			run(t, nil, "check", tt.dsn).want(t, exitFailed, "FAILED", "no connection: "+tt.reason)
			quick := decode[map[string]any](t, run(t, nil, "check", "--quick", "--json", tt.dsn))
			if quick["healthy"] != false || quick["error"] != tt.reason || quick["exit_status"] != 1.0 {
				t.Errorf("%v", quick)
			}
		})
	}
	t.Run("a certificate that ran out, and nobody verifies it", func(t *testing.T) {
		if r := jsonOf(t, exitWarnings, nil, s.DSN("user", "app")); !says(r.Warnings, "ran out 1 day ago") {
			t.Errorf("%+v", r.Warnings)
		}
	})
	t.Run("a full server", func(t *testing.T) {
		for range 5 { // three of eight are reserved
			c, err := pq.Open(s.DSN())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
		r := jsonOf(t, exitFailed, nil, s.DSN("user", "app"))
		if r.Error == nil || r.Error.Reason != "full" || !strings.Contains(r.Error.Remedy, "All connections") {
			t.Errorf("%+v", r.Error)
		}
		run(t, nil, "check", "--quick", s.DSN("user", "app")).want(t, exitFailed, "not healthy", "full")
	})
	t.Run("a DSN that is wrong", func(t *testing.T) {
		e := run(t, nil, "check", "--json", "host=h password=hush-hush pool_timeout=hush-hush")
		e.want(t, exitUsage, "pool_timeout")
		got := decode[map[string]any](t, e)
		if got["exit_status"] != 2.0 {
			t.Errorf("%v", got)
		}
		run(t, []string{"PGPOOLED_MAX_OPEN_CONS=3"}, "check", "host=h").want(t, exitUsage, "PGPOOLED_MAX_OPEN_CONNS")
	})
	t.Run("too little time", func(t *testing.T) {
		run(t, nil, "check", "--timeout", "200ms", "--quick", "host=127.0.0.1 user=x sslmode=disable port="+mute).want(t, exitFailed, "timeout")
	})
}

func TestCheckThroughPgBouncer(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{TLS: true})
	for _, mode := range []string{"transaction", "session"} {
		for _, sslmode := range []string{"disable", "require"} {
			t.Run(mode+" mode, sslmode="+sslmode, func(t *testing.T) {
				b := pgtest.BouncerT(t, s, pgtest.BouncerOptions{Mode: mode, Size: 3})
				status := exitOK
				if mode == "transaction" || sslmode == "require" {
					status = exitWarnings // the certificate has days left
				}
				r := jsonOf(t, status, nil, b.DSN("sslmode", sslmode))
				p := r.Pooler
				if p == nil {
					t.Fatal("nothing about a pooler")
				}
				if mode == "session" && sslmode == "require" {
					if p.Present == "no" { // nothing tells it from address translation
						t.Errorf("%+v", p)
					}
					return
				}
				if p.Present != "yes" || p.Mode != mode || !strings.Contains(p.Product, "PgBouncer") {
					t.Errorf("%+v", p)
				}
				if r.Capacity == nil || r.Capacity.Fits || !strings.HasPrefix(r.Capacity.Summary, "cannot say whether") {
					t.Errorf("%+v", r.Capacity)
				}
				if warned := says(r.Warnings, "pgbouncer=true"); warned != (mode == "transaction") {
					t.Errorf("%+v", r.Warnings)
				}
				if mode == "transaction" && !strings.Contains(r.Use, "pgbouncer=true") {
					t.Errorf("use %q", r.Use)
				}
				if r := jsonOf(t, map[string]int{"disable": exitOK, "require": exitWarnings}[sslmode], nil, b.DSN("sslmode", sslmode, "pgbouncer", "true")); says(r.Warnings, "pooler") {
					t.Errorf("%+v", r.Warnings)
				}
			})
		}
	}
}

func TestCheckOfAReplica(t *testing.T) {
	t.Parallel()
	primary, standby := pgtest.PairT(t, pgtest.Options{})
	r := jsonOf(t, exitWarnings, nil, standby.DSN())
	if !r.Server.Replica || !says(r.Warnings, "This is a replica") {
		t.Errorf("%+v %+v", r.Server, r.Warnings)
	}
	if r := jsonOf(t, exitOK, nil, standby.DSN("target_session_attrs", "prefer-standby")); !r.Server.Replica {
		t.Errorf("%+v", r.Server)
	}
	hosts := standby.DSN(pgtest.Hosts(standby, primary)...)
	if r := jsonOf(t, exitWarnings, nil, hosts); !says(r.Warnings, "This is a replica") {
		t.Errorf("%+v", r.Warnings)
	}
	if r := jsonOf(t, exitOK, nil, hosts+" target_session_attrs=read-write"); r.Server.Replica {
		t.Errorf("%+v", r.Server)
	}
}
