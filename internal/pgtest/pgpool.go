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
)

// Pgpool is a running pgpool-II before a Server. It listens on 127.0.0.1 only
// and leaves authentication to the server.
type Pgpool struct {
	s         *Server
	bin, dir  string
	port, pcp int
	proc      *process
}

// StartPgpool starts a pgpool-II before s and waits until it takes connections.
// children is num_init_children, how many clients it serves at a time; one more
// gets an error.
func StartPgpool(ctx context.Context, s *Server, children int) (*Pgpool, error) {
	bin, err := findPooler("pgpool", "proxies")
	if err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		p := &Pgpool{s: s, bin: bin}
		p.port, err = freePort()
		if err == nil {
			p.pcp, err = freePort()
		}
		if err == nil {
			err = p.configure(children)
		}
		if err == nil {
			err = p.Up(ctx)
		}
		if err == nil {
			return p, nil
		}
		_ = p.Stop()
		if !errors.Is(err, errPortTaken) || try == 20 {
			return nil, err
		}
	}
}

func (p *Pgpool) path(name string) string { return filepath.Join(p.dir, name) }

func (p *Pgpool) configure(children int) (err error) {
	if p.dir, err = os.MkdirTemp(p.s.dir, "pgpool-"); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	conf := fmt.Sprintf(`backend_clustering_mode = 'raw'
listen_addresses = '127.0.0.1'
port = %d
socket_dir = '%[2]s'
pcp_listen_addresses = '127.0.0.1'
pcp_port = %[3]d
pcp_socket_dir = '%[2]s'
pid_file_name = '%[2]s/pid'
logdir = '%[2]s'
pool_passwd = ''
enable_pool_hba = off
num_init_children = %[4]d
reserved_connections = 1
backend_hostname0 = '127.0.0.1'
backend_port0 = %[5]d
backend_flag0 = 'DISALLOW_TO_FAILOVER'
`, p.port, p.dir, p.pcp, children+1, p.s.port)
	for name, text := range map[string]string{"pgpool.conf": conf, "pcp.conf": "", "pool_hba.conf": ""} {
		err = errors.Join(err, os.WriteFile(p.path(name), []byte(text), 0o600), p.s.owner.chown(p.path(name)))
	}
	if err = errors.Join(err, p.s.owner.chown(p.dir)); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	return nil
}

// Up starts it, also again on the same port after Kill, and waits until it takes
// connections.
func (p *Pgpool) Up(ctx context.Context) error {
	log, err := os.Create(p.path("log"))
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(p.bin, "-n", "-D", "-f", p.path("pgpool.conf"), "-F", p.path("pcp.conf"), "-a", p.path("pool_hba.conf"))
	cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.Env = log, log, p.dir, serverEnv()
	if p.proc, err = spawn(cmd, p.s.owner); err != nil {
		return fmt.Errorf("pgtest: start %s: %w", p.bin, err)
	}
	return awaitListener(ctx, p.proc, "pgpool-II", p.Addr(), p.Log)
}

// Log is what it has printed since it was last started.
func (p *Pgpool) Log() string {
	out, _ := os.ReadFile(p.path("log"))
	return string(out)
}

// Addr is where it listens, 127.0.0.1:port.
func (p *Pgpool) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)) }

// DSN is Server.DSN through the pgpool-II.
func (p *Pgpool) DSN(kv ...string) string {
	return p.s.DSN(append([]string{"port", strconv.Itoa(p.port), "sslmode", "disable"}, kv...)...)
}

// Kill ends all of its processes at once.
func (p *Pgpool) Kill() {
	p.proc.kill()
	_ = os.Remove(p.path("pid")) // or it refuses to start again
}

// Stop ends it and removes its directory.
func (p *Pgpool) Stop() error {
	return killAndRemove(p.proc, p.dir)
}

// PgpoolT starts a pgpool-II for a test and stops it at the end. Where there is
// none the test fails: a skip would pass for a success.
func PgpoolT(t TB, s *Server, children int) *Pgpool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	p, err := StartPgpool(ctx, s, children)
	if err != nil {
		t.Fatalf("no pgpool-II for this test: %v", err)
	}
	stopAtEnd(t, "pgpool-II", p.Log, p.Stop)
	return p
}
