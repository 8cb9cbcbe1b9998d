// Package pgtest runs a real, throwaway PostgreSQL: for the tests and for the demo.
//
//	s, err := pgtest.Start(ctx, pgtest.Options{})
//	defer s.Stop()
//	db, err := sql.Open("pgpooled", s.DSN("max_open_conns", "10"))
//
// A server is a direct child of this process, listens on 127.0.0.1 and on a
// Unix socket only, keeps its data in memory where it can, syncs nothing to
// disk, and is gone with its directory after Stop. If this process is killed
// the server goes too; the directory is removed by the next Start.
//
// initdb runs once per user and PostgreSQL version. Its result is kept as one
// archive in the temporary directory, so that a start takes a tenth of a second.
package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options describe a server. The zero value is a plain one: no TLS, every
// connection trusted.
type Options struct {
	// TLS switches TLS on, with a throwaway CA (CACert) and a certificate for
	// localhost and 127.0.0.1. Plain connections are still accepted.
	TLS bool

	// CertExpired makes the server's certificate one that ran out yesterday.
	CertExpired bool

	// Clients asks clients for a certificate of the same CA; ClientCert is one.
	// Whether it must be there says HBA.
	Clients bool

	// HBA are lines for pg_hba.conf, before those that let everybody in.
	HBA []string

	// Params are settings for postgresql.conf, written last, so that they win:
	// with fsync on, Dir should be a folder on a disk.
	Params map[string]string

	// MaxConnections is max_connections, 200 if zero. PostgreSQL keeps
	// superuser_reserved_connections (3) of them for superusers; the user in
	// DSN is one.
	MaxConnections int

	// Dir is the folder in which the server's own directory is made. Empty
	// means /dev/shm if it is writable and roomy, else os.TempDir().
	Dir string

	// Password, if set, is the password of user postgres and is asked for
	// (SCRAM) on TCP. The Unix socket always trusts.
	Password string
}

// startLimit bounds one start, crash recovery included, if ctx does not.
const startLimit = 90 * time.Second

// Server is a running, or for the moment stopped, PostgreSQL. Its methods may
// be called from several goroutines; those that start and stop it take turns.
type Server struct {
	opts  Options
	bin   string
	dir   string // everything of this server
	sock  string // folder of the Unix socket, usually dir
	port  int
	owner *owner // whose process it is: nil for ourselves
	lock  *os.File
	admin *sql.DB
	pid   atomic.Int64

	mu      sync.Mutex // held for the whole of a start or a stop
	proc    *process   // guarded by mu, nil when down
	shm     string     // guarded by mu: System V segment that a kill left behind
	stopped bool       // guarded by mu
	stopErr error      // guarded by mu
}

// Start makes a server and waits until it takes connections.
func Start(ctx context.Context, o Options) (*Server, error) { return start(ctx, o, nil) }

// start makes a server with a new cluster, or with a copy of a primary's.
func start(ctx context.Context, o Options, primary *Server) (*Server, error) {
	if !supported {
		return nil, errors.New("pgtest: throwaway servers need Linux, macOS or FreeBSD; on Windows run the tests inside WSL")
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = 200
	}
	bin, err := findBinaries()
	if err != nil {
		return nil, err
	}
	own, err := serverOwner()
	if err != nil {
		return nil, err
	}
	s := &Server{opts: o, bin: bin, owner: own}
	if err := s.prepare(ctx, primary); err != nil {
		_ = s.Stop()
		return nil, err
	}
	if err := s.firstStart(ctx, primary == nil); err != nil {
		_ = s.Stop()
		return nil, err
	}
	return s, nil
}

// prepare fills the server's directory: data, configuration, certificates.
func (s *Server) prepare(ctx context.Context, primary *Server) error {
	parent := s.opts.Dir
	if parent == "" {
		parent = defaultParent()
	}
	sweepOnce(parent)
	parent, err := filepath.Abs(parent)
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	if s.dir, err = os.MkdirTemp(parent, dirPrefix); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	if s.lock, err = lockDir(s.dir); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	s.sock = s.dir
	if len(s.sock) > maxSocketDir {
		if s.sock, err = os.MkdirTemp("/tmp", "pgsock-"); err != nil {
			return fmt.Errorf("pgtest: %w", err)
		}
	}
	if primary == nil {
		err = unpackTemplate(ctx, s.bin, s.owner, s.dataDir())
	} else if err = s.owner.chown(s.dir); err == nil {
		err = s.copyFrom(ctx, primary)
	}
	if err != nil {
		return err
	}
	if s.opts.TLS {
		if err := writeCertificates(s.dir, s.opts.CertExpired); err != nil {
			return fmt.Errorf("pgtest: certificates: %w", err)
		}
	}
	if err := s.configure(); err != nil {
		return fmt.Errorf("pgtest: configuration: %w", err)
	}
	for _, f := range []string{s.dir, s.sock, s.path("server.key"), s.path("server.crt"), s.path("ca.crt")} {
		if err := s.owner.chown(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("pgtest: %w", err)
		}
	}
	return nil
}

// configure appends to postgresql.conf rather than using command line options,
// so that a test can still change a setting with ALTER SYSTEM and a restart.
func (s *Server) configure() error {
	var conf strings.Builder
	set := func(k, v string) {
		v = strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(v)
		fmt.Fprintf(&conf, "%s = '%s'\n", k, v)
	}
	conf.WriteString("\n")
	set("max_connections", strconv.Itoa(s.opts.MaxConnections))
	set("shared_buffers", "32MB")
	set("fsync", "off")
	set("full_page_writes", "off")
	set("min_wal_size", "16MB")
	set("max_wal_size", "256MB")
	set("checkpoint_timeout", "30min")
	// Segments under /dev/shm would outlive a server that is killed.
	set("dynamic_shared_memory_type", "mmap")
	set("password_encryption", "scram-sha-256")
	if s.opts.TLS {
		set("ssl", "on")
		set("ssl_cert_file", s.path("server.crt"))
		set("ssl_key_file", s.path("server.key"))
		if s.opts.Clients {
			set("ssl_ca_file", s.path("ca.crt"))
		}
	}
	for k, v := range s.opts.Params {
		set(k, v)
	}
	f, err := os.OpenFile(filepath.Join(s.dataDir(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(conf.String())
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	method := "trust"
	if s.opts.Password != "" {
		method = "scram-sha-256"
	}
	hba := "local all all trust\n" + strings.Join(append(s.opts.HBA, ""), "\n") + "host all all 127.0.0.1/32 " + method +
		"\nlocal replication all trust\nhost replication all 127.0.0.1/32 " + method + "\n"
	return os.WriteFile(filepath.Join(s.dataDir(), "pg_hba.conf"), []byte(hba), 0o600)
}

// firstStart looks for a port until one works and sets the password, unless the
// cluster is a copy, which has it.
func (s *Server) firstStart(ctx context.Context, own bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for try := 0; ; try++ {
		port, err := freePort()
		if err != nil {
			return fmt.Errorf("pgtest: no free port: %w", err)
		}
		s.port = port
		err = s.launchLocked(ctx)
		if err == nil {
			break
		}
		if !errors.Is(err, errPortTaken) || try == 20 {
			return err
		}
	}
	s.admin = s.openAdmin()
	if s.opts.Password == "" || !own {
		return nil
	}
	quoted := "'" + strings.ReplaceAll(s.opts.Password, "'", "''") + "'"
	if _, err := s.admin.ExecContext(ctx, "SET standard_conforming_strings = on; ALTER ROLE postgres PASSWORD "+quoted); err != nil {
		return errors.New("pgtest: could not set the password") // err could quote it
	}
	return nil
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Server) dataDir() string { return s.path("data") }

// BinDir is the folder of the server's programs. Some packages have fewer than
// others: initdb and postgres are always there.
func (s *Server) BinDir() string { return s.bin }

// DataDir is the server's data directory.
func (s *Server) DataDir() string { return s.dataDir() }

// LogPath is the file with everything that the server printed. It goes with
// the directory at Stop.
func (s *Server) LogPath() string { return s.path("log") }

// Addr is the TCP address, 127.0.0.1:port. It stays the same over restarts.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Port is the port of Addr.
func (s *Server) Port() int { return s.port }

// SocketDir is the folder of the Unix socket: the host of a DSN that uses it.
func (s *Server) SocketDir() string { return s.sock }

// CACert is the path of the CA certificate (PEM), empty without Options.TLS.
func (s *Server) CACert() string {
	if !s.opts.TLS {
		return ""
	}
	return s.path("ca.crt")
}

// ClientCert are the paths of a client's certificate (PEM) for user postgres,
// of the server's CA, and of its key.
func (s *Server) ClientCert() (cert, key string) { return s.path("client.crt"), s.path("client.key") }

// Pid is the postmaster's process id, 0 while the server is down.
func (s *Server) Pid() int { return int(s.pid.Load()) }

// settings are the connection parameters in the order in which DSN prints
// them. kv are pairs that replace or add; an empty value leaves a key out.
func (s *Server) settings(kv []string) [][2]string {
	if len(kv)%2 != 0 {
		panic("pgtest: DSN and URL take pairs of key and value")
	}
	mode := "disable"
	if s.opts.TLS {
		mode = "require"
	}
	out := [][2]string{
		{"host", "127.0.0.1"}, {"port", strconv.Itoa(s.port)}, {"user", "postgres"},
		{"password", s.opts.Password}, {"dbname", "postgres"}, {"sslmode", mode},
	}
next:
	for i := 0; i < len(kv); i += 2 {
		for j := range out {
			if out[j][0] == kv[i] {
				out[j][1] = kv[i+1]
				continue next
			}
		}
		out = append(out, [2]string{kv[i], kv[i+1]})
	}
	return out
}

// DSN is the key=value connection string of user postgres over TCP, without
// TLS unless Options.TLS (then sslmode=require). kv are pairs of key and value
// that replace or add, the empty value leaves a key out.
func (s *Server) DSN(kv ...string) string {
	var parts []string
	for _, p := range s.settings(kv) {
		if p[1] != "" {
			parts = append(parts, p[0]+"="+quoteValue(p[1]))
		}
	}
	return strings.Join(parts, " ")
}

func quoteValue(v string) string {
	if !strings.ContainsAny(v, " '\\\t\n\r\v\f") {
		return v
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'"
}

// URL is DSN as a postgres:// URL.
func (s *Server) URL(kv ...string) string {
	u := url.URL{Scheme: "postgres"}
	query := url.Values{}
	var host, port, user, password string
	for _, p := range s.settings(kv) {
		switch {
		case p[1] == "":
		case p[0] == "host" && !strings.HasPrefix(p[1], "/"):
			host = p[1]
		case p[0] == "port":
			port = p[1]
		case p[0] == "user":
			user = p[1]
		case p[0] == "password":
			password = p[1]
		case p[0] == "dbname":
			u.Path = "/" + p[1]
		default:
			query.Set(p[0], p[1])
		}
	}
	u.Host = host
	switch {
	case host == "" && port != "":
		query.Set("port", port)
	case port != "":
		u.Host = net.JoinHostPort(host, port)
	}
	if password != "" {
		u.User = url.UserPassword(user, password)
	} else if user != "" {
		u.User = url.User(user)
	}
	u.RawQuery = query.Encode()
	return u.String()
}
