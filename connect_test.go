package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// meter is a dialer that counts: dials begun, sockets made and not yet closed.
type meter struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error) // nil = the network
	wrap func(net.Conn) net.Conn                                              // nil = as it is

	hide bool // what is counted hides the socket

	mu    sync.Mutex
	dials int
	open  int
	conns []net.Conn
}

func (m *meter) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	m.mu.Lock()
	m.dials++
	m.mu.Unlock()
	dial := m.dial
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: -1}).DialContext // as the built-in one
	}
	c, err := dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open++
	m.conns = append(m.conns, c)
	if m.wrap != nil {
		c = m.wrap(c)
	}
	mc := &meteredConn{Conn: c, m: m}
	if m.hide {
		return hidden{mc}, nil
	}
	return mc, nil
}

func (m *meter) begun() int  { m.mu.Lock(); defer m.mu.Unlock(); return m.dials }
func (m *meter) opened() int { m.mu.Lock(); defer m.mu.Unlock(); return m.open }

func (m *meter) last() net.Conn { m.mu.Lock(); defer m.mu.Unlock(); return m.conns[len(m.conns)-1] }

type meteredConn struct {
	net.Conn
	m    *meter
	once sync.Once
}

func (c *meteredConn) NetConn() net.Conn { return c.Conn }
func (c *meteredConn) Close() error {
	c.once.Do(func() { c.m.mu.Lock(); c.m.open--; c.m.mu.Unlock() })
	return c.Conn.Close()
}

// openWith opens with options of the test's own; the log is quiet unless they say.
func openWith(t *testing.T, dsn string, opts ...pgpooled.Option) *sql.DB {
	t.Helper()
	db, err := pgpooled.Open(dsn, append([]pgpooled.Option{quiet}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

func newProxy(t *testing.T, target string) *faultnet.Proxy {
	t.Helper()
	p, err := faultnet.New(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestConnectTimeoutIsAbsoluteAtEveryStage(t *testing.T) {
	t.Parallel()
	locked := pgtest.StartT(t, pgtest.Options{Password: "s3cret-p4ss", TLS: true})
	const limit = 300 * time.Millisecond
	for _, tt := range []struct {
		stage, tls string
		after      int // bytes of the server that still come, -1 = not even the first
		prepare    func(context.Context, *sql.Conn) error
	}{
		{stage: "TCP accepted, then silence", tls: "disable", after: 0},
		{stage: "the SSLRequest has no answer", tls: "require", after: 0},
		{stage: "half of the TLS handshake", tls: "require", after: 300},
		{stage: "half of the authentication", tls: "disable", after: 24},
		{stage: "half of the authentication, TLS", tls: "require", after: 1000},
		{stage: "half of the parameters", tls: "disable", after: 300},
		{stage: "WithAfterConnect", tls: "disable", after: 1 << 20, prepare: func(ctx context.Context, c *sql.Conn) error {
			_, err := c.ExecContext(ctx, "select pg_sleep(60)")
			return err
		}},
		{stage: "WithAfterConnect without its context", tls: "disable", after: 1 << 20, prepare: func(_ context.Context, c *sql.Conn) error {
			_, err := c.ExecContext(context.Background(), "select pg_sleep(60)")
			return err
		}},
	} {
		proxy := newProxy(t, locked.Addr())
		proxy.SetScript(func(int) faultnet.Script {
			return faultnet.Script{{Dir: faultnet.ToClient, After: tt.after, Do: faultnet.Stall}}
		})
		var opts []pgpooled.Option
		if tt.prepare != nil {
			opts = append(opts, pgpooled.WithAfterConnect(tt.prepare))
		}
		db := openWith(t, locked.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "sslmode", tt.tls,
			"connect_timeout", limit.String(), "retry_mode", "off"), opts...)
		start := time.Now()
		err := db.Ping()
		took := time.Since(start)
		if err == nil || took < limit-50*time.Millisecond || took > limit+2*time.Second {
			t.Errorf("%s: after %s: %v", tt.stage, took, err)
			continue
		}
		if !strings.Contains(err.Error(), "connect_timeout (300ms)") || pgpooled.HealthReason(err) != "timeout" && tt.prepare == nil {
			t.Errorf("%s: the error does not say so (%s): %v", tt.stage, pgpooled.HealthReason(err), err)
		}
		if proxy.Fired() == 0 && tt.prepare == nil {
			t.Errorf("%s: the exchange was over before it was stalled", tt.stage)
		}
	}
}

// Half of an attempt's time is not enough for the first of two hosts to use up
// the second one's share.
func TestASilentHostLeavesTheNextOneItsShare(t *testing.T) {
	t.Parallel()
	silent := newProxy(t, server.Addr())
	silent.Freeze()
	for _, mode := range []string{"disable", "require", "prefer", "allow"} {
		start := time.Now()
		db := openWith(t, server.DSN("host", "127.0.0.1,127.0.0.1", "port", fmt.Sprintf("%d,%d", silent.Port(), server.Port()),
			"application_name", app(), "sslmode", mode, "connect_timeout", "1s", "retry_mode", "off"))
		err := db.Ping()
		if took := time.Since(start); err != nil || took > 2*time.Second {
			t.Errorf("sslmode=%s: after %s: %v", mode, took, err)
		}
	}
}

// The share of a host bounds its handshake; what comes after it has the rest of
// connect_timeout.
func TestWithAfterConnectMayUseAllOfConnectTimeoutWithSeveralHosts(t *testing.T) {
	t.Parallel()
	db := openWith(t, server.DSN("host", "127.0.0.1,127.0.0.1,127.0.0.1", "port", fmt.Sprintf("%[1]d,%[1]d,%[1]d", server.Port()),
		"application_name", app(), "connect_timeout", "3s", "retry_mode", "off"),
		pgpooled.WithAfterConnect(func(ctx context.Context, c *sql.Conn) error {
			_, err := c.ExecContext(ctx, "select pg_sleep(1.5)")
			return err
		}))
	if err := db.Ping(); err != nil {
		t.Errorf("1.5 s of 3 s were too long: %v", err)
	}
}

func TestAFirstHostThatRefusesIsPassedOver(t *testing.T) {
	t.Parallel()
	gone := newProxy(t, server.Addr())
	if err := gone.Refuse(true); err != nil {
		t.Fatal(err)
	}
	silent := newProxy(t, server.Addr())
	silent.Freeze()
	db := openWith(t, server.DSN("host", "127.0.0.1,127.0.0.1,127.0.0.1", "port", fmt.Sprintf("%d,%d,%d", gone.Port(), silent.Port(), server.Port()),
		"application_name", app(), "connect_timeout", "1s", "retry_mode", "off"))
	if err := db.Ping(); err != nil {
		t.Error(err)
	}
	all := openWith(t, server.DSN("host", "127.0.0.1,127.0.0.1", "port", fmt.Sprintf("%d,%d", gone.Port(), silent.Port()),
		"connect_timeout", "300ms", "retry_mode", "off"))
	if err := all.Ping(); err == nil || !strings.Contains(err.Error(), "connect_timeout (300ms)") || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("both hosts are of no use: %v", err)
	}
}

func TestWhatCanPassIsDialledAgain(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]error{
		"refused":             &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)},
		"reset":               &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)},
		"no route":            &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)},
		"kernel's timeout":    &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ETIMEDOUT)},
		"a deadline":          &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded},
		"DNS server failure":  &net.OpError{Op: "dial", Err: &net.DNSError{Err: "server misbehaving", Name: "db", IsTemporary: true}},
		"DNS timeout":         &net.OpError{Op: "dial", Err: &net.DNSError{Err: "i/o timeout", Name: "db", IsTimeout: true}},
		"too many open files": &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)},
	} {
		m := &meter{}
		m.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if m.begun() <= 3 {
				return nil, failure
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		db := openWith(t, server.DSN("application_name", app(), "retry_base_delay", "1ms"), pgpooled.WithDialer(m))
		if err := db.Ping(); err != nil || m.begun() != 4 {
			t.Errorf("%s: %d dials, %v", name, m.begun(), err)
		}
	}
}

// A name that does not exist is a typing error; one that existed is a hiccup.
func TestANameThatWasKnownIsLookedUpAgain(t *testing.T) {
	t.Parallel()
	missing := &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "db", IsNotFound: true}}
	var gone bool
	m := &meter{}
	m.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if gone && m.begun()%4 != 0 {
			return nil, missing
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	gone = true
	db := openWith(t, server.DSN("application_name", app(), "retry_base_delay", "1ms"), pgpooled.WithDialer(m))
	if err := db.Ping(); !errors.Is(err, error(missing)) || m.begun() != 1 || pgpooled.HealthReason(err) != "dns" {
		t.Errorf("%d dials, %v", m.begun(), err)
	}
	for m.begun() < 4 && db.Ping() != nil {
	}
	c, _ := pgpooled.ConnectorOf(db)
	c.Refresh()
	if err := db.Ping(); err != nil || m.begun() != 8 {
		t.Errorf("%d dials, %v", m.begun(), err)
	}
}

func TestWhatCannotPassFailsAtOnceWithTheServersOwnError(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Password: "right"})
	for name, tt := range map[string]struct{ key, value, code string }{
		"wrong password":   {"password", "wr0ng-secret", "28P01"},
		"unknown database": {"dbname", "nowhere", "3D000"},
		"unknown role":     {"user", "nobody", "28P01"},
	} {
		m := &meter{}
		db := openWith(t, s.DSN(tt.key, tt.value, "pool_timeout", "30s"), pgpooled.WithDialer(m))
		start := time.Now()
		err := db.Ping()
		answer, ok := err.(*pq.Error) // GORM and others assert directly
		if !ok || string(answer.Code) != tt.code {
			t.Fatalf("%s: %T %v", name, err, err)
		}
		if took := time.Since(start); m.begun() != 1 || took > 5*time.Second || pgpooled.HealthReason(err) != "auth" {
			t.Errorf("%s: %d dials, %s, %s", name, m.begun(), took, pgpooled.HealthReason(err))
		}
		if strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("the password is in %q", err)
		}
	}
}

func TestTLSThatIsRefusedFailsAtOnce(t *testing.T) {
	t.Parallel()
	plain := pgtest.StartT(t, pgtest.Options{})
	foreign := pgtest.StartT(t, pgtest.Options{TLS: true})
	if err := os.Chmod(foreign.CACert(), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		dsn string
		is  error
	}{
		"no TLS there":  {plain.DSN("sslmode", "require"), pq.ErrSSLNotSupported},
		"another CA":    {server.DSN("sslmode", "verify-full", "host", "localhost", "sslrootcert", foreign.CACert()), nil},
		"another CA, 2": {server.DSN("sslmode", "verify-ca", "sslrootcert", foreign.CACert()), nil},
		"no such CA":    {server.DSN("sslmode", "verify-ca", "sslrootcert", "/nowhere/ca.crt"), nil},
		"old protocol":  {server.DSN("ssl_max_protocol_version", "TLSv1.1", "ssl_min_protocol_version", "TLSv1.1"), nil},
	} {
		m := &meter{}
		db, err := pgpooled.Open(tt.dsn+" pool_timeout=30s", quiet, pgpooled.WithDialer(m))
		if err != nil {
			t.Logf("%s: refused at open: %v", name, err)
			continue
		}
		start := time.Now()
		err = db.Ping()
		if took := time.Since(start); err == nil || took > 5*time.Second || m.begun() > 1 || tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%s: %d dials in %s: %v", name, m.begun(), took, err)
		}
		if word := pgpooled.HealthReason(err); word != "tls" {
			t.Errorf("%s is %q: %v", name, word, err)
		}
		db.Close()
		if m.opened() != 0 {
			t.Errorf("%s leaves %d sockets", name, m.opened())
		}
	}
}

// The address behind a name changes while the pool retries: each attempt asks.
func TestTheAddressIsAskedForAtEachAttempt(t *testing.T) {
	t.Parallel()
	old := newProxy(t, server.Addr())
	if err := old.Refuse(true); err != nil {
		t.Fatal(err)
	}
	addrs := []string{old.Addr(), old.Addr(), server.Addr()}
	m := &meter{}
	m.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != "db.internal:5432" {
			t.Errorf("asked for %s", address)
		}
		return new(net.Dialer).DialContext(ctx, network, addrs[min(m.begun(), len(addrs))-1])
	}
	db := openWith(t, server.DSN("host", "db.internal", "port", "5432", "application_name", app(), "retry_base_delay", "1ms"), pgpooled.WithDialer(m))
	if err := db.Ping(); err != nil || m.begun() != 3 {
		t.Errorf("%d dials, %v", m.begun(), err)
	}
}

// lib/pq forgets the socket on which it asked for TLS (conn.go, restartHost).
func TestPreferLeavesOneSocketWhereThereIsNoTLS(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	m := &meter{}
	db := openWith(t, s.DSN("sslmode", "prefer", "application_name", app()), pgpooled.WithDialer(m))
	if err := db.Ping(); err != nil || m.begun() != 2 || m.opened() != 1 {
		t.Errorf("%d dials, %d sockets open, %v", m.begun(), m.opened(), err)
	}
	db.Close()
	if m.opened() != 0 {
		t.Errorf("%d sockets open after Close", m.opened())
	}
}

func TestAnErrorAfterTheContextEndedIsTheContexts(t *testing.T) {
	t.Parallel()
	proxy := newProxy(t, server.Addr())
	proxy.Freeze()
	for name, end := range map[string]func() (context.Context, context.CancelFunc){
		"deadline": func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), 100*time.Millisecond)
		},
		"cancel": func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(100*time.Millisecond, cancel)
			return ctx, cancel
		},
	} {
		db := openWith(t, server.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "connect_timeout", "30s"))
		ctx, cancel := end()
		start := time.Now()
		err := db.PingContext(ctx)
		if took := time.Since(start); !errors.Is(err, ctx.Err()) || errors.Is(err, pgpooled.ErrPoolTimeout) || took > 3*time.Second {
			t.Errorf("%s: after %s: %v", name, took, err)
		}
		cancel()
		start = time.Now()
		db.Close() // a dial is under way and would take 30 s
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("Close waited %s for a silent server", took)
		}
	}
}
