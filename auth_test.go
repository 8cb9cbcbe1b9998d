package pgpooled_test

import (
	"os"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// A wrong password does not get better: one attempt, the server's own error,
// nothing secret in it.
func TestPasswordsByEachMethod(t *testing.T) {
	t.Parallel()
	for method, setting := range map[string]string{"scram-sha-256": "scram-sha-256", "md5": "md5", "password": "scram-sha-256"} {
		s := pgtest.StartT(t, pgtest.Options{TLS: true, Password: "r1ght-secret", HBA: []string{"host all all 127.0.0.1/32 " + method},
			Params: map[string]string{"password_encryption": setting}})
		kind := map[string]string{"scram-sha-256": "SCRAM-SHA-256$", "md5": "md5"}[setting]
		if queryInt(t, s.Admin(), "select count(*) from pg_authid where rolname = 'postgres' and starts_with(rolpassword, $1)", kind) != 1 {
			t.Errorf("%s: the password is not stored as %s", method, setting)
		}
		for _, mode := range []string{"disable", "require"} {
			if err := openWith(t, s.DSN("application_name", app(), "sslmode", mode)).Ping(); err != nil {
				t.Errorf("%s, sslmode=%s: %v", method, mode, err)
			}
			m := &meter{}
			db := openWith(t, s.DSN("application_name", app(), "sslmode", mode, "password", "wr0ng-secret", "pool_timeout", "30s"), pgpooled.WithDialer(m))
			err := db.Ping()
			if answer, ok := err.(*pq.Error); !ok || answer.Code != "28P01" || m.begun() != 1 || pgpooled.HealthReason(err) != "auth" {
				t.Errorf("%s, sslmode=%s: %d dials, %T %v", method, mode, m.begun(), err, err)
			} else if strings.Contains(err.Error(), "secret") {
				t.Errorf("%s, sslmode=%s: the password is in %v", method, mode, err)
			}
			if m.opened() != 0 {
				t.Errorf("%s, sslmode=%s: %d sockets are left", method, mode, m.opened())
			}
		}
	}
}

// lib/pq cannot bind channels: what channel_binding=require gives instead is a
// server whose certificate was verified before the password is used.
func TestChannelBindingIsMetByAVerifiedCertificate(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{TLS: true, Password: "r1ght-secret"})
	plain := pgtest.StartT(t, pgtest.Options{Password: "r1ght-secret"})
	for name, tt := range map[string]struct {
		dsn string
		ok  bool
	}{
		"the CA is known":      {s.DSN("sslmode", "require", "channel_binding", "require", "sslrootcert", s.CACert()), true},
		"the system's CAs":     {s.DSN("sslmode", "require", "channel_binding", "require"), false},
		"another host's name":  {s.DSN("host", "127.0.0.2", "hostaddr", "127.0.0.1", "sslmode", "require", "channel_binding", "require", "sslrootcert", s.CACert()), false},
		"a server without TLS": {plain.DSN("sslmode", "require", "channel_binding", "require"), false},
	} {
		m := &meter{}
		err := openWith(t, tt.dsn+" pool_timeout=30s", pgpooled.WithDialer(m)).Ping()
		if (err == nil) != tt.ok || m.begun() != 1 || !tt.ok && pgpooled.HealthReason(err) != "tls" {
			t.Errorf("%s: %d dials, %v", name, m.begun(), err)
		}
	}
	for _, s := range []*pgtest.Server{s, plain} {
		log, err := os.ReadFile(s.LogPath())
		if err != nil || strings.Contains(string(log), "authentication failed") {
			t.Errorf("a password was tried on a server that was not verified: %v\n%s", err, log)
		}
	}
}

func TestAClientsCertificateIsEnoughAndItsLackIsPermanent(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{TLS: true, Clients: true, HBA: []string{"hostssl all all 127.0.0.1/32 cert"}})
	foreign := pgtest.StartT(t, pgtest.Options{TLS: true})
	cert, key := s.ClientCert()
	read := func(name string) string {
		b, err := os.ReadFile(name)
		must(t, err)
		return string(b)
	}
	for _, negotiation := range negotiations(t) {
		dsn := func(kv ...string) string {
			return s.DSN(append(kv, "application_name", app(), "pool_timeout", "30s", "sslmode", "verify-full", "sslnegotiation", negotiation)...)
		}
		for name, dsn := range map[string]string{
			"files":  dsn("sslrootcert", s.CACert(), "sslcert", cert, "sslkey", key),
			"inline": dsn("sslinline", "true", "sslrootcert", read(s.CACert()), "sslcert", read(cert), "sslkey", read(key)),
		} {
			db := openWith(t, dsn+" cancel_grace=30s")
			var who string
			if err := db.QueryRow("select client_dn from pg_stat_ssl where pid = pg_backend_pid()").Scan(&who); err != nil || who != "/CN=postgres" {
				t.Errorf("%s, %s: %q %v", name, negotiation, who, err)
				continue
			}
			wantCancelled(t, s, db)
		}
		m := &meter{}
		err := openWith(t, dsn("sslrootcert", s.CACert()), pgpooled.WithDialer(m)).Ping()
		if answer, ok := err.(*pq.Error); !ok || answer.Code != "28000" || m.begun() != 1 || pgpooled.HealthReason(err) != "auth" {
			t.Errorf("without one, %s: %d dials, %v", negotiation, m.begun(), err)
		}
		// With TLS 1.3 the client goes on before the server has looked, and may meet
		// a reset instead of the server's alert.
		theirs, theirKey := foreign.ClientCert()
		m = &meter{}
		err = openWith(t, dsn("sslrootcert", s.CACert(), "sslcert", theirs, "sslkey", theirKey, "ssl_max_protocol_version", "TLSv1.2"), pgpooled.WithDialer(m)).Ping()
		if err == nil || m.begun() != 1 || pgpooled.HealthReason(err) != "tls" {
			t.Errorf("another CA's, %s: %d dials, %q: %v", negotiation, m.begun(), pgpooled.HealthReason(err), err)
		}
	}
}
