package pgpooled

import (
	"maps"
	"slices"
	"time"

	"github.com/lib/pq"
)

// RetryMode says which failures are repeated without the caller's doing.
type RetryMode string

// The values of retry_mode.
const (
	RetryOff     RetryMode = "off"     // nothing is repeated
	RetryConnect RetryMode = "connect" // only opening a connection
	RetrySafe    RetryMode = "safe"    // also what cannot have had an effect; the default
	RetryAll     RetryMode = "all"     // every statement counts as idempotent
)

// CommitCheck says whether, and how, the fate of a COMMIT without an answer is
// found out.
type CommitCheck string

// The values of commit_check. "xid" is read as CommitCheckOn.
const (
	CommitCheckOff    CommitCheck = "off"    // report an unknown outcome; the default
	CommitCheckOn     CommitCheck = "on"     // ask the server about the transaction's id
	CommitCheckLedger CommitCheck = "ledger" // write a token row in the same transaction
)

// Config is a parsed DSN. Get one from [ParseDSN]: its zero value is not a
// usable configuration. A program may change the exported fields before it
// hands the Config to NewConnector, which calls [Config.Validate]; a Config in
// use by a connector must not be changed.
//
// Config prints without its secrets (fmt's %v, %+v, %s and %#v, and log/slog's
// text form); the password is in PQ.Password and in what [Config.FormatDSN] and
// [Config.PlainDSN] return. It is not safe for concurrent modification.
type Config struct {
	// PQ is what lib/pq gets: hosts, user, password, TLS and the run-time
	// parameters for the server. Its ConnectTimeout is always zero, since the
	// ConnectTimeout below rules, and Runtime never holds a key of pgpooled.
	PQ pq.Config `json:"-"`

	MaxOpenConns int // most server sessions at a time; 0 = no limit, default 10
	MaxIdleConns int // more idle ones are closed; -1 = as MaxOpenConns (default), 0 = keep none
	MinIdleConns int // sessions kept warm in the background, default 0

	ConnMaxIdleTime       time.Duration // 0 = no limit, default 2m
	ConnMaxLifetime       time.Duration // 0 = no limit, default 30m
	ConnMaxLifetimeJitter time.Duration // drawn once per session; -1 = a tenth of ConnMaxLifetime (default)

	PoolTimeout    time.Duration // longest wait of one acquire; 0 = no limit, default 10s
	ConnectTimeout time.Duration // one attempt over all hosts, TLS and authentication; 0 = no limit, default 5s
	SocketTimeout  time.Duration // longest wait for the server's next bytes; 0 = off (default)
	CancelGrace    time.Duration // from a context's end to giving the connection up; 0 = the larger of 500ms and 6 × the measured dial time (default)
	CloseTimeout   time.Duration // what Close grants to leased sessions; 0 = nothing, default 5s

	TCPUserTimeout     time.Duration // TCP_USER_TIMEOUT on Linux; 0 = the system's, default 20s
	Keepalives         bool          // TCP keepalives, default true
	KeepalivesIdle     time.Duration // 0 = the system's, default 30s
	KeepalivesInterval time.Duration // 0 = the system's, default 10s
	KeepalivesCount    int           // 0 = the system's, default 3

	RetryMode        RetryMode     // default RetrySafe
	RetryMaxAttempts int           // 0 = as many as fit the time budget (default)
	RetryBaseDelay   time.Duration // first backoff, default 50ms
	RetryMaxDelay    time.Duration // longest backoff, default 1s

	StatementCacheCapacity int         // prepared statements kept per session; -1 = 256 on sessions proven direct, else 0 (default)
	PgBouncer              bool        // transaction-pooling mode: no named statements
	CommitCheck            CommitCheck // default CommitCheckOff

	LeakDetectionThreshold time.Duration // a lease held longer is logged; 0 = off (default)
	PoolName               string        // connectors of one name share one pool; "" = a pool of its own
	Schema                 string        // ParseDSN puts it into PQ.Runtime["search_path"], unless it is "public"

	url     bool              // the DSN was a URL: FormatDSN and PlainDSN give one back
	given   map[string]string // lib/pq's own keys as the DSN had them, TLS and hosts already translated
	parsed  pq.Config         // PQ as ParseDSN left it, to see what a program changed since
	keep    map[string]bool   // keys to write even at their default, since the environment has them too
	ignored []string          // notices about keys that were left out
	origins map[string]origin // where the values came from, for Settings
}

// DSNError says what is wrong with a DSN or with an environment variable that
// takes part in it. It never contains a value, nor the name of a key that
// pgpooled does not know: in a DSN with a badly quoted password either can be a
// piece of it. Use errors.As to get it.
type DSNError struct {
	Key    string // the key, two keys joined by " and ", or the environment variable; "" if none can be named
	Reason string // what is wrong and what to do about it
}

func (e *DSNError) Error() string {
	if e.Key == "" {
		return "pgpooled: DSN: " + e.Reason
	}
	return "pgpooled: " + e.Key + ": " + e.Reason
}

// ParseDSN reads a DSN: a URL (postgres:// or postgresql://, several hosts
// allowed) or key=value text, as libpq and lib/pq know them, with pgpooled's own
// keys among the others. See the table of parameters in docs/parameters.md.
//
// What the DSN leaves out comes from the environment: PGPOOLED_ and the key in
// upper case for pgpooled's keys (PGPOOLED_MAX_OPEN_CONNS), the PG* variables
// for the rest, PGCONNECT_TIMEOUT included. An empty DSN takes everything from
// there. In a URL, ?host= with a socket directory replaces the host before it, as
// libpq and Prisma have it; elsewhere a key with two values is an error.
//
// The error is a *[DSNError].
func ParseDSN(dsn string) (*Config, error) {
	src, err := splitDSN(dsn)
	if err != nil {
		return nil, err
	}
	s, err := sortPairs(src)
	if err != nil {
		return nil, err
	}
	if err := s.readEnviron(); err != nil {
		return nil, err
	}

	c := &Config{url: src.url, keep: map[string]bool{}, ignored: s.ignored}
	for i := range params {
		p := &params[i]
		if p.translated() {
			continue
		}
		if err := p.setDefault(c); err != nil {
			return nil, err
		}
		o, ok := s.own[p.key]
		if !ok {
			continue
		}
		if err := p.set(c, o.name, o.source, o.value); err != nil {
			return nil, err
		}
		if s.inEnv[p.key] || p.key == "connect_timeout" {
			c.keep[p.key] = true
		}
	}
	if c.PgBouncer || isYes(s.pq["binary_parameters"]) {
		if c.StatementCacheCapacity < 0 {
			c.StatementCacheCapacity = 0
		}
	}
	written := make(map[string]bool)
	for key := range s.pq {
		written[key] = true
	}
	if err := s.translateTLS(); err != nil {
		return nil, err
	}
	if err := s.translateSchema(c); err != nil {
		return nil, err
	}
	if err := s.buildPQ(c); err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	s.noteOrigins(c, written)
	return c, nil
}

// Validate checks ranges and the rules between settings. ParseDSN and
// NewConnector call it; call it yourself after changing fields to learn earlier.
// The error is a *[DSNError].
func (c *Config) Validate() error {
	for i := range params {
		p := &params[i]
		if p.translated() {
			continue
		}
		if reason := p.check(p.field(c)); reason != "" {
			return &DSNError{p.key, reason}
		}
	}
	switch {
	case c.MaxOpenConns > 0 && c.MinIdleConns > c.MaxOpenConns:
		return &DSNError{"min_idle_conns and max_open_conns", "more warm sessions than the pool may have; lower the first or raise the second"}
	case c.MaxIdleConns >= 0 && c.MinIdleConns > c.MaxIdleConns:
		return &DSNError{"min_idle_conns and max_idle_conns", "more warm sessions than may stay idle; lower the first or raise the second"}
	case c.ConnMaxLifetime > 0 && c.ConnMaxLifetimeJitter > c.ConnMaxLifetime:
		return &DSNError{"conn_max_lifetime_jitter and conn_max_lifetime", "the jitter must not exceed the lifetime"}
	case c.RetryBaseDelay > c.RetryMaxDelay:
		return &DSNError{"retry_base_delay and retry_max_delay", "the base delay must not exceed the longest delay"}
	case c.PgBouncer && c.StatementCacheCapacity > 0:
		return &DSNError{"statement_cache_capacity and pgbouncer", "pgbouncer=true means no named statements; leave statement_cache_capacity out or set it to 0"}
	case c.PQ.BinaryParameters && c.StatementCacheCapacity > 0:
		return &DSNError{"statement_cache_capacity and binary_parameters", "binary_parameters=yes sends unnamed statements only; leave one of the two out"}
	case c.PQ.ConnectTimeout != 0:
		return &DSNError{"connect_timeout", "set Config.ConnectTimeout, not Config.PQ.ConnectTimeout"}
	case setsSearchPath(c.Schema) && c.PgBouncer:
		return &DSNError{"schema and pgbouncer", "a transaction pooler refuses or forgets search_path; leave schema out and run ALTER ROLE … SET search_path once instead"}
	case setsSearchPath(c.Schema) && c.PQ.Runtime["search_path"] != quoteIdent(c.Schema):
		return &DSNError{"schema", `search_path says something else; to change the schema in the program set Config.PQ.Runtime["search_path"] and clear Config.Schema`}
	}
	for key := range c.PQ.Runtime {
		if p, _ := lookupParam(key); p != nil {
			return &DSNError{p.key, "belongs in the Config's own fields, not in PQ.Runtime, which goes to the server"}
		}
	}
	return nil
}

// Clone returns a deep copy.
func (c *Config) Clone() *Config {
	d := *c
	d.PQ = clonePQ(c.PQ)
	d.parsed = clonePQ(c.parsed)
	d.given = maps.Clone(c.given)
	d.keep = maps.Clone(c.keep)
	d.ignored = slices.Clone(c.ignored)
	d.origins = maps.Clone(c.origins)
	return &d
}

// clonePQ does what pq.Config.Clone leaves out: it shares Multi.
func clonePQ(p pq.Config) pq.Config {
	d := p.Clone()
	if p.Runtime == nil {
		d.Runtime = nil
	}
	d.Multi = slices.Clone(p.Multi)
	return d
}

// Notices lists what the user should be told once: keys of other tools that mean
// nothing here. Each names a key and what to do, never a value. Normally it is
// empty.
func (c *Config) Notices() []string { return slices.Clone(c.ignored) }
