package pgpooled

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
)

// DriverName is the name under which the driver is registered with
// database/sql.
const DriverName = "pgpooled"

func init() { sql.Register(DriverName, &Driver{}) }

// Driver is the database/sql driver. sql.Open("pgpooled", dsn) uses it; a
// program that wants options calls [Open] or [NewConnector].
type Driver struct {
	connector *Connector // nil for the registered driver
}

var (
	_ driver.DriverContext = (*Driver)(nil)
	_ driver.Connector     = (*Connector)(nil)
)

// OpenConnector parses the DSN and makes a connector with a pool of its own. It
// dials nothing, except warm sessions in the background if min_idle_conns asks
// for them.
func (d *Driver) OpenConnector(dsn string) (driver.Connector, error) { return NewConnector(dsn) }

// Open is for wrappers that know nothing newer: it opens one connection that is
// not pooled by pgpooled, for database/sql to pool.
func (d *Driver) Open(dsn string) (driver.Conn, error) {
	cfg, err := ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	cfg.MaxOpenConns, cfg.MinIdleConns, cfg.PoolName = 1, 0, ""
	cfg.LeakDetectionThreshold = 0 // database/sql holds the connection for good
	c, err := NewConnectorConfig(cfg)
	if err != nil {
		return nil, err
	}
	l, err := c.pool.newLease(context.Background())
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	l.solo = true
	return &soloConn{lease: l, c: c}, nil
}

// soloConn is a connection whose pool ends with it.
type soloConn struct {
	*lease
	c *Connector
}

func (s *soloConn) Close() error {
	_ = s.lease.Close()
	return s.c.Close()
}

// Connector makes connections for database/sql out of one pool. Use it with
// sql.OpenDB, or get the one under a *sql.DB with [ConnectorOf]. All methods
// may be called at any time from any goroutine.
type Connector struct {
	pool   *pool
	cfg    *Config
	opener *opener
	closed atomic.Bool
	left   chan struct{}             // closed when Close is through
	leave  func(time.Duration) error // closes the pool, or gives up a share of it
}

// Option changes what a DSN cannot say.
type Option func(*options)

type options struct {
	log    *slog.Logger
	dialer ContextDialer
	base   driver.Connector

	beforeConnect func(context.Context, *pq.Config) error
	afterConnect  func(context.Context, *sql.Conn) error
	observer      func(context.Context, CallEvent)
}

// WithLogger sets where events go: pool opened and closed at Info, everything
// that an operator should look at at Warn. The default is slog.Default();
// slog.New(slog.DiscardHandler) turns it off. A slow handler holds up nobody but
// Close: up to 1000 events wait for it, and how many did not fit is one of them.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.log = l } }

// WithDialer sets what makes network connections, for tunnels and cloud
// connectors. Each dial gets a context that ends with connect_timeout.
func WithDialer(d ContextDialer) Option { return func(o *options) { o.dialer = d } }

// WithBeforeConnect sets a function that may change what lib/pq connects with
// before each attempt, for passwords that expire (IAM tokens, Vault). It runs
// inside connect_timeout, possibly in several goroutines at once; its error ends
// the attempt, and is retried only if it can pass, as a network's.
func WithBeforeConnect(f func(context.Context, *pq.Config) error) Option {
	return func(o *options) { o.beforeConnect = f }
}

// WithAfterConnect sets a function that prepares each new session before its
// first caller has it, inside connect_timeout. Its error ends the attempt. The
// connection is valid inside the function only.
func WithAfterConnect(f func(context.Context, *sql.Conn) error) Option {
	return func(o *options) { o.afterConnect = f }
}

// WithBase sets another driver's connector below the interceptor, in tests for
// instance go-sqlmock's. Without pgpooled's own network connection nobody knows
// how much of a statement was sent, so every failure counts as sent; deadlines
// are the base's business.
func WithBase(c driver.Connector) Option { return func(o *options) { o.base = c } }

// Open opens a database with options. Like sql.Open it refuses a bad DSN and
// dials nothing, except warm sessions in the background.
func Open(dsn string, opts ...Option) (*sql.DB, error) {
	c, err := NewConnector(dsn, opts...)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(c), nil
}

// NewConnector makes a connector for sql.OpenDB. Errors are *DSNError.
func NewConnector(dsn string, opts ...Option) (*Connector, error) {
	cfg, err := ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	return NewConnectorConfig(cfg, opts...)
}

// NewConnectorConfig makes a connector out of a configuration, of which it
// takes a copy.
func NewConnectorConfig(cfg *Config, opts ...Option) (*Connector, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	o := options{}
	for _, opt := range opts {
		opt(&o)
	}
	if o.log == nil {
		o.log = slog.Default()
	}
	return attach(&opener{cfg: cfg.Clone(), opts: o})
}

// openPool starts the pool of a configuration.
func openPool(op *opener) *pool {
	cfg := op.cfg
	p := newPool(poolName(cfg), limits{
		maxOpen: cfg.MaxOpenConns, maxIdle: cfg.MaxIdleConns, minIdle: cfg.MinIdleConns,
		maxIdleTime: cfg.ConnMaxIdleTime, maxLifetime: cfg.ConnMaxLifetime, jitter: cfg.ConnMaxLifetimeJitter,
		timeout: cfg.PoolTimeout, leakAfter: cfg.LeakDetectionThreshold,
		retry: retryPolicy{mode: cfg.RetryMode, maxAttempts: cfg.RetryMaxAttempts, baseDelay: cfg.RetryBaseDelay, maxDelay: cfg.RetryMaxDelay},
	}, op.opts.log, op.connect)
	p.commitCheck, p.observer = cfg.CommitCheck, op.opts.observer
	p.keeps = op.opts.base == nil // a scripted base expects what database/sql does with a connection that it has done with
	p.mu.Lock()
	p.logLocked(slog.LevelInfo, "pgpooled: pool opened",
		slog.Int("max_open_conns", cfg.MaxOpenConns), slog.Int("min_idle_conns", cfg.MinIdleConns))
	for _, notice := range cfg.Notices() {
		p.logLocked(slog.LevelWarn, "pgpooled: "+notice)
	}
	p.mu.Unlock()
	return p
}

// poolName is what log lines and statistics call a pool.
func poolName(cfg *Config) string {
	if cfg.PoolName != "" {
		return cfg.PoolName
	}
	return net.JoinHostPort(cfg.PQ.Host, strconv.Itoa(int(cfg.PQ.Port))) + "/" + cfg.PQ.Database
}

// Connect leases a session: an idle one, one that comes back, or a new one. It
// waits in line for at most pool_timeout, and no longer than ctx allows. The
// errors are *PoolTimeoutError, the context's, ErrClosed, or what the server
// said when it refused the connection (*pq.Error).
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	if c.closed.Load() {
		return nil, ErrClosed
	}
	l, err := c.pool.newLease(ctx)
	if err != nil {
		return nil, err
	}
	l.shut = &c.closed
	return l, nil
}

// Driver returns a driver that knows this connector: [ConnectorOf] finds it.
func (c *Connector) Driver() driver.Driver { return &Driver{connector: c} }

// Config returns a copy of the configuration.
func (c *Connector) Config() *Config { return c.cfg.Clone() }

// Stats returns the pool's statistics.
func (c *Connector) Stats() Stats { return c.pool.stats() }

// Close closes the pool: callers in line get ErrClosed, idle sessions are closed
// at once, leased ones may finish until close_timeout and are then cut, which
// the error reports; the server notices a cut when it next writes or reads. It
// returns when no goroutine, socket or session is left here.
// db.Close calls it. Connectors of one pool_name share the pool: the last Close
// closes it.
func (c *Connector) Close() error {
	if c.closed.Swap(true) {
		<-c.left
		return nil
	}
	defer close(c.left)
	return c.leave(c.cfg.CloseTimeout)
}

// String names the pool; it has no secret.
func (c *Connector) String() string { return "pgpooled connector of " + c.pool.name }

// GoString is String: %#v shows no secret either.
func (c *Connector) GoString() string { return c.String() }

// SetMaxOpenConns sets the limit of server sessions, as on sql.DB: n <= 0 is no
// limit. A lower limit takes effect as sessions come back, a higher one at once.
func (c *Connector) SetMaxOpenConns(n int) {
	c.pool.setLimits(func(l *limits) { l.maxOpen = max(n, 0) })
}

// SetMaxIdleConns sets how many idle sessions are kept, as on sql.DB: n <= 0
// keeps none.
func (c *Connector) SetMaxIdleConns(n int) {
	c.pool.setLimits(func(l *limits) { l.maxIdle = max(n, 0) })
}

// SetConnMaxIdleTime sets how long a session may be idle, as on sql.DB: d <= 0
// is no limit.
func (c *Connector) SetConnMaxIdleTime(d time.Duration) {
	c.pool.setLimits(func(l *limits) { l.maxIdleTime = max(d, 0) })
}

// SetConnMaxLifetime sets how old a session may get, as on sql.DB: d <= 0 is no
// limit. conn_max_lifetime_jitter goes on top.
func (c *Connector) SetConnMaxLifetime(d time.Duration) {
	c.pool.setLimits(func(l *limits) { l.maxLifetime = max(d, 0) })
}

// Refresh lets the sessions that exist now go gently: idle ones at once, leased
// ones as they come back. Call it after credentials or addresses have changed.
func (c *Connector) Refresh() { c.pool.refresh() }

// ConnectorOf finds the connector under a *sql.DB that was opened with pgpooled;
// ok is false for other drivers and under wrappers that hide it.
func ConnectorOf(db *sql.DB) (c *Connector, ok bool) {
	d, ok := db.Driver().(*Driver)
	if !ok || d.connector == nil {
		return nil, false
	}
	return d.connector, true
}

var errPoolName = errors.New("pgpooled: pool_name is in use with other settings: role, database, TLS and all settings of one pool_name must agree")
