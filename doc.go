// Package pgpooled is a database/sql driver for PostgreSQL with its own connection
// pool. It wraps lib/pq: the pool is set up by the DSN, waiting and failing are
// bounded, and a statement that may have run is never run again unasked.
//
//	import _ "github.com/pgpooled/pgpooled"
//
//	db, err := sql.Open("pgpooled", "postgres://app:secret@db/shop?max_open_conns=20&pool_timeout=5s")
//
// [Open] and [NewConnector] take options. Below sqlx call
// sqlx.BindDriver("pgpooled", sqlx.DOLLAR) once; GORM wants
// postgres.Config{DriverName: "pgpooled", DSN: dsn}.
//
// # The path of a call
//
// A driver never sees the *sql.DB, so it cannot set that one's limits. The pool is
// therefore below it: what database/sql takes for a connection is a lease on a
// session of the pool. After the call database/sql asks the lease whether it is
// valid, which gives the session to the next caller in line; what it keeps is a
// lease without one, which takes another when it is used again.
//
//	sql.DB ──Connect(ctx)──▶ Connector ──▶ pool ──▶ session: one server connection
//	  ▲                                                │
//	  └────── lease, the driver.Conn of sql.DB ◀───────┘
//
//	lease ─▶ frame ─▶ interceptor ─▶ lib/pq ─▶ (TLS) ─▶ wire ─▶ server
//	                   guards the deadline,              counts the bytes sent,
//	                   judges failures                   looks at the socket
//
// # Promises
//
//   - There are never more than max_open_conns server sessions of a pool, by the
//     server's own count: one that was discarded keeps its slot until the server
//     has closed its end, or about two seconds are over. Callers are served in the
//     order in which they came, each within pool_timeout or with an error that
//     names the reason and the numbers.
//   - A statement that may write and of which a byte was sent is not repeated,
//     unless the caller allows it with [WithIdempotent] or retry_mode=all. If its
//     answer is lost the caller gets an [OutcomeUnknownError].
//   - What was not sent at all is repeated on another session, and so are Ping,
//     Prepare and BEGIN, which change nothing. A statement that only reads runs
//     again, READ ONLY, if no row of it has reached the caller; rows half read end
//     in an error, never in a short result.
//   - A call whose context ends returns within cancel_grace of that, also when the
//     network is silent. The statement is cancelled on the server; the session is
//     not used again. A call without a context is bounded by socket_timeout, if set.
//   - A session that is known to be closed is not handed out: each is looked at
//     before, without a round trip; one that was idle for 30 seconds, or while the
//     connection of another failed, is pinged.
//   - A session that comes back with a transaction or rows open is discarded. A
//     second call while rows are open is refused.
//   - While the server is away one dial at a time asks for it, with exponential
//     backoff and full jitter; callers wait within their budget, and the first
//     success serves all. When it has been away for longer than pool_timeout, they
//     fail at once.
//   - What the server answers arrives as lib/pq's *pq.Error, unwrapped.
//   - No password, nor a piece of one, is in an error or a log line.
//   - Close gives leased sessions close_timeout and then cuts them. It leaves no
//     goroutine and no socket behind.
//
// # Errors
//
// Sentinels for errors.Is are [ErrPoolTimeout] and [ErrClosed]; the types for
// errors.As:
//
//   - [PoolTimeoutError]: no session in time; why, and the pool's numbers
//   - [OutcomeUnknownError]: the connection failed after the call was sent
//   - [ConnLostError]: the connection failed and no harm was done
//   - [AttemptsError]: what failed, after how many attempts
//   - [DSNError]: from opening
//
// If a context has ended, errors.Is with context.DeadlineExceeded or
// context.Canceled holds as well. Only a ConnLostError whose call may be repeated
// matches driver.ErrBadConn, for which database/sql repeats it.
//
// # Parameters
//
// Keys of a DSN beside those of lib/pq, each with its default. Every one can also come from the
// environment, as PGPOOLED_ and its name in upper case; the DSN wins. Durations are Go durations; a
// bare number only where its unit is given. See docs/parameters.md for ranges.
//
//   - max_open_conns, connection_limit, pool_max_conns (default 10; 0 = no limit): The most server
//     sessions this pool has at a time.
//   - max_idle_conns (default as max_open_conns; 0 = keep none): Idle sessions beyond this are
//     closed.
//   - min_idle_conns, pool_min_idle_conns, pool_min_conns (default 0): Warm sessions: opened in the
//     background at open and kept up. They keep a scale-to-zero database awake.
//   - conn_max_idle_time, pool_max_conn_idle_time, max_idle_connection_lifetime (bare: seconds)
//     (default 2m; 0 = no limit): A session idle for longer is closed. The default is below the 5
//     min and 350 s at which hosted databases and load balancers cut idle links.
//   - conn_max_lifetime, pool_max_conn_lifetime, max_connection_lifetime (bare: seconds) (default
//     30m; 0 = no limit): A session older than this is closed when it comes back.
//   - conn_max_lifetime_jitter, pool_max_conn_lifetime_jitter (default a tenth of
//     conn_max_lifetime; 0 = no jitter): How far lifetimes are spread, so that sessions opened
//     together do not end together; drawn once per session.
//   - pool_timeout (default 10s; bare: seconds; 0 = no limit): The longest wait of one acquire,
//     whatever the reason.
//   - connect_timeout (default 5s; bare: seconds; 0 = no limit): One attempt to connect: over all
//     hosts, TLS, authentication and session checks. PGCONNECT_TIMEOUT (whole seconds) counts where
//     neither the DSN nor PGPOOLED_CONNECT_TIMEOUT has it.
//   - socket_timeout (default 0; bare: seconds; 0 = off): The longest wait for the server's next
//     bytes, or for it to take the next of ours, in calls without a context too. What took longer
//     is not repeated.
//   - cancel_grace (default 0; 0 = the larger of 500ms and 6 × the measured dial time): Between a
//     context's end and giving the connection up.
//   - close_timeout (default 5s; 0 = cut at once): What db.Close() grants to leased sessions before
//     it cuts them.
//   - tcp_user_timeout (default 20s; bare: milliseconds; 0 = the system's): How long sent data may
//     stay unacknowledged before the connection counts as dead. Linux; elsewhere ignored.
//   - keepalives (default true): TCP keepalives; they are probes of the socket, not queries.
//   - keepalives_idle (default 30s; bare: seconds; 0 = the system's): Silence before the first
//     keepalive.
//   - keepalives_interval (default 10s; bare: seconds; 0 = the system's): Between two keepalives
//     without an answer.
//   - keepalives_count (default 3; 0 = the system's): Unanswered keepalives after which the
//     connection is dead.
//   - retry_mode (default safe): off: nothing is repeated; connect: only opening a connection;
//     safe: also what cannot have had an effect; all: every statement counts as idempotent.
//   - retry_max_attempts (default 0; 0 = as many as fit the time budget): Failed attempts to
//     connect in a row after which those who wait get the last error.
//   - retry_base_delay (default 50ms): The first backoff; it doubles, with full jitter.
//   - retry_max_delay (default 1s): The longest backoff.
//   - statement_cache_capacity, statement_cache_size (default 256 on sessions proven direct, else
//     0; 0 with pgbouncer=true or binary_parameters=yes; 0 = no cache): Prepared statements kept
//     per session. A number that is given here counts without proof: behind a transaction pooler it
//     must be 0.
//   - pgbouncer (default false): Transaction-pooling mode: no named statements, and each call with
//     arguments in one message group, as with binary_parameters=yes.
//   - commit_check (default off): Finds out the fate of a COMMIT that got no answer. on (or xid):
//     by the transaction's id; ledger: by a token row.
//   - leak_detection_threshold (default 0; 0 = off): A lease held longer is logged with the stack
//     that took it.
//   - pool_name (default none): Connectors of one process with the same name share one pool.
//   - schema (default none): Becomes search_path; public does nothing. An error with
//     pgbouncer=true.
//   - sslaccept (default what sslmode says): strict raises sslmode to verify-full;
//     accept_invalid_certs is sslmode=require. An error where an explicit sslmode says the
//     opposite.
//   - channel_binding (default prefer): lib/pq cannot bind channels. require is met by more:
//     sslmode is raised to verify-full, with the system's roots unless sslrootcert is given.
package pgpooled
