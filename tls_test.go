package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// major is the server's version: 14, 18.
func major(t *testing.T) int {
	t.Helper()
	return queryInt(t, server.Admin(), "select current_setting('server_version_num')::int / 10000")
}

// negotiations are the ways into TLS that this server knows.
func negotiations(t *testing.T) []string {
	t.Helper()
	if major(t) < 17 {
		return []string{"postgres"}
	}
	return []string{"postgres", "direct"}
}

// Everything at once over each version of TLS: a verified certificate, SCRAM, a
// cancel request, and a session that the server ends while it is idle.
func TestEachVersionOfTLSCarriesCancelRequestsAndShowsDeadSessions(t *testing.T) {
	t.Parallel()
	for version, setting := range map[string]string{
		"TLSv1.2": "ssl_max_protocol_version",
		"TLSv1.3": "ssl_min_protocol_version",
	} {
		s := pgtest.StartT(t, pgtest.Options{TLS: true, Password: "right", Params: map[string]string{setting: version}})
		for _, negotiation := range negotiations(t) {
			t.Run(version+" "+negotiation, func(t *testing.T) {
				db, _ := openOn(t, s, "sslmode", "verify-full", "sslrootcert", s.CACert(), "sslnegotiation", negotiation, "cancel_grace", "30s")
				var got string
				err := db.QueryRow("select version from pg_stat_ssl where pid = pg_backend_pid()").Scan(&got)
				if err != nil || got != version {
					t.Fatalf("the server says %q, %v", got, err)
				}
				wantCancelled(t, s, db)
				wantDeadNoticed(t, s, db)
			})
		}
	}
}

// wantCancelled: the server's own answer to a cancel request comes back.
func wantCancelled(t *testing.T, s *pgtest.Server, db *sql.DB) {
	t.Helper()
	conn, err := db.Conn(testContext(t))
	must(t, err)
	defer conn.Close()
	pid := queryInt(t, conn, "select pg_backend_pid()")
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() {
		_, err := conn.ExecContext(ctx, "select pg_sleep(60)")
		done <- err
	}()
	eventually(t, "the statement runs", func() bool {
		return queryInt(t, s.Admin(), "select count(*) from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'", pid) == 1
	})
	cancel()
	err = <-done
	var answer *pq.Error
	if !errors.As(err, &answer) || answer.Code != "57014" || !errors.Is(err, context.Canceled) {
		t.Errorf("no cancel request reached the server: %v", err)
	}
}

func wantDeadNoticed(t *testing.T, s *pgtest.Server, db *sql.DB) {
	t.Helper()
	pid := rest(t, db, 1)[0]
	before := stats(t, db)
	mustExec(t, s.Admin(), "select pg_terminate_backend($1, 5000)", pid)
	if _, err := db.Exec("create temp table t (i int)"); err != nil { // not a reader: nothing repeats it
		t.Errorf("a dead session was handed out: %v", err)
	}
	if now := stats(t, db); now.ClosedDead != before.ClosedDead+1 {
		t.Errorf("%d found dead, want 1", now.ClosedDead-before.ClosedDead)
	}
}

// A longer cancel key came with protocol 3.2 (PostgreSQL 18).
func TestProtocol32CancelsWhereTheServerHasItAndIsRefusedAtOnceElsewhere(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"disable", "require"} {
		for _, most := range []string{"3.0", "3.2", "latest"} { // the server answers with what it has
			wantCancelled(t, server, open(t, "sslmode", mode, "max_protocol_version", most, "cancel_grace", "30s"))
		}
		m := &meter{}
		db := openWith(t, server.DSN("application_name", app(), "sslmode", mode, "min_protocol_version", "3.2", "max_protocol_version", "3.2",
			"pool_timeout", "30s", "cancel_grace", "30s"), pgpooled.WithDialer(m))
		err := db.Ping()
		if major(t) >= 18 {
			must(t, err)
			wantCancelled(t, server, db)
			wantDeadNoticed(t, server, db)
			continue
		}
		if err == nil || m.begun() != 1 || !strings.Contains(err.Error(), "min_protocol_version=3.2") {
			t.Errorf("sslmode=%s: %d dials, %v", mode, m.begun(), err)
		}
	}
}

// An older server reads the beginning of TLS as garbage and hangs up; so does a
// newer one if the protocol is not named in it (lib/pq 1.12.3 does not).
func TestDirectTLSWorksOrSaysWhichServerItNeeds(t *testing.T) {
	t.Parallel()
	direct := []string{"sslnegotiation", "direct", "pool_timeout", "500ms", "application_name", app()}
	for _, mode := range []string{"require", "verify-ca", "verify-full"} {
		kv := append([]string{"sslmode", mode, "sslrootcert", server.CACert()}, direct...)
		for _, kv := range [][]string{kv, append([]string{"sslsni", "0"}, kv...), {"sslmode", "require"}, {"sslmode", "require", "sslrootcert", "/nowhere/ca.crt"}} {
			kv = append(kv, direct...)
			err := openWith(t, server.DSN(kv...)).Ping()
			if major(t) >= 17 {
				if err != nil {
					t.Errorf("%v: %v", kv, err)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), "sslnegotiation=direct needs PostgreSQL 17") || pgpooled.HealthReason(err) != "lost" {
				t.Errorf("%v: %s: %v", kv, pgpooled.HealthReason(err), err)
			}
		}
	}
}

// What each sslmode verifies, with and without a negotiation before TLS. A
// certificate that is refused does not get better: one dial, and no wait.
func TestCertificatesAreRefusedAtOnceByTheModesThatVerify(t *testing.T) {
	t.Parallel()
	good := pgtest.StartT(t, pgtest.Options{TLS: true, Password: "s3cret-p4ss"})
	expired := pgtest.StartT(t, pgtest.Options{TLS: true, Password: "s3cret-p4ss", CertExpired: true})
	for _, tt := range []struct {
		name    string
		s       *pgtest.Server
		host    string
		root    string
		refuses map[string]string // sslmode: what the error says
	}{
		{"a good one", good, "localhost", good.CACert(), nil},
		{"another host's", good, "db.example.com", good.CACert(), map[string]string{"verify-full": "not db.example.com"}},
		{"of another CA", good, "localhost", expired.CACert(), map[string]string{"require": "unknown authority", "verify-ca": "unknown authority", "verify-full": "unknown authority"}},
		{"of the system's CAs", good, "localhost", "system", map[string]string{"verify-full": "unknown authority"}},
		{"expired", expired, "localhost", expired.CACert(), map[string]string{"require": "expired", "verify-ca": "expired", "verify-full": "expired"}},
		{"any", expired, "db.example.com", "", map[string]string{"verify-ca": "expired", "verify-full": "not db.example.com"}},
	} {
		for _, mode := range []string{"require", "verify-ca", "verify-full"} {
			for _, negotiation := range negotiations(t) {
				if tt.root == "system" && mode != "verify-full" {
					continue // refused by the parser
				}
				name := tt.name + ", sslmode=" + mode + ", " + negotiation
				m := &meter{dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, tt.s.Addr())
				}}
				db := openWith(t, tt.s.DSN("host", tt.host, "application_name", app(), "sslmode", mode, "sslrootcert", tt.root,
					"sslnegotiation", negotiation, "pool_timeout", "30s"), pgpooled.WithDialer(m))
				err := db.Ping()
				want := tt.refuses[mode]
				if want == "" {
					if err != nil {
						t.Errorf("%s: %v", name, err)
					}
					continue
				}
				if err == nil || m.begun() != 1 || pgpooled.HealthReason(err) != "tls" || !strings.Contains(err.Error(), want) && tt.root != "" {
					t.Errorf("%s: %d dials, %q: %v", name, m.begun(), pgpooled.HealthReason(err), err)
				} else if strings.Contains(err.Error(), "s3cret") {
					t.Errorf("%s: the password is in %v", name, err)
				}
				if m.opened() != 0 {
					t.Errorf("%s leaves %d sockets", name, m.opened())
				}
			}
		}
	}
}

// libpq's rule, for both ways into TLS: with root.crt in the home directory,
// require verifies who signed the certificate.
func TestRequireVerifiesAgainstTheRootCertificateOfTheHomeDirectory(t *testing.T) {
	foreign := pgtest.StartT(t, pgtest.Options{TLS: true})
	for ca, good := range map[*pgtest.Server]bool{server: true, foreign: false} {
		home := t.TempDir()
		must(t, os.Mkdir(home+"/.postgresql", 0o700))
		pem, err := os.ReadFile(ca.CACert())
		must(t, err)
		must(t, os.WriteFile(home+"/.postgresql/root.crt", pem, 0o600))
		t.Setenv("HOME", home)
		for _, negotiation := range negotiations(t) {
			err := openWith(t, server.DSN("application_name", app(), "sslmode", "require", "sslnegotiation", negotiation, "retry_mode", "off")).Ping()
			if good && err != nil || !good && (err == nil || !strings.Contains(err.Error(), "unknown authority")) {
				t.Errorf("%s, the server's own CA %v: %v", negotiation, good, err)
			}
		}
	}
}

func TestAVersionOfTLSThatTheServerDoesNotHaveIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	for setting, version := range map[string]string{"ssl_max_protocol_version": "TLSv1.2", "ssl_min_protocol_version": "TLSv1.3"} {
		s := pgtest.StartT(t, pgtest.Options{TLS: true, Params: map[string]string{setting: version}})
		demand := map[string][2]string{
			"TLSv1.2": {"ssl_min_protocol_version", "TLSv1.3"},
			"TLSv1.3": {"ssl_max_protocol_version", "TLSv1.2"},
		}[version]
		for _, negotiation := range negotiations(t) {
			m := &meter{}
			db := openWith(t, s.DSN("application_name", app(), "sslnegotiation", negotiation, "pool_timeout", "30s", demand[0], demand[1]), pgpooled.WithDialer(m))
			if err := db.Ping(); err == nil || m.begun() != 1 || pgpooled.HealthReason(err) != "tls" || !strings.Contains(err.Error(), "protocol version") {
				t.Errorf("%s only, %s: %d dials, %q: %v", version, negotiation, m.begun(), pgpooled.HealthReason(err), err)
			}
		}
	}
}
