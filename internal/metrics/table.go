package metrics

func state(otel, value, means string) Label { return Label{otel, "state", value, means} }

func reason(value, means string) Label {
	return Label{"pgpooled.close.reason", "reason", value, "Sessions closed because " + means + "."}
}

const (
	states  = "db.client.connection.state"
	states2 = "pgpooled.connection.state"

	connections = "Server sessions, by what they are doing."
	closed      = "Sessions that were closed, by the reason."
	fates       = "COMMITs whose answer was lost and whose fate commit_check found out."
)

// Table has all metrics, those of one name next to each other.
var Table = []Metric{
	{Field: "InUse", Kind: Level, OTel: "db.client.connection.count", Prom: "pgpooled_connections", Unit: "{connection}",
		Label: state(states, "used", "Server sessions leased to calls."), Help: connections, Watch: "close to the limit for minutes: callers will wait"},
	{Field: "Idle", Kind: Level, OTel: "db.client.connection.count", Prom: "pgpooled_connections", Unit: "{connection}",
		Label: state(states, "idle", "Server sessions that nobody uses."), Help: connections},
	{Field: "Opening", Kind: Level, OTel: "pgpooled.connection.count", Prom: "pgpooled_connections", Unit: "{connection}",
		Label: state(states2, "opening", "Server sessions being dialled."), Help: connections, Watch: "for minutes: dials hang"},
	{Field: "Closing", Kind: Level, OTel: "pgpooled.connection.count", Prom: "pgpooled_connections", Unit: "{connection}",
		Label: state(states2, "closing", "Server sessions that were given up and whose end the server has not closed yet."), Help: connections, Watch: "for minutes: the server is slow to end cancelled statements"},
	{Field: "PeakInUse", Kind: Gauge, OTel: "pgpooled.connection.used.peak", Prom: "pgpooled_connections_used_peak", Unit: "{connection}",
		Help: "The most sessions that were ever in use at a time."},
	{Field: "MaxOpenConns", Kind: Level, OTel: "db.client.connection.max", Prom: "pgpooled_connections_max", Unit: "{connection}",
		Help: "The limit of server sessions, max_open_conns; absent where there is none.", limit: true, unlimited: 0},
	{Field: "MaxIdleConns", Kind: Level, OTel: "db.client.connection.idle.max", Prom: "pgpooled_connections_idle_max", Unit: "{connection}",
		Help: "The limit of idle sessions, max_idle_conns; absent where there is none.", limit: true, unlimited: -1},
	{Field: "MinIdleConns", Kind: Level, OTel: "db.client.connection.idle.min", Prom: "pgpooled_connections_idle_min", Unit: "{connection}",
		Help: "How many sessions are kept warm, min_idle_conns."},
	{Field: "Waiting", Kind: Level, OTel: "db.client.connection.pending_requests", Prom: "pgpooled_pending_requests", Unit: "{request}",
		Help: "Callers in line for a session.", Watch: "above 0 for minutes: the pool is too small, or somebody keeps sessions"},

	{Field: "Acquires", Kind: Counter, OTel: "pgpooled.acquires", Prom: "pgpooled_acquires_total", Unit: "{acquire}",
		Help: "Sessions handed out."},
	{Field: "Waits", Kind: Counter, OTel: "pgpooled.waits", Prom: "pgpooled_waits_total", Unit: "{wait}",
		Help: "Calls that had to wait for a session."},
	{Field: "WaitTime", Kind: Counter, OTel: "pgpooled.waiting_time", Prom: "pgpooled_waiting_seconds_total", Unit: "s",
		Help: "The time that calls have waited for a session together, also those that got none."},
	{Field: "PoolTimeouts", Kind: Counter, OTel: "db.client.connection.timeouts", Prom: "pgpooled_timeouts_total", Unit: "{timeout}",
		Help: "Calls that got no session within pool_timeout.", Watch: "any: calls failed"},
	{Field: "Cancelled", Kind: Counter, OTel: "pgpooled.cancelled_waits", Prom: "pgpooled_cancelled_waits_total", Unit: "{wait}",
		Help: "Calls whose context ended while they waited for a session.", Watch: "any: calls failed, sooner than pool_timeout"},
	{Field: "WaitTimes", Kind: Histogram, OTel: "db.client.connection.wait_time", Prom: "pgpooled_wait_time_seconds", Unit: "s",
		Help: "How long calls waited until they had a session; 0 for those that got an idle one at once.", Watch: "the 99th percentile against what your callers can bear"},
	{Field: "UseTimes", Kind: Histogram, OTel: "db.client.connection.use_time", Prom: "pgpooled_use_time_seconds", Unit: "s",
		Help: "How long sessions were held by calls, transactions and open rows.", Watch: "the 99th percentile grows: slow statements, or rows left open"},

	{Field: "OpenTimes", Kind: Histogram, OTel: "db.client.connection.create_time", Prom: "pgpooled_create_time_seconds", Unit: "s",
		Help: "How long it took to open sessions, with TLS, authentication and WithAfterConnect; failed attempts do not count.", Watch: "near connect_timeout: cold starts will fail"},
	{Field: "Opens", Kind: Counter, OTel: "pgpooled.opens", Prom: "pgpooled_opens_total", Unit: "{connection}",
		Help: "Sessions opened.", Watch: "a rate near that of acquires: the pool does not keep its sessions, see pgpooled_closed_total"},
	{Field: "OpenErrors", Kind: Counter, OTel: "pgpooled.open_errors", Prom: "pgpooled_open_errors_total", Unit: "{attempt}",
		Help: "Failed attempts to open a session.", Watch: "any without a retry: a password, a certificate, a limit"},
	{Field: "OpenRetries", Kind: Counter, OTel: "pgpooled.open_retries", Prom: "pgpooled_open_retries_total", Unit: "{attempt}",
		Help: "Failed attempts to open a session after which the pool went on trying."},
	{Field: "Outages", Kind: Counter, OTel: "pgpooled.outages", Prom: "pgpooled_outages_total", Unit: "{outage}",
		Help: "Times that the server could not be reached; not counted with retry_mode=off.", Watch: "several in an hour"},
	{Field: "OutageFor", Kind: Gauge, OTel: "pgpooled.outage_duration", Prom: "pgpooled_outage_duration_seconds", Unit: "s",
		Help: "How long the outage has lasted by now; 0 = none is known of.", Watch: "above 0 for longer than a restart takes"},

	{Field: "ClosedBroken", Kind: Counter, OTel: "pgpooled.closed", Prom: "pgpooled_closed_total", Unit: "{connection}",
		Label: reason("broken", "the connection failed during a call"), Help: closed, Watch: "a steady rate: something cuts connections in use"},
	{Field: "ClosedDead", Kind: Counter, OTel: "pgpooled.closed", Prom: "pgpooled_closed_total", Unit: "{connection}",
		Label: reason("dead", "the server had closed them while they were idle"), Help: closed, Watch: "a steady rate: something cuts idle connections before conn_max_idle_time"},
	{Field: "ClosedCancelled", Kind: Counter, OTel: "pgpooled.closed", Prom: "pgpooled_closed_total", Unit: "{connection}",
		Label: reason("cancelled", "a context ended during a call"), Help: closed, Watch: "a high rate: contexts end during calls, and each costs a session"},
	{Field: "ClosedInTx", Kind: Counter, OTel: "pgpooled.closed", Prom: "pgpooled_closed_total", Unit: "{connection}",
		Label: reason("in_transaction", "they came back inside a transaction or with rows open"), Help: closed, Watch: "any: a program leaves transactions or rows open"},
	{Field: "ClosedMaxIdle", Kind: Counter, OTel: "pgpooled.closed", Prom: "pgpooled_closed_total", Unit: "{connection}",
		Label: reason("max_idle", "of max_idle_conns"), Help: closed, Watch: "a high rate: max_idle_conns is too low"},
	{Field: "ClosedMaxIdleTime", Kind: Counter, OTel: "pgpooled.closed", Prom: "pgpooled_closed_total", Unit: "{connection}",
		Label: reason("idle_time", "of conn_max_idle_time"), Help: closed},
	{Field: "ClosedMaxLifetime", Kind: Counter, OTel: "pgpooled.closed", Prom: "pgpooled_closed_total", Unit: "{connection}",
		Label: reason("lifetime", "of conn_max_lifetime"), Help: closed},
	{Field: "ClosedLimit", Kind: Counter, OTel: "pgpooled.closed", Prom: "pgpooled_closed_total", Unit: "{connection}",
		Label: reason("limit", "the limit was lowered"), Help: closed},
	{Field: "ClosedRefresh", Kind: Counter, OTel: "pgpooled.closed", Prom: "pgpooled_closed_total", Unit: "{connection}",
		Label: reason("refresh", "of Refresh"), Help: closed},
	{Field: "ClosedReplay", Kind: Counter, OTel: "pgpooled.closed", Prom: "pgpooled_closed_total", Unit: "{connection}",
		Label: reason("replay", "they had served a read that ran again"), Help: closed},
	{Field: "ClosedDemoted", Kind: Counter, OTel: "pgpooled.closed", Prom: "pgpooled_closed_total", Unit: "{connection}",
		Label: reason("demoted", "their server had been demoted"), Help: closed},
	{Field: "Reclaimed", Kind: Counter, OTel: "pgpooled.reclaimed", Prom: "pgpooled_reclaimed_total", Unit: "{connection}",
		Help: "Unused connections of database/sql whose session went to a waiter.", Watch: "a steady rate: a limit on the sql.DB above is in the way"},
	{Field: "Leaks", Kind: Counter, OTel: "pgpooled.leaks", Prom: "pgpooled_leaks_total", Unit: "{connection}",
		Help: "Sessions held longer than leak_detection_threshold.", Watch: "any: the log has the stack"},

	{Field: "Replays", Kind: Counter, OTel: "pgpooled.replays", Prom: "pgpooled_replays_total", Unit: "{statement}",
		Help: "Reads whose answer was lost and that ran again."},
	{Field: "Reruns", Kind: Counter, OTel: "pgpooled.reruns", Prom: "pgpooled_reruns_total", Unit: "{statement}",
		Help: "Other statements that ran again: idempotent ones, and writes that a demoted server refused."},
	{Field: "OutcomesUnknown", Kind: Counter, OTel: "pgpooled.outcomes_unknown", Prom: "pgpooled_outcomes_unknown_total", Unit: "{statement}",
		Help: "Statements whose answer was lost after they were sent, so that they may have been executed.", Watch: "any: somebody has to look for their effect"},
	{Field: "LostCommitted", Kind: Counter, OTel: "pgpooled.lost_commits", Prom: "pgpooled_lost_commits_total", Unit: "{transaction}",
		Label: Label{"pgpooled.commit.fate", "fate", "committed", "COMMITs whose answer was lost, found committed by commit_check."}, Help: fates},
	{Field: "LostAborted", Kind: Counter, OTel: "pgpooled.lost_commits", Prom: "pgpooled_lost_commits_total", Unit: "{transaction}",
		Label: Label{"pgpooled.commit.fate", "fate", "aborted", "COMMITs whose answer was lost, found not committed by commit_check."}, Help: fates},
	{Field: "TxRepeated", Kind: Counter, OTel: "pgpooled.transactions_repeated", Prom: "pgpooled_transactions_repeated_total", Unit: "{transaction}",
		Help: "Transactions that RunTx ran again.", Watch: "a rate near that of transactions: they collide"},
	{Field: "Demotions", Kind: Counter, OTel: "pgpooled.demotions", Prom: "pgpooled_demotions_total", Unit: "{demotion}",
		Help: "Times that a server turned out to be no primary any more.", Watch: "several in an hour: a pooler or proxy leads to the old primary"},
}
