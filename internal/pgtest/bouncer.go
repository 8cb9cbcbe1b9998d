package pgtest

import (
	"context"
	"database/sql"
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

	Params map[string]string // further settings
}

// Bouncer is a running PgBouncer before a Server. It listens on 127.0.0.1 only,
// trusts user postgres, takes plain connections and, if the server was made
// with Options.TLS, TLS with the server's certificate.
type Bouncer struct {
	s    *Server
	bin  string
	dir  string
	port int
	proc *process
}

// StartBouncer starts a PgBouncer before s and waits until it takes connections.
func StartBouncer(ctx context.Context, s *Server, o BouncerOptions) (*Bouncer, error) {
	bin, err := findPooler("pgbouncer", "pgbouncer")
	if err != nil {
		return nil, err
	}
	if o.Mode == "" {
		o.Mode = "session"
	}
	for try := 0; ; try++ {
		b := &Bouncer{s: s, bin: bin}
		if b.port, err = freePort(); err == nil {
			err = b.configure(o)
		}
		if err == nil {
			err = b.Up(ctx)
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

// findPooler looks in the PATH and in the folders that a user's PATH often
// lacks, as scripts/install.sh does.
func findPooler(name, target string) (string, error) {
	for _, dir := range []string{"", "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"} {
		if bin, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return filepath.Abs(bin)
		}
	}
	return "", fmt.Errorf("pgtest: no %s found: run `make %s`, which installs one", name, target)
}

func (b *Bouncer) configure(o BouncerOptions) (err error) {
	if b.dir, err = os.MkdirTemp(b.s.dir, "bouncer-"); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	users, ini := filepath.Join(b.dir, "users.txt"), b.ini()
	conf := fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = trust
auth_file = %s
admin_users = postgres
pool_mode = %s
default_pool_size = %d
max_client_conn = 200
server_tls_sslmode = disable
`, b.s.port, b.port, users, o.Mode, max(o.Size, 1))
	if b.s.opts.TLS {
		conf += fmt.Sprintf("client_tls_sslmode = allow\nclient_tls_key_file = %s\nclient_tls_cert_file = %s\n",
			b.s.path("server.key"), b.s.path("server.crt"))
	}
	for k, v := range o.Params {
		conf += k + " = " + v + "\n"
	}
	err = errors.Join(os.WriteFile(users, []byte("\"postgres\" \"\"\n"), 0o600), os.WriteFile(ini, []byte(conf), 0o600))
	for _, f := range []string{b.dir, users, ini} {
		err = errors.Join(err, b.s.owner.chown(f))
	}
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	return nil
}

func (b *Bouncer) ini() string { return filepath.Join(b.dir, "pgbouncer.ini") }

// Up starts it, also again on the same port after it has ended, and waits until
// it takes connections.
func (b *Bouncer) Up(ctx context.Context) error {
	log, err := os.Create(filepath.Join(b.dir, "log"))
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(b.bin, b.ini())
	cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.Env = log, log, b.dir, serverEnv()
	if b.proc, err = spawn(cmd, b.s.owner); err != nil {
		return fmt.Errorf("pgtest: start %s: %w", b.bin, err)
	}
	return b.awaitReady(ctx)
}

func (b *Bouncer) awaitReady(ctx context.Context) error {
	return awaitListener(ctx, b.proc, "PgBouncer", b.Addr(), b.Log)
}

// awaitListener waits until a pooler takes connections.
func awaitListener(ctx context.Context, proc *process, name, addr string, log func() string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := net.Dial("tcp4", addr); err == nil {
			return c.Close()
		}
		select {
		case <-tick.C:
		case <-proc.done:
			out := log()
			if strings.Contains(out, "in use") {
				return fmt.Errorf("%w; %s says:\n%s", errPortTaken, name, out)
			}
			return fmt.Errorf("pgtest: %s ended (%v); it says:\n%s", name, proc.err, out)
		case <-ctx.Done():
			return fmt.Errorf("pgtest: %s is not ready: %w", name, ctx.Err())
		}
	}
}

// Addr is where it listens, 127.0.0.1:port.
func (b *Bouncer) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(b.port)) }

// Port is where it listens.
func (b *Bouncer) Port() int { return b.port }

// Command has its console execute a command: PAUSE, RESUME, KILL, SHUTDOWN, ...
// One that ends the PgBouncer may end in an error.
func (b *Bouncer) Command(ctx context.Context, text string) error {
	db, err := sql.Open("postgres", b.s.DSN("port", strconv.Itoa(b.port), "dbname", "pgbouncer", "sslmode", "disable"))
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	defer db.Close()
	if _, err = db.ExecContext(ctx, text); err != nil {
		return fmt.Errorf("pgtest: PgBouncer: %s: %w", text, err)
	}
	return nil
}

// Log is what it has printed since it was last started.
func (b *Bouncer) Log() string {
	out, _ := os.ReadFile(filepath.Join(b.dir, "log"))
	return string(out)
}

// AwaitExit waits until it has ended by itself.
func (b *Bouncer) AwaitExit(ctx context.Context) error {
	select {
	case <-b.proc.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("pgtest: PgBouncer has not ended: %w", ctx.Err())
	}
}

// DSN is Server.DSN through the PgBouncer.
func (b *Bouncer) DSN(kv ...string) string {
	return b.s.DSN(append([]string{"port", strconv.Itoa(b.port)}, kv...)...)
}

// Stop ends it and removes its directory.
func (b *Bouncer) Stop() error {
	return killAndRemove(b.proc, b.dir)
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
	stopAtEnd(t, "PgBouncer", b.Log, b.Stop)
	return b
}

// stopAtEnd stops a pooler when the test is over, and shows what it said if the
// test failed.
func stopAtEnd(t TB, name string, log func() string, stop func() error) {
	t.Cleanup(func() {
		if f, ok := t.(interface{ Failed() bool }); ok && f.Failed() {
			t.Logf("%s says:\n%s", name, log())
		}
		if err := stop(); err != nil {
			t.Logf("%v", err)
		}
	})
}

// killAndRemove ends a process, if there is one, and removes its directory.
func killAndRemove(p *process, dir string) error {
	if p != nil {
		p.kill()
	}
	if dir == "" {
		return nil
	}
	return removeAll(dir)
}
