package pgpooled

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/lib/pq"
)

// clearEnv takes away every variable that takes part in a DSN.
func clearEnv(t testing.TB) {
	t.Helper()
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "SSLPG") {
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := os.Setenv(name, value); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func mustParse(t testing.TB, dsn string) *Config {
	t.Helper()
	c, err := ParseDSN(dsn)
	if err != nil {
		t.Fatalf("ParseDSN: %v", err)
	}
	return c
}

// wantDSNError checks the key and a piece of the reason.
func wantDSNError(t testing.TB, err error, key, reason string) {
	t.Helper()
	var e *DSNError
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a *DSNError about %q", err, key)
	}
	if e.Key != key || !strings.Contains(e.Reason, reason) || !strings.HasPrefix(e.Error(), "pgpooled: ") {
		t.Fatalf("got key %q in %q; want key %q and %q", e.Key, e.Error(), key, reason)
	}
}

// sameConfig compares all but the notices about dropped keys and where values came
// from, which FormatDSN has no reason to repeat.
func sameConfig(a, b *Config) bool {
	a, b = a.Clone(), b.Clone()
	a.ignored, b.ignored = nil, nil
	a.origins, b.origins = nil, nil // a derived key is a given one in FormatDSN
	return reflect.DeepEqual(a, b)
}

// checkRoundTrip holds for every Config that ParseDSN returns.
func checkRoundTrip(t testing.TB, c *Config) {
	t.Helper()
	text := c.FormatDSN()
	again, err := ParseDSN(text)
	if err != nil {
		t.Fatalf("ParseDSN(FormatDSN()): %v\n%s", err, text)
	}
	if !sameConfig(c, again) {
		t.Fatalf("FormatDSN lost something: %s\n%+v\n%+v", text, c.PQ, again.PQ)
	}
	if got := again.FormatDSN(); got != text {
		t.Fatalf("FormatDSN is not stable:\n%s\n%s", text, got)
	}
	plain, err := pq.NewConfig(c.PlainDSN())
	if err != nil {
		t.Fatalf("lib/pq refuses PlainDSN: %v\n%s", err, c.PlainDSN())
	}
	if plain.User != c.PQ.User || plain.Password != c.PQ.Password || plain.Host != c.PQ.Host || plain.Port != c.PQ.Port ||
		plain.Database != c.PQ.Database || plain.SSLMode != c.PQ.SSLMode || !reflect.DeepEqual(plain.Multi, c.PQ.Multi) {
		t.Fatalf("lib/pq reads PlainDSN differently: %s\n%+v\n%+v", c.PlainDSN(), c.PQ, plain)
	}
	for key, value := range c.PQ.Runtime {
		if plain.Runtime[key] != value && value != "" {
			t.Fatalf("PlainDSN lost %s: %s", key, c.PlainDSN())
		}
	}
	for key := range plain.Runtime {
		if p, _ := lookupParam(key); p != nil {
			t.Fatalf("PlainDSN has %s: %s", key, c.PlainDSN())
		}
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestDefaultsAreTheDocumentedOnes(t *testing.T) {
	clearEnv(t)
	for _, dsn := range []string{"", "postgres://", "postgresql:///", "host=localhost"} {
		c := mustParse(t, dsn)
		for i := range params {
			p := &params[i]
			if p.translated() {
				continue
			}
			if value, isDefault := p.format(c); !isDefault {
				t.Errorf("%s of %q is %s", p.key, dsn, value)
			}
		}
		if c.MaxOpenConns != 10 || c.MaxIdleConns != -1 || c.ConnMaxLifetimeJitter != -1 || !c.Keepalives || c.RetryMode != RetrySafe ||
			c.CommitCheck != CommitCheckOff || c.StatementCacheCapacity != -1 {
			t.Errorf("%q: %+v", dsn, c)
		}
		if c.PQ.SSLMode != "" || c.PQ.Host != "localhost" || c.PQ.Port != 5432 {
			t.Errorf("%q: lib/pq's defaults are gone", dsn)
		}
		if n := c.Notices(); len(n) != 0 {
			t.Errorf("%q: notices %q", dsn, n)
		}
		checkRoundTrip(t, c)
	}
}

func TestPastedDSNs(t *testing.T) {
	clearEnv(t)
	awkward := ":/?#[]@!$&'()*+,;= %<>\"\\^`{|}~é☃"
	type want struct {
		user, password, host, dbname string
		port                         uint16
		sslmode                      pq.SSLMode
		settings                     string // of FormatDSN, pgpooled's part
		notices                      int
		check                        func(*Config) bool
	}
	tests := map[string]struct {
		dsn  string
		want want
	}{
		"Prisma with all its keys": {
			"postgresql://janedoe:mypassword@localhost:5432/mydb?schema=sample&connection_limit=5&pool_timeout=20&connect_timeout=15&socket_timeout=30&statement_cache_size=0&sslmode=prefer&sslaccept=accept_invalid_certs&application_name=shop&options=-c%20geqo%3Doff&max_connection_lifetime=600&max_idle_connection_lifetime=60&channel_binding=prefer\n",
			want{"janedoe", "mypassword", "localhost", "mydb", 5432, "prefer",
				"max_open_conns=5 conn_max_idle_time=1m conn_max_lifetime=10m pool_timeout=20s connect_timeout=15s socket_timeout=30s statement_cache_capacity=0 schema=sample", 0,
				func(c *Config) bool {
					return c.PQ.Runtime["search_path"] == `"sample"` && c.PQ.Options == "-c geqo=off" && c.PQ.ApplicationName == "shop"
				}},
		},
		"Prisma over a Unix socket": {
			"postgresql://USER:PASSWORD@localhost/database?host=/var/run/postgresql/&schema=public",
			want{"USER", "PASSWORD", "/var/run/postgresql/", "database", 5432, "disable", "schema=public", 0, nil},
		},
		"Neon's console": {
			"postgresql://neondb_owner:npg_AbC123@ep-cool-darkness-123456-pooler.us-east-2.aws.neon.tech/neondb?sslmode=require&channel_binding=require",
			want{"neondb_owner", "npg_AbC123", "ep-cool-darkness-123456-pooler.us-east-2.aws.neon.tech", "neondb", 5432, "verify-full", "", 0,
				func(c *Config) bool { return c.PQ.SSLRootCert == "system" }},
		},
		"Neon with the endpoint in options": {
			"postgres://alex:AbC123dEf@ep.us-east-2.aws.neon.tech/dbname?options=endpoint%3Dep-cool&sslmode=require",
			want{"alex", "AbC123dEf", "ep.us-east-2.aws.neon.tech", "dbname", 5432, "require", "", 0,
				func(c *Config) bool { return c.PQ.Options == "endpoint=ep-cool" }},
		},
		"Supabase's transaction pooler": {
			"postgres://postgres.abcdefghij:pw123456@aws-0-eu-central-1.pooler.supabase.com:6543/postgres?pgbouncer=true&connection_limit=1&supa=base-pooler.x",
			want{"postgres.abcdefghij", "pw123456", "aws-0-eu-central-1.pooler.supabase.com", "postgres", 6543, "",
				"max_open_conns=1 statement_cache_capacity=0 pgbouncer=true", 1, nil},
		},
		"pgxpool with all pool_ keys": {
			"postgres://jack:secret@pg.example.com:5432/mydb?sslmode=verify-ca&pool_max_conns=12&pool_min_conns=2&pool_min_idle_conns=2&pool_max_conn_lifetime=1h30m&pool_max_conn_lifetime_jitter=5m&pool_max_conn_idle_time=90s&pool_health_check_period=1m&default_query_exec_mode=cache_describe&statement_cache_capacity=0&description_cache_capacity=0",
			want{"jack", "secret", "pg.example.com", "mydb", 5432, "verify-ca",
				"max_open_conns=12 min_idle_conns=2 conn_max_idle_time=1m30s conn_max_lifetime=1h30m conn_max_lifetime_jitter=5m statement_cache_capacity=0", 3, nil},
		},
		"Amazon RDS": {
			"host=mydb.123456789012.us-east-1.rds.amazonaws.com port=5432 dbname=mydb user=admin password='p w' sslmode=verify-full sslrootcert=/etc/ssl/rds-global.pem",
			want{"admin", "p w", "mydb.123456789012.us-east-1.rds.amazonaws.com", "mydb", 5432, "verify-full", "", 0, nil},
		},
		"a Unix socket in a URL": {
			"postgres://app@%2Fvar%2Frun%2Fpostgresql:5433/shop",
			want{"app", "", "/var/run/postgresql", "shop", 5433, "disable", "", 0, nil},
		},
		"a Unix socket in key=value text": {
			"host=/var/run/postgresql user=app dbname=shop",
			want{"app", "", "/var/run/postgresql", "shop", 5432, "disable", "", 0, nil},
		},
		"an abstract socket": {
			"postgres://app@/shop?host=@pg",
			want{"app", "", "@pg", "shop", 5432, "disable", "", 0, nil},
		},
		"an encoded password with every awkward character": {
			"postgres://app:" + escape(awkward, "") + "@db/shop",
			want{"app", awkward, "db", "shop", 5432, "", "", 0, nil},
		},
		"a quoted password with every awkward character": {
			"user=app host=db dbname=shop password=" + quoteValue(awkward),
			want{"app", awkward, "db", "shop", 5432, "", "", 0, nil},
		},
		"a raw password with what does no harm": {
			"postgres://app:a:b@c#d!$&'()*+,;=~@db/shop",
			want{"app", "a:b@c#d!$&'()*+,;=~", "db", "shop", 5432, "", "", 0, nil},
		},
		"several hosts in a URL": {
			"postgres://app:pw@a:5432,b:5433,c/shop?target_session_attrs=read-write",
			want{"app", "pw", "a", "shop", 5432, "", "", 0, func(c *Config) bool {
				return len(c.PQ.Multi) == 2 && c.PQ.Multi[0].Host == "b" && c.PQ.Multi[0].Port == 5433 && c.PQ.Multi[1].Port == 5432 &&
					c.PQ.TargetSessionAttrs == "read-write"
			}},
		},
		"several hosts with one port, lib/pq's way": {
			"postgres://app:pw@a,b/shop?port=6432",
			want{"app", "pw", "a", "shop", 6432, "", "", 0, func(c *Config) bool { return c.PQ.Multi[0].Port == 6432 }},
		},
		"IPv6": {
			"postgres://app:pw@[::1]:5433,[fe80::1%25eth0]/shop",
			want{"app", "pw", "::1", "shop", 5433, "", "", 0, func(c *Config) bool { return c.PQ.Multi[0].Host == "fe80::1%eth0" }},
		},
		"database is dbname": {
			"host=db user=u database=shop", want{"u", "", "db", "shop", 5432, "", "", 0, nil},
		},
		"spaces around =, an empty password": {
			"host = db user = u password = '' dbname=shop", want{"u", "", "db", "shop", 5432, "", "", 0, nil},
		},
		"run-time parameters of the server": {
			"postgres://u@db/shop?statement_timeout=5s&tcp_keepalives_idle=7&max_parallel_workers=2&my.setting=x&idle_session_timeout=0&lock_timeout=1",
			want{"u", "", "db", "shop", 5432, "", "", 0, func(c *Config) bool { return len(c.PQ.Runtime) == 6 && c.KeepalivesIdle.Seconds() == 30 }},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c, w := mustParse(t, test.dsn), test.want
			if c.PQ.User != w.user || c.PQ.Password != w.password || c.PQ.Host != w.host || c.PQ.Database != w.dbname || c.PQ.Port != w.port || c.PQ.SSLMode != w.sslmode {
				t.Errorf("lib/pq gets %+v", c.PQ)
			}
			var own []string
			for i := range params {
				if p := &params[i]; !p.translated() {
					if v, isDefault := p.format(c); !isDefault {
						own = append(own, p.key+"="+v)
					}
				}
			}
			if got := strings.Join(own, " "); got != w.settings {
				t.Errorf("settings are %q, want %q", got, w.settings)
			}
			if n := c.Notices(); len(n) != w.notices {
				t.Errorf("notices: %q", n)
			}
			if w.check != nil && !w.check(c) {
				t.Errorf("%+v", c.PQ)
			}
			if w.password != "" && strings.Contains(c.String(), w.password) {
				t.Error("String has the password")
			}
			if strings.HasPrefix(test.dsn, "postgres") != strings.HasPrefix(c.PlainDSN(), "postgres://") {
				t.Errorf("PlainDSN changed the form: %s", c.PlainDSN())
			}
			checkRoundTrip(t, c)
		})
	}
}
