package pgpooled

import (
	"database/sql"
	"math"
	"time"
)

// closeReason says why a session was closed.
type closeReason int

const (
	closedBroken    closeReason = iota // its connection failed during a call
	closedDead                         // the server had closed it while it was idle
	closedCancelled                    // a context ended during a call
	closedInTx                         // it came back inside a transaction or with rows open
	closedMaxIdle                      // more idle than max_idle_conns
	closedIdleTime                     // idle longer than conn_max_idle_time
	closedLifetime                     // older than conn_max_lifetime
	closedLimit                        // the limit was lowered
	closedRefresh                      // older than a Refresh
	closedReplay                       // it served a repeated read
	closedDemoted                      // its server was demoted
	closedPool                         // the pool was closed
	closeReasons
)

func (r closeReason) String() string {
	return [closeReasons]string{"its connection failed", "the server had closed it", "a context ended during a call",
		"it is inside a transaction or has rows open", "max_idle_conns", "conn_max_idle_time", "conn_max_lifetime",
		"the limit was lowered", "Refresh", "it served a repeated read", "its server was demoted", "the pool was closed"}[r]
}

// counts are the pool's totals since it was opened; guarded by pool.mu.
type counts struct {
	acquires, waits, timeouts, cancelled int64
	waitTime                             time.Duration
	opens, openErrors, openRetries       int64
	outages, reruns                      int64
	waitTimes, useTimes, openTimes       Histogram
	reclaimed, leaks, unknown, replays   int64
	lostCommitted, lostAborted, txAgain  int64
	demotions                            int64
	peakInUse                            int
	closed                               [closeReasons]int64
}

// Stats is the state of a pool at one moment and its totals since it was
// opened. All counters only grow.
type Stats struct {
	Name         string // pool_name, or the server and database
	MaxOpenConns int    // 0 = no limit
	MaxIdleConns int    // -1 = no limit
	MinIdleConns int    // kept warm

	Open      int // server sessions: the sum of the next four
	InUse     int // leased to callers
	Idle      int // used by nobody
	Opening   int // being dialled
	Closing   int // discarded, the server's end not closed yet
	Waiting   int // callers in line
	PeakInUse int // the most ever leased at a time

	Acquires     int64         // sessions handed out
	Waits        int64         // calls that had to wait
	WaitTime     time.Duration // how long they waited together
	PoolTimeouts int64         // calls that got no session within pool_timeout
	Cancelled    int64         // calls whose context ended while they waited

	Opens       int64 // sessions opened
	OpenErrors  int64 // failed attempts to open one
	OpenRetries int64 // those of them after which the pool went on trying

	Outages   int64         // times that the server could not be reached; not counted with retry_mode=off
	OutageFor time.Duration // how long the outage has lasted by now, 0 = none is known of

	WaitTimes Histogram // until a session was handed out; the time of those that got an idle one at once counts as 0
	UseTimes  Histogram // from handing a session out to its return
	OpenTimes Histogram // until a session was open; failed attempts do not count

	ClosedBroken      int64 // closed because the connection failed during a call
	ClosedDead        int64 // closed because the server had closed it while it was idle
	ClosedCancelled   int64 // closed because a context ended during a call
	ClosedInTx        int64 // closed because it came back inside a transaction or with rows open
	ClosedMaxIdle     int64 // closed because of max_idle_conns
	ClosedMaxIdleTime int64 // closed because of conn_max_idle_time
	ClosedMaxLifetime int64 // closed because of conn_max_lifetime
	ClosedLimit       int64 // closed because the limit was lowered
	ClosedRefresh     int64 // closed because of Refresh
	ClosedReplay      int64 // closed because they had served a repeated read
	ClosedDemoted     int64 // closed because their server had been demoted

	Reclaimed       int64 // unused leases whose session went to a waiter
	Leaks           int64 // leases held longer than leak_detection_threshold
	Replays         int64 // reads that ran again on another connection
	Reruns          int64 // other statements that ran again: idempotent ones, and writes that a demoted server refused
	OutcomesUnknown int64 // statements that ended in an OutcomeUnknownError
	LostCommitted   int64 // lost COMMITs that commit_check found committed
	LostAborted     int64 // lost COMMITs that commit_check found not committed
	TxRepeated      int64 // transactions that RunTx ran again
	Demotions       int64 // times that a server turned out to be no primary any more
}

func (p *pool) stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statsLocked()
}

func (p *pool) statsLocked() Stats {
	c := &p.counts
	maxIdle := p.maxIdleLocked()
	if maxIdle == math.MaxInt {
		maxIdle = -1
	}
	return Stats{
		Name: p.name, MaxOpenConns: p.limits.maxOpen, MaxIdleConns: maxIdle, MinIdleConns: p.limits.minIdle,
		Open: p.numOpenLocked(), InUse: p.leased.n, Idle: len(p.idle), Opening: p.opening, Closing: p.closing,
		Waiting: p.waiters.n, PeakInUse: c.peakInUse,
		Acquires: c.acquires, Waits: c.waits, WaitTime: c.waitTime, PoolTimeouts: c.timeouts, Cancelled: c.cancelled,
		Opens: c.opens, OpenErrors: c.openErrors, OpenRetries: c.openRetries,
		Outages: c.outages, OutageFor: p.outage.age(time.Now()),
		WaitTimes: c.waitTimes, UseTimes: c.useTimes, OpenTimes: c.openTimes,
		ClosedBroken: c.closed[closedBroken], ClosedDead: c.closed[closedDead], ClosedCancelled: c.closed[closedCancelled],
		ClosedInTx: c.closed[closedInTx], ClosedMaxIdle: c.closed[closedMaxIdle], ClosedMaxIdleTime: c.closed[closedIdleTime],
		ClosedMaxLifetime: c.closed[closedLifetime], ClosedLimit: c.closed[closedLimit], ClosedRefresh: c.closed[closedRefresh], ClosedReplay: c.closed[closedReplay],
		ClosedDemoted: c.closed[closedDemoted], Demotions: c.demotions,
		Reclaimed: c.reclaimed, Leaks: c.leaks, Replays: c.replays, Reruns: c.reruns, OutcomesUnknown: c.unknown,
		LostCommitted: c.lostCommitted, LostAborted: c.lostAborted, TxRepeated: c.txAgain,
	}
}

// StatsSource is what metrics adapters read: a [Connector] is one. Stats may be
// called at any time from any goroutine and does not wait for the server.
type StatsSource interface{ Stats() Stats }

var _ StatsSource = (*Connector)(nil)

// StatsOf returns the statistics of the pool under db; ok is false if db is not
// pgpooled's, or if a wrapper hides it. db.Stats() shows leases only.
func StatsOf(db *sql.DB) (s Stats, ok bool) {
	c, ok := ConnectorOf(db)
	if !ok {
		return Stats{}, false
	}
	return c.Stats(), true
}

// DBStatsOf returns the pool's statistics as sql.DBStats, for dashboards that
// show those. If db is not pgpooled's it returns db.Stats().
func DBStatsOf(db *sql.DB) sql.DBStats {
	s, ok := StatsOf(db)
	if !ok {
		return db.Stats()
	}
	return sql.DBStats{
		MaxOpenConnections: s.MaxOpenConns,
		OpenConnections:    s.Open,
		InUse:              s.InUse,
		Idle:               s.Idle,
		WaitCount:          s.Waits,
		WaitDuration:       s.WaitTime,
		MaxIdleClosed:      s.ClosedMaxIdle,
		MaxIdleTimeClosed:  s.ClosedMaxIdleTime,
		MaxLifetimeClosed:  s.ClosedMaxLifetime,
	}
}
