package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// BouncerOptions describe a PgBouncer. The zero value is one in session mode.
type BouncerOptions struct {
	Mode string // pool_mode: "session" (empty means that), "transaction" or "statement"
	Size int    // default_pool_size: server connections per user and database, 1 if zero
}

// Bouncer is a running PgBouncer before a Server. It listens on 127.0.0.1 only,
// trusts user postgres, takes plain connections and, if the server was made
// with Options.TLS, TLS with the server's certificate.
type Bouncer struct {
	s    *Server
	dir  string
	port int
	proc *process
}

// StartBouncer starts a PgBouncer before s and waits until it takes connections.
func StartBouncer(ctx context.Context, s *Server, o BouncerOptions) (*Bouncer, error) {
	bin, err := findBouncer()
	if err != nil {
		return nil, err
	}
	if o.Mode == "" {
		o.Mode = "session"
	}
	for try := 0; ; try++ {
		b := &Bouncer{s: s}
		if b.port, err = freePort(); err == nil {
			err = b.launch(ctx, bin, o)
		}
		if err == nil {
			return b, nil
		}
		_ = b.Stop()
		if !errors.Is(err, errPortTaken) || try == 20 {
			return nil, err
		}
	}
}

// findBouncer looks in the PATH and in the folders that a user's PATH often
// lacks, as scripts/install.sh does.
func findBouncer() (string, error) {
	for _, dir := range []string{"", "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"} {
		if bin, err := exec.LookPath(filepath.Join(dir, "pgbouncer")); err == nil {
			return filepath.Abs(bin)
		}
	}
	return "", errors.New("pgtest: no PgBouncer found: run `make pgbouncer`, which installs one")
}

func (b *Bouncer) launch(ctx context.Context, bin string, o BouncerOptions) (err error) {
	if b.dir, err = os.MkdirTemp(b.s.dir, "bouncer-"); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	users, ini := filepath.Join(b.dir, "users.txt"), filepath.Join(b.dir, "pgbouncer.ini")
	conf := fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = trust
auth_file = %s
pool_mode = %s
default_pool_size = %d
max_client_conn = 200
ignore_startup_parameters = extra_float_digits
server_tls_sslmode = disable
`, b.s.port, b.port, users, o.Mode, max(o.Size, 1))
	if b.s.opts.TLS {
		conf += fmt.Sprintf("client_tls_sslmode = allow\nclient_tls_key_file = %s\nclient_tls_cert_file = %s\n",
			b.s.path("server.key"), b.s.path("server.crt"))
	}
	err = errors.Join(os.WriteFile(users, []byte("\"postgres\" \"\"\n"), 0o600), os.WriteFile(ini, []byte(conf), 0o600))
	for _, f := range []string{b.dir, users, ini} {
		err = errors.Join(err, b.s.owner.chown(f))
	}
	log, lerr := os.Create(filepath.Join(b.dir, "log"))
	if err = errors.Join(err, lerr); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(bin, ini)
	cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.Env = log, log, b.dir, serverEnv()
	if b.proc, err = spawn(cmd, b.s.owner); err != nil {
		return fmt.Errorf("pgtest: start %s: %w", bin, err)
	}
	return b.awaitReady(ctx)
}

func (b *Bouncer) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := net.Dial("tcp4", b.Addr()); err == nil {
			return c.Close()
		}
		select {
		case <-tick.C:
		case <-b.proc.done:
			out, _ := os.ReadFile(filepath.Join(b.dir, "log"))
			if strings.Contains(string(out), "in use") {
				return fmt.Errorf("%w; PgBouncer says:\n%s", errPortTaken, out)
			}
			return fmt.Errorf("pgtest: PgBouncer ended (%v); it says:\n%s", b.proc.err, out)
		case <-ctx.Done():
			return fmt.Errorf("pgtest: PgBouncer is not ready: %w", ctx.Err())
		}
	}
}

// Addr is where it listens, 127.0.0.1:port.
func (b *Bouncer) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(b.port)) }

// DSN is Server.DSN through the PgBouncer.
func (b *Bouncer) DSN(kv ...string) string {
	return b.s.DSN(append([]string{"port", strconv.Itoa(b.port)}, kv...)...)
}

// Stop ends it and removes its directory.
func (b *Bouncer) Stop() error {
	if b.proc != nil {
		b.proc.kill()
	}
	if b.dir == "" {
		return nil
	}
	return removeAll(b.dir)
}

// BouncerT starts a PgBouncer for a test and stops it at the end. Where there is
// none the test fails: a skip would pass for a success.
func BouncerT(t TB, s *Server, o BouncerOptions) *Bouncer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	b, err := StartBouncer(ctx, s, o)
	if err != nil {
		t.Fatalf("no PgBouncer for this test: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Stop(); err != nil {
			t.Logf("%v", err)
		}
	})
	return b
}
