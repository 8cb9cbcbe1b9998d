package pgpooled_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled/internal/cutmatrix"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// Behind HAProxy the pool knows one host; HAProxy asks an agent beside each
// server which one is the primary, as Patroni's users have it.
func TestBehindHAProxyAFailoverIsFollowed(t *testing.T) {
	needsProxies(t)
	for _, sync := range []bool{false, true} {
		for _, noticed := range []time.Duration{0, 2 * time.Second} {
			primary, standby := pgtest.PairT(t, pgtest.Options{})
			if sync {
				if err := primary.Synchronous(testContext(t)); err != nil {
					t.Fatal(err)
				}
			}
			port := startHAProxy(t, primary, standby)
			name := app()
			db := openWith(t, primary.DSN("port", port, "application_name", name, "target_session_attrs", "read-write"))
			r, err := cutmatrix.Failover(testContext(t), primary, standby, noticed, db, name, says)
			if err != nil {
				t.Fatal(err)
			}
			checkFailover(t, r, sync)
		}
	}
}

// PgBouncer keeps its clients' connections when its server becomes a standby.
func TestBehindPgBouncerADemotedServerIsLeft(t *testing.T) {
	needsProxies(t)
	for what, write := range plainWrites {
		primary, standby, _ := newPair(t)
		ports := transactionPooler(t, primary) + "," + transactionPooler(t, standby)
		log := &journal{}
		db := openWith(t, primary.DSN("host", "127.0.0.1,127.0.0.1", "port", ports, "target_session_attrs", "read-write", "pgbouncer", "true"), log.option())
		mustExec(t, db, "insert into t values (1)")
		if err := primary.Down("fast"); err != nil {
			t.Fatal(err)
		}
		if err := standby.Promote(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if err := primary.Follow(testContext(t), standby); err != nil {
			t.Fatal(err)
		}
		if err := write(testContext(t), db); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		eventually(t, "the demotion is logged", func() bool { return log.count("not a primary any more") > 0 })
		if s := stats(t, db); s.Demotions != 1 || log.count("not a primary any more") != 1 {
			t.Errorf("%s: %+v\n%s", what, s, log)
		}
		if n := queryInt(t, standby.Admin(), "select count(*) from t"); n != 2 {
			t.Errorf("%s: %d rows", what, n)
		}
	}
}

// transactionPooler returns the port of a PgBouncer.
func transactionPooler(t *testing.T, s *pgtest.Server) string {
	t.Helper()
	o := pgtest.BouncerOptions{Mode: "transaction", Size: 20, Params: map[string]string{"server_login_retry": "0.1"}}
	return fmt.Sprint(pgtest.BouncerT(t, s, o).Port())
}

func needsProxies(t *testing.T) {
	t.Helper()
	if !long {
		t.Skip("with PGPOOLED_TEST_LONG=1 only; make proxies installs what it needs and runs it")
	}
}

// program starts a proxy that was installed and ends it with the test, when it
// takes connections on the port.
func program(t *testing.T, port, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"} {
		if err == nil {
			break
		}
		path, err = exec.LookPath(filepath.Join(dir, name))
	}
	if err != nil {
		t.Fatalf("no %s: run `make proxies`, which installs it", name)
	}
	var out bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s says:\n%s", name, &out)
		}
	})
	eventually(t, name+" listens", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
}

// configuration writes a file where the account of a proxy can read it.
func configuration(t *testing.T, name, text string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgpooled-proxy-") // t.TempDir is for our account only
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the configuration has no secret
		t.Fatal(err)
	}
	return path
}

// startHAProxy returns its port.
func startHAProxy(t *testing.T, servers ...*pgtest.Server) string {
	t.Helper()
	port := freePort(t)
	var conf strings.Builder
	fmt.Fprintf(&conf, `defaults
  mode tcp
  timeout connect 2s
  timeout client 1m
  timeout server 1m
  timeout check 5s
listen pg
  bind 127.0.0.1:%s
  option httpchk GET /primary
  http-check expect status 200
  default-server inter 50ms fall 1 rise 1 on-marked-down shutdown-sessions
`, port)
	for i, s := range servers {
		agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), 4*time.Second)
			defer cancel()
			var recovering bool
			err := s.Admin().QueryRowContext(ctx, "select pg_is_in_recovery()").Scan(&recovering)
			if err != nil || recovering {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
		t.Cleanup(agent.Close)
		_, agentPort, _ := net.SplitHostPort(agent.Listener.Addr().String())
		fmt.Fprintf(&conf, "  server s%d %s check port %s\n", i, s.Addr(), agentPort)
	}
	program(t, port, "haproxy", "-db", "-f", configuration(t, "haproxy.cfg", conf.String()))
	return port
}
