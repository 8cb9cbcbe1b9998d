package pgpooled

import (
	"math"
	"time"
)

// param is one row of the table that drives parsing, validation, formatting, the
// "did you mean", docs/parameters.md and the package comment.
type param struct {
	key      string        // canonical name; the environment variable is PGPOOLED_ and this in upper case
	aliases  []alias       // other names of the same setting
	from     string        // the tool that has the canonical name too
	bare     time.Duration // unit of an integer without one; 0 = refused
	def      string        // default, as a DSN would have it; "" = automatic or empty
	defText  string        // the default in words, where def does not say it
	auto     bool          // -1 in the field stands for the default
	min, max int64         // range of a number or duration; a duration's min does not apply to 0 if zero is set
	zero     string        // what 0 means; "" = nothing special
	values   []string      // the allowed words
	doc      string        // the meaning, one line

	// field returns a pointer to the setting: *int, *time.Duration, *bool,
	// *string, *RetryMode or *CommitCheck. nil: the key is translated into
	// settings of lib/pq and leaves no field behind.
	field func(*Config) any
}

type alias struct {
	name string
	from string        // the tool that calls it so
	bare time.Duration // as in param
}

// translated keys turn into lib/pq's own: channel_binding and sslaccept.
func (p *param) translated() bool { return p.field == nil }

func (p *param) env() string { return envPrefix + upper(p.key) }

const (
	maxConnections = 262143 // PostgreSQL's own upper bound of max_connections
	aYear          = int64(365 * 24 * time.Hour)
	aDay           = int64(24 * time.Hour)
	aMillisecond   = int64(time.Millisecond)
	aSecond        = int64(time.Second)
	keepaliveMax   = 32767 * aSecond // TCP_KEEPIDLE and TCP_KEEPINTVL on Linux
)

var params = []param{
	{
		key: "max_open_conns", def: "10", max: maxConnections, zero: "no limit",
		aliases: []alias{{name: "connection_limit", from: "Prisma"}, {name: "pool_max_conns", from: "pgxpool"}},
		doc:     "The most server sessions this pool has at a time.",
		field:   func(c *Config) any { return &c.MaxOpenConns },
	},
	{
		key: "max_idle_conns", auto: true, defText: "as max_open_conns", max: maxConnections, zero: "keep none",
		doc:   "Idle sessions beyond this are closed.",
		field: func(c *Config) any { return &c.MaxIdleConns },
	},
	{
		key: "min_idle_conns", def: "0", max: maxConnections,
		aliases: []alias{{name: "pool_min_idle_conns", from: "pgxpool"}, {name: "pool_min_conns", from: "pgxpool"}},
		doc:     "Warm sessions: opened in the background at open and kept up. They keep a scale-to-zero database awake.",
		field:   func(c *Config) any { return &c.MinIdleConns },
	},
	{
		key: "conn_max_idle_time", def: "2m", min: aMillisecond, max: aYear, zero: "no limit",
		aliases: []alias{{name: "pool_max_conn_idle_time", from: "pgxpool"}, {name: "max_idle_connection_lifetime", from: "Prisma", bare: time.Second}},
		doc:     "A session idle for longer is closed. The default is below the 5 min and 350 s at which hosted databases and load balancers cut idle links.",
		field:   func(c *Config) any { return &c.ConnMaxIdleTime },
	},
	{
		key: "conn_max_lifetime", def: "30m", min: aMillisecond, max: aYear, zero: "no limit",
		aliases: []alias{{name: "pool_max_conn_lifetime", from: "pgxpool"}, {name: "max_connection_lifetime", from: "Prisma", bare: time.Second}},
		doc:     "A session older than this is closed when it comes back.",
		field:   func(c *Config) any { return &c.ConnMaxLifetime },
	},
	{
		key: "conn_max_lifetime_jitter", auto: true, defText: "a tenth of conn_max_lifetime", max: aYear, zero: "no jitter",
		aliases: []alias{{name: "pool_max_conn_lifetime_jitter", from: "pgxpool"}},
		doc:     "How far lifetimes are spread, so that sessions opened together do not end together; drawn once per session.",
		field:   func(c *Config) any { return &c.ConnMaxLifetimeJitter },
	},
	{
		key: "pool_timeout", from: "Prisma", bare: time.Second, def: "10s", min: aMillisecond, max: aYear, zero: "no limit",
		doc:   "The longest wait of one acquire, whatever the reason.",
		field: func(c *Config) any { return &c.PoolTimeout },
	},
	{
		key: "connect_timeout", from: "libpq", bare: time.Second, def: "5s", min: aMillisecond, max: aYear, zero: "no limit",
		doc:   "One attempt to connect: over all hosts, TLS, authentication and session checks. PGCONNECT_TIMEOUT (whole seconds) counts where neither the DSN nor PGPOOLED_CONNECT_TIMEOUT has it.",
		field: func(c *Config) any { return &c.ConnectTimeout },
	},
	{
		key: "socket_timeout", from: "Prisma", bare: time.Second, def: "0", min: aMillisecond, max: aYear, zero: "off",
		doc:   "The longest wait for the server's next bytes, or for it to take the next of ours, in calls without a context too. What took longer is not repeated.",
		field: func(c *Config) any { return &c.SocketTimeout },
	},
	{
		key: "cancel_grace", def: "0", min: aMillisecond, max: aDay, zero: "the larger of 500ms and 6 × the measured dial time",
		doc:   "Between a context's end and giving the connection up.",
		field: func(c *Config) any { return &c.CancelGrace },
	},
	{
		key: "close_timeout", def: "5s", min: aMillisecond, max: aDay, zero: "cut at once",
		doc:   "What db.Close() grants to leased sessions before it cuts them.",
		field: func(c *Config) any { return &c.CloseTimeout },
	},
	{
		key: "tcp_user_timeout", from: "libpq", bare: time.Millisecond, def: "20s", min: aMillisecond, max: aDay, zero: "the system's",
		doc:   "How long sent data may stay unacknowledged before the connection counts as dead. Linux; elsewhere ignored.",
		field: func(c *Config) any { return &c.TCPUserTimeout },
	},
	{
		key: "keepalives", from: "libpq", def: "true",
		doc:   "TCP keepalives; they are probes of the socket, not queries.",
		field: func(c *Config) any { return &c.Keepalives },
	},
	{
		key: "keepalives_idle", from: "libpq", bare: time.Second, def: "30s", min: aSecond, max: keepaliveMax, zero: "the system's",
		doc:   "Silence before the first keepalive.",
		field: func(c *Config) any { return &c.KeepalivesIdle },
	},
	{
		key: "keepalives_interval", from: "libpq", bare: time.Second, def: "10s", min: aSecond, max: keepaliveMax, zero: "the system's",
		doc:   "Between two keepalives without an answer.",
		field: func(c *Config) any { return &c.KeepalivesInterval },
	},
	{
		key: "keepalives_count", from: "libpq", def: "3", max: 127, zero: "the system's",
		doc:   "Unanswered keepalives after which the connection is dead.",
		field: func(c *Config) any { return &c.KeepalivesCount },
	},
	{
		key: "retry_mode", def: "safe", values: []string{"off", "connect", "safe", "all"},
		doc:   "off: nothing is repeated; connect: only opening a connection; safe: also what cannot have had an effect; all: every statement counts as idempotent.",
		field: func(c *Config) any { return &c.RetryMode },
	},
	{
		key: "retry_max_attempts", def: "0", max: 1000, zero: "as many as fit the time budget",
		doc:   "Failed attempts to connect in a row after which those who wait get the last error.",
		field: func(c *Config) any { return &c.RetryMaxAttempts },
	},
	{
		key: "retry_base_delay", def: "50ms", min: aMillisecond, max: aDay,
		doc:   "The first backoff; it doubles, with full jitter.",
		field: func(c *Config) any { return &c.RetryBaseDelay },
	},
	{
		key: "retry_max_delay", def: "1s", min: aMillisecond, max: aDay,
		doc:   "The longest backoff.",
		field: func(c *Config) any { return &c.RetryMaxDelay },
	},
	{
		key: "statement_cache_capacity", from: "pgx", auto: true, max: math.MaxInt16, zero: "no cache",
		defText: "256 on sessions proven direct, else 0; 0 with pgbouncer=true or binary_parameters=yes",
		aliases: []alias{{name: "statement_cache_size", from: "Prisma"}},
		doc:     "Prepared statements kept per session. A number that is given here counts without proof: behind a transaction pooler it must be 0.",
		field:   func(c *Config) any { return &c.StatementCacheCapacity },
	},
	{
		key: "pgbouncer", from: "Prisma", def: "false",
		doc:   "Transaction-pooling mode: no named statements, and each call with arguments in one message group, as with binary_parameters=yes.",
		field: func(c *Config) any { return &c.PgBouncer },
	},
	{
		key: "commit_check", def: "off", values: []string{"off", "on", "ledger"},
		doc:   "Finds out the fate of a COMMIT that got no answer. on (or xid): by the transaction's id; ledger: by a token row.",
		field: func(c *Config) any { return &c.CommitCheck },
	},
	{
		key: "leak_detection_threshold", def: "0", min: aMillisecond, max: aYear, zero: "off",
		doc:   "A lease held longer is logged with the stack that took it.",
		field: func(c *Config) any { return &c.LeakDetectionThreshold },
	},
	{
		key: "pool_name", max: 63,
		doc:   "Connectors of one process with the same name share one pool.",
		field: func(c *Config) any { return &c.PoolName },
	},
	{
		key: "schema", from: "Prisma", max: 63,
		doc:   "Becomes search_path; public does nothing. An error with pgbouncer=true.",
		field: func(c *Config) any { return &c.Schema },
	},
	{
		key: "sslaccept", from: "Prisma", values: []string{"", "strict", "accept_invalid_certs"}, defText: "what sslmode says",
		doc: "strict raises sslmode to verify-full; accept_invalid_certs is sslmode=require. An error where an explicit sslmode says the opposite.",
	},
	{
		key: "channel_binding", from: "libpq", values: []string{"prefer", "disable", "require"}, def: "prefer",
		doc: "lib/pq cannot bind channels. require is met by more: sslmode is raised to verify-full, with the system's roots unless sslrootcert is given.",
	},
}

// paramByName finds a row by its key or by an alias.
var paramByName = func() map[string]int {
	m := make(map[string]int)
	for i, p := range params {
		m[p.key] = i
		for _, a := range p.aliases {
			m[a.name] = i
		}
	}
	return m
}()

// lookupParam returns the row for name and the unit that a bare integer has
// under that name; nil if name is not a key of pgpooled.
func lookupParam(name string) (*param, time.Duration) {
	i, ok := paramByName[name]
	if !ok {
		return nil, 0
	}
	p := &params[i]
	for _, a := range p.aliases {
		if a.name == name {
			return p, a.bare
		}
	}
	return p, p.bare
}
