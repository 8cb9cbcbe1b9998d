package pgpooled

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEveryKeyAliasUnitAndVariable(t *testing.T) {
	clearEnv(t)
	value := func(p *param) (text, same string) {
		switch p.field(new(Config)).(type) {
		case *int:
			return "7", "7"
		case *time.Duration:
			return "90s", "1m30s"
		case *bool:
			if p.def == "true" {
				return "off", "false"
			}
			return "1", "true"
		case *string:
			return "Some_Name", "Some_Name"
		}
		return p.values[len(p.values)-1], p.values[len(p.values)-1]
	}
	// What one setting needs of the others to pass Validate.
	with := map[string]string{"retry_base_delay": "retry_max_delay=5m"}
	for i := range params {
		p := &params[i]
		if p.translated() {
			continue
		}
		text, want := value(p)
		names := []string{p.key}
		for _, a := range p.aliases {
			names = append(names, a.name)
		}
		for _, name := range names {
			t.Run(name, func(t *testing.T) {
				check := func(dsn, want string) {
					t.Helper()
					c := mustParse(t, dsn)
					if got, _ := p.format(c); got != want {
						t.Errorf("%s: got %s, want %s", dsn, got, want)
					}
					if strings.Contains(c.PlainDSN(), name) && name != "connect_timeout" {
						t.Errorf("%s is in PlainDSN", name)
					}
					checkRoundTrip(t, c)
				}
				check("user=u "+name+"="+text+" "+with[p.key], want)
				check("postgres://u@h/d?"+name+"="+text+"&"+with[p.key], want)

				if _, isDuration := p.field(new(Config)).(*time.Duration); isDuration {
					_, bare := lookupParam(name)
					if _, err := ParseDSN(name + "=90 " + with[p.key]); bare == 0 {
						wantDSNError(t, err, name, "a number needs a unit")
					} else {
						check(name+"=90 "+with[p.key], formatDuration(90*bare))
					}
					_, err := ParseDSN(name + "=-5s")
					wantDSNError(t, err, name, "must be a duration")
					_, err = ParseDSN(name + "=99999999h")
					wantDSNError(t, err, name, "must be a duration")
					if p.zero != "" {
						check(name+"=0", "0")
					}
				}
				if p.field(new(Config)) != nil && p.max > 0 {
					_, err := ParseDSN(name + "=" + strings.Repeat("9", 99))
					wantDSNError(t, err, name, "must be")
				}
				if _, isText := p.field(new(Config)).(*string); !isText {
					for _, bad := range []string{"secretive", "-1", "1.5.2", "+3", "0x10", "９"} {
						_, err := ParseDSN(name + "=" + bad)
						wantDSNError(t, err, name, "must be")
					}
				}
				_, err := ParseDSN("postgres://h/d?" + name + "=")
				wantDSNError(t, err, name, "the value is missing")
			})
		}
		t.Run(p.env(), func(t *testing.T) {
			t.Setenv(p.env(), text)
			if p.key == "retry_base_delay" {
				t.Setenv("PGPOOLED_RETRY_MAX_DELAY", "5m")
			}
			c := mustParse(t, "host=h")
			if got, _ := p.format(c); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			checkRoundTrip(t, c)
			if p.def != "" {
				c := mustParse(t, "host=h "+p.key+"="+p.def)
				if _, isDefault := p.format(c); !isDefault {
					t.Error("the DSN does not win")
				}
				checkRoundTrip(t, c)
			}
			if _, isText := p.field(new(Config)).(*string); !isText {
				t.Setenv(p.env(), "wrong")
				_, err := ParseDSN("")
				wantDSNError(t, err, p.env(), "must be")
			}
			t.Setenv(p.env(), "")
			mustParse(t, "")
		})
	}
}

func TestRefusedDSNs(t *testing.T) {
	clearEnv(t)
	tests := map[string]struct{ dsn, key, reason string }{
		"Prisma's proxy":                            {"prisma://accelerate.prisma-data.net/?api_key=x", "", "direct URL"},
		"Prisma's local proxy":                      {"prisma+postgres://localhost:51213/?api_key=x", "", "direct URL"},
		"MySQL":                                     {"mysql://u:p@h/d", "", "not for PostgreSQL"},
		"SQLAlchemy's driver in the scheme":         {"postgresql+psycopg2://u:p@h/d", "", "begin the URL with postgres://"},
		"JDBC":                                      {"jdbc:postgresql://h/d?user=u", "", "begin the URL with postgres://"},
		"a bare host name":                          {"db.example.com", "", "neither a URL"},
		"quotes around the URL":                     {`"postgres://u:p@h/d?sslmode=disable"`, "", "quotation mark"},
		"a key without a value":                     {"host=h user", "", "parameter 2 is not key=value"},
		"an open quote":                             {"user=u password='secret", "", "no closing quote"},
		"a quote inside quotes":                     {"password='it's me' user=u", "", "goes on after its closing quote"},
		"an unquoted password with a space":         {"user=u password=top secret", "", "single quotes"},
		"an unquoted password that looks like keys": {"user=u password=top sec=ret", "", "put the password in single quotes"},
		"a trailing backslash":                      {`password=a\`, "", "backslash"},
		"a raw slash in a password":                 {"postgres://u:12/34@h/d", "password", "%2F"},
		"a raw slash after an @ in a password":      {"postgres://u:a@b/c@h/d", "password", "%2F"},
		"a raw question mark in a password":         {"postgres://u:12?34@h/d", "", "%3F"},
		"a raw question mark and an =":              {"postgres://u:12?a=b@h/d", "", "%3F"},
		"a raw question mark and parameters":        {"postgres://u:12?a=b@h/d?sslmode=disable", "", "%3F"},
		"a raw question mark after a known key":     {"postgres://u:a@b?application_name=b@h/d", "", "%3F"},
		"a raw percent sign in a password":          {"postgres://u:100%@h/d", "password", "%25"},
		"a raw percent sign in a value":             {"postgres://u@h/d?options=5%", "", "%25"},
		"a password that is not UTF-8":              {"postgres://u:%E9@h/d", "password", "UTF-8"},
		"a NUL byte":                                {"postgres://u:%00@h/d", "password", "NUL"},
		"a fragment":                                {"postgres://u:p@h/d#x", "dbname", "percent-encode"},
		"a text port":                               {"postgres://u:secret", "port", "%2F"},
		"two colons":                                {"postgres://h:1:2/d", "host", "brackets"},
		"a broken IPv6 address":                     {"postgres://[::1/d", "host", "IPv6"},
		"a template that nobody filled in":          {"postgres://u:p@${HOST}/d", "host", "no host name has"},
		"a line break":                              {"postgres://u:p@h/d\n?sslmode=disable", "", "line break"},
		"the same key twice":                        {"host=a host=b", "host", "given twice"},
		"two hosts in one URL":                      {"postgres://a/d?host=b", "host", "given twice"},
		"one of our keys twice":                     {"postgres://a/d?pool_timeout=1&pool_timeout=2", "pool_timeout", "given twice"},
		"two names, different values":               {"max_open_conns=5 connection_limit=6", "max_open_conns and connection_limit", "two names"},
		"two aliases, different values":             {"pool_min_conns=2 pool_min_idle_conns=1", "pool_min_conns and pool_min_idle_conns", "two names"},
		"a misspelt key":                            {"max_opne_conns=5", "", "did you mean max_open_conns?"},
		"camel case":                                {"postgres://h/d?maxOpenConns=5", "", "did you mean max_open_conns?"},
		"the prefix of the environment":             {"pgpooled_max_open_conns=5", "", "did you mean max_open_conns?"},
		"a misspelt alias":                          {"conection_limit=5", "", "did you mean connection_limit?"},
		"a misspelt sslmode":                        {"ssl_mode=verify-full", "", "did you mean sslmode?"},
		"a capital letter":                          {"Password=secret", "", "did you mean password?"},
		"a name of our kind":                        {"pool_strategy=lifo", "", "docs/parameters.md"},
		"HikariCP":                                  {"postgres://h/d?maximumPoolSize=5", "maximumPoolSize", "max_open_conns"},
		"username":                                  {"Username=u", "username", "use user"},
		"Prisma's identity":                         {"postgres://h/d?sslidentity=client.p12", "sslidentity", "sslcert and sslkey"},
		"an encrypted key":                          {"postgres://h/d?sslpassword=secret", "sslpassword", "decrypt"},
		"Prisma's sslcert":                          {"postgres://h/d?sslcert=ca.pem&sslaccept=strict", "sslcert", "sslrootcert"},
		"require_auth":                              {"require_auth=scram-sha-256", "require_auth", "unsafe"},
		"GSS encryption":                            {"gssencmode=require", "gssencmode", "must be disable or prefer"},
		"a revocation list":                         {"sslcrl=x", "sslcrl", "unsafe"},
		"an unknown sslmode":                        {"sslmode=secret", "sslmode", "verify-full"},
		"an unregistered TLS configuration":         {"sslmode=pqgo-nobody", "sslmode", "RegisterTLSConfig"},
		"an unknown session attribute":              {"target_session_attrs=rw", "target_session_attrs", "read-write"},
		"a wrong encoding":                          {"client_encoding=LATIN1", "client_encoding", "UTF8"},
		"a wrong date style":                        {"datestyle=German", "datestyle", "ISO, MDY"},
		"a wrong flag":                              {"sslinline=secret", "sslinline", "yes or no"},
		"a wrong address":                           {"hostaddr=secret", "hostaddr", "IP address"},
		"port 0":                                    {"port=0", "port", "65535"},
		"more ports than hosts":                     {"host=a,b port=1,2,3", "host and port", "3 ports for 2 hosts"},
		"more addresses than hosts":                 {"host=a,b hostaddr=1.1.1.1,1.1.1.2,1.1.1.3", "host and hostaddr", "contradict"},
		"direct TLS with a weak mode":               {"sslnegotiation=direct sslmode=prefer", "sslmode and sslnegotiation", "contradict"},
		"a protocol range upside down":              {"min_protocol_version=3.2 max_protocol_version=3.0", "min_protocol_version", "lib/pq refuses"},
		"an unknown service":                        {"service=nobody", "service", "cannot be found"},
		"a socket before a remote host":             {"host=/tmp,db sslmode=require", "host", "without TLS"},
		"warm sessions over the limit":              {"max_open_conns=2 min_idle_conns=3", "min_idle_conns and max_open_conns", "more warm"},
		"warm sessions over the idle limit":         {"max_idle_conns=2 min_idle_conns=3", "min_idle_conns and max_idle_conns", "more warm"},
		"more jitter than lifetime":                 {"conn_max_lifetime=1m conn_max_lifetime_jitter=2m", "conn_max_lifetime_jitter and conn_max_lifetime", "exceed"},
		"delays upside down":                        {"retry_base_delay=2s", "retry_base_delay and retry_max_delay", "exceed"},
		"a zero period":                             {"retry_base_delay=0", "retry_base_delay", "must be"},
		"a cache behind PgBouncer":                  {"pgbouncer=true statement_cache_capacity=5", "statement_cache_capacity and pgbouncer", "named"},
		"a cache with binary parameters":            {"binary_parameters=yes statement_cache_capacity=5", "statement_cache_capacity and binary_parameters", "unnamed"},
		"a schema behind PgBouncer":                 {"postgres://h/d?pgbouncer=true&schema=app", "schema and pgbouncer", "ALTER ROLE"},
		"schema and search_path":                    {"schema=app search_path=other", "schema and search_path", "both"},
		"binding without TLS":                       {"sslmode=disable channel_binding=require", "channel_binding and sslmode", "needs TLS"},
		"binding over a socket":                     {"host=/tmp channel_binding=require", "channel_binding and host", "Unix socket"},
		"binding without verification":              {"sslaccept=accept_invalid_certs channel_binding=require", "channel_binding and sslaccept", "verified"},
		"an unknown binding":                        {"channel_binding=secret", "channel_binding", "prefer, disable, require"},
		"strict without TLS":                        {"sslmode=disable sslaccept=strict", "sslaccept and sslmode", "verify-full"},
		"strict below its strength":                 {"sslmode=verify-ca sslaccept=strict", "sslaccept and sslmode", "verify-full"},
		"careless above its strength":               {"sslmode=verify-full sslaccept=accept_invalid_certs", "sslaccept and sslmode", "no certificate"},
		"a pool name too long":                      {"pool_name=" + strings.Repeat("x", 64), "pool_name", "63 bytes"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ParseDSN(test.dsn)
			wantDSNError(t, err, test.key, test.reason)
			for _, secret := range []string{"secret", "12/34", "34@", "sec=ret"} {
				if strings.Contains(test.dsn, secret) && strings.Contains(err.Error(), secret) && !strings.Contains(err.Error(), "secretive") {
					t.Errorf("%q repeats %q", err, secret)
				}
			}
		})
	}
}

func TestTLSTranslation(t *testing.T) {
	clearEnv(t)
	tests := []struct{ dsn, mode, root string }{
		{"sslaccept=strict", "verify-full", ""},
		{"sslaccept=strict sslmode=require", "verify-full", ""},
		{"sslaccept=accept_invalid_certs", "require", ""},
		{"sslaccept=accept_invalid_certs sslmode=prefer", "prefer", ""},
		{"channel_binding=prefer sslmode=allow", "allow", ""},
		{"channel_binding=disable", "", ""},
		{"channel_binding=require", "verify-full", "system"},
		{"channel_binding=require sslmode=verify-ca", "verify-full", "system"},
		{"channel_binding=require sslmode=require sslrootcert=ca.pem", "verify-full", "ca.pem"},
		{"channel_binding=require sslaccept=strict", "verify-full", "system"},
	}
	for _, test := range tests {
		c := mustParse(t, "host=h "+test.dsn)
		if string(c.PQ.SSLMode) != test.mode || c.PQ.SSLRootCert != test.root {
			t.Errorf("%s: sslmode=%s sslrootcert=%s", test.dsn, c.PQ.SSLMode, c.PQ.SSLRootCert)
		}
		checkRoundTrip(t, c)
	}
}

func TestTheEnvironmentTakesPart(t *testing.T) {
	tests := map[string]struct {
		env              map[string]string
		dsn, key, reason string
		check            func(*Config) bool
	}{
		"an unknown variable":          {env: map[string]string{"PGPOOLED_MAX_OPEN_CONN": "5"}, key: "PGPOOLED_MAX_OPEN_CONN", reason: "did you mean PGPOOLED_MAX_OPEN_CONNS?"},
		"an alias":                     {env: map[string]string{"PGPOOLED_CONNECTION_LIMIT": "5"}, key: "PGPOOLED_CONNECTION_LIMIT", reason: "use PGPOOLED_MAX_OPEN_CONNS"},
		"a variable of the tests":      {env: map[string]string{"PGPOOLED_TEST_STRESS": "5m"}, check: func(*Config) bool { return true }},
		"libpq's connect timeout":      {env: map[string]string{"PGCONNECT_TIMEOUT": "3"}, check: func(c *Config) bool { return c.ConnectTimeout == 3*time.Second }},
		"libpq's connect timeout of 0": {env: map[string]string{"PGCONNECT_TIMEOUT": "0"}, check: func(c *Config) bool { return c.ConnectTimeout == 0 }},
		"ours before libpq's": {env: map[string]string{"PGCONNECT_TIMEOUT": "3", "PGPOOLED_CONNECT_TIMEOUT": "4"},
			check: func(c *Config) bool {
				return c.ConnectTimeout == 4*time.Second && strings.Contains(c.PlainDSN(), "connect_timeout=4")
			}},
		"the DSN before both": {env: map[string]string{"PGCONNECT_TIMEOUT": "3", "PGPOOLED_CONNECT_TIMEOUT": "4"}, dsn: "connect_timeout=1500ms",
			check: func(c *Config) bool {
				return c.ConnectTimeout == 1500*time.Millisecond && strings.Contains(c.PlainDSN(), "connect_timeout=2")
			}},
		"a wrong connect timeout":       {env: map[string]string{"PGCONNECT_TIMEOUT": "3s"}, key: "PGCONNECT_TIMEOUT", reason: "whole number of seconds"},
		"channel binding":               {env: map[string]string{"PGCHANNELBINDING": "require"}, key: "PGCHANNELBINDING", reason: "PGPOOLED_CHANNEL_BINDING"},
		"GSS encryption":                {env: map[string]string{"PGGSSENCMODE": "disable"}, key: "PGGSSENCMODE", reason: "unset it"},
		"a wrong sslmode":               {env: map[string]string{"PGSSLMODE": "secret"}, key: "PGSSLMODE", reason: "must be one of"},
		"an empty port":                 {env: map[string]string{"PGPORT": ""}, key: "PGPORT", reason: "empty"},
		"Kerberos without its provider": {env: map[string]string{"PGKRBSRVNAME": "x"}, key: "PGKRBSRVNAME", reason: "unset it"},
		"an unknown service":            {env: map[string]string{"PGSERVICE": "nobody"}, key: "PGSERVICE", reason: "unset it"},
		"a list of hosts to be mixed":   {env: map[string]string{"PGHOST": "a,b"}, dsn: "host=c", key: "PGHOST", reason: "mix"},
		"our channel binding":           {env: map[string]string{"PGPOOLED_CHANNEL_BINDING": "require"}, dsn: "host=h", check: func(c *Config) bool { return c.PQ.SSLRootCert == "system" }},
		"binding against PGSSLMODE":     {env: map[string]string{"PGSSLMODE": "disable"}, dsn: "host=h channel_binding=require", key: "channel_binding and sslmode", reason: "TLS"},
		"everything from the environment": {env: map[string]string{"PGHOST": "h", "PGUSER": "u", "PGPASSWORD": "secret", "PGDATABASE": "d", "PGPOOLED_MAX_OPEN_CONNS": "3"},
			check: func(c *Config) bool {
				return c.PQ.Host == "h" && c.PQ.Password == "secret" && c.MaxOpenConns == 3 && !strings.Contains(c.FormatDSN()+c.String(), "secret")
			}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			clearEnv(t)
			for k, v := range test.env {
				t.Setenv(k, v)
			}
			c, err := ParseDSN(test.dsn)
			if test.check == nil {
				wantDSNError(t, err, test.key, test.reason)
				return
			}
			if err != nil || !test.check(c) {
				t.Fatalf("%v %v", c, err)
			}
			checkRoundTrip(t, c)
		})
	}
}

func TestAServiceFileTakesPart(t *testing.T) {
	clearEnv(t)
	file := t.TempDir() + "/services"
	if err := os.WriteFile(file, []byte("[shop]\nhost=db\nuser=u\nconnect_timeout=7\nsslmode=disable\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGSERVICEFILE", file)
	c := mustParse(t, "service=shop max_open_conns=4")
	if c.PQ.Host != "db" || c.ConnectTimeout != 7*time.Second || c.PQ.ConnectTimeout != 0 {
		t.Errorf("%v", c)
	}
	checkRoundTrip(t, c)
	_, err := ParseDSN("service=shop channel_binding=require sslrootcert=ca.pem")
	wantDSNError(t, err, "channel_binding and service", "lowers sslmode")
}

func TestNotices(t *testing.T) {
	clearEnv(t)
	c := mustParse(t, "postgres://u:pw@h/d?supa=s3cr3t&retry_mode=all&socket_timeout=5&commit_check=xid&statement_cache_capacity=3&gssencmode=prefer&sslcompression=0")
	want := []string{"supa", "gssencmode"}
	var got []string
	for _, n := range c.Notices() {
		got = append(got, strings.Fields(n)[0])
		if strings.Contains(n, "s3cr3t") {
			t.Errorf("%q has a value", n)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", c.Notices())
	}
	if c.CommitCheck != CommitCheckOn {
		t.Errorf("xid is %s", c.CommitCheck)
	}
}

func TestAChangedConfig(t *testing.T) {
	clearEnv(t)
	for _, dsn := range []string{"postgres://u:pw@h:1/d?sslmode=disable&work_mem=1MB&schema=app", "user=u password=pw host=a,b dbname=d"} {
		c := mustParse(t, dsn)
		d := c.Clone()
		if !sameConfig(c, d) {
			t.Error("a clone differs")
		}
		d.MaxOpenConns, d.PoolName, d.PQ.Password, d.PQ.Host, d.PQ.SSLMode = 0, "jobs", "n'ew /@", "other", "verify-full"
		d.PQ.Runtime["work_mem"] = "2MB"
		d.PQ.SSLInline = true
		if c.PQ.Runtime["work_mem"] == "2MB" || c.PQ.Password != "pw" {
			t.Error("a clone shares its original's")
		}
		again := mustParse(t, d.FormatDSN())
		if again.MaxOpenConns != 0 || again.PoolName != "jobs" || again.PQ.Password != "n'ew /@" || again.PQ.Host != "other" ||
			again.PQ.SSLMode != "verify-full" || again.PQ.Runtime["work_mem"] != "2MB" || !again.PQ.SSLInline || again.Schema != c.Schema || len(again.PQ.Multi) != len(c.PQ.Multi) {
			t.Errorf("FormatDSN of a changed Config: %s", d.FormatDSN())
		}
		for _, text := range []string{d.String(), fmt.Sprint(d), fmt.Sprintf("%+v %#v %v", d, *d, *d)} {
			if strings.Contains(text, "ew /@") {
				t.Errorf("%q has the password", text)
			}
		}
		d.PQ.ConnectTimeout = time.Second
		wantDSNError(t, d.Validate(), "connect_timeout", "Config.ConnectTimeout")
	}
	c := mustParse(t, "schema=app")
	c.Schema = "other"
	wantDSNError(t, c.Validate(), "schema", "search_path")
	c = mustParse(t, "")
	c.PQ.Runtime["pool_max_conns"] = "1"
	wantDSNError(t, c.Validate(), "max_open_conns", "PQ.Runtime")
	c = mustParse(t, "")
	c.RetryMode = "sometimes"
	wantDSNError(t, c.Validate(), "retry_mode", "off, connect, safe, all")
	c.RetryMode, c.PoolTimeout = RetryOff, -1
	wantDSNError(t, c.Validate(), "pool_timeout", "must be a duration")
}
