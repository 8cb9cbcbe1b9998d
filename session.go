package pgpooled

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lib/pq"
	"github.com/ngrok/sqlmw"
)

// lingerLimit bounds how long a discarded session keeps its slot while its
// server process is still there.
const lingerLimit = 2 * time.Second

// sessionConn is what a connection with the interceptor around it can do, and
// what lib/pq's own can.
type sessionConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.NamedValueChecker
}

// session is one server connection. It is in one hand at a time: the pool's
// while it is idle, a lease's while it is in use, one goroutine's while it is
// opened or closed; handing it over goes through the pool's mutex.
type session struct {
	conn  sessionConn // base with intr around it
	base  driver.Conn // lib/pq's own, or WithBase's
	wire  *wire       // nil with WithBase
	intr  *interceptor
	dials *dialer // nil with WithBase

	pool *pool // whose it is, nil until it is opened

	created time.Time
	jitter  float64 // its share of the lifetime's jitter, drawn once

	replay bool      // it has served a repeated read: for no other lease
	readTx driver.Tx // the read's READ ONLY transaction

	replayOf *ConnLostError // what is being repeated in it, nil = nothing

	evidence   string   // of the server's identity, for commit_check; "" = not asked yet, or none
	noEvidence error    // why there is none
	tokens     []string // in the ledger, of transactions that are known to be committed
	question   string   // tells whether its server was demoted; empty = nobody minds
	unproven   error    // why it was not taken although the server had let it in
	refused    bool     // a write was refused, and nobody has asked since

	gone chan struct{} // with WithBase: closed when close is through

	doomed    atomic.Bool // not to be reused
	cancelled atomic.Bool // doomed, because its deadline fired or a cancel request is on its way

	unreplicated atomic.Bool            // the server warned that no standby may have what it called done
	notices      func(notice *pq.Error) // the caller's handler, nil = none

	// Guarded by pool.mu.
	inUse      bool
	taken      time.Time // when it was leased, in use only
	lease      *lease    // who has it, in use only
	epoch      uint64    // pool.epoch when it was opened
	idleSince  time.Time // when it last came into the pool; read by its owner
	suspect    bool      // a connection failed since then, in use only; read by its owner
	prev, next *session  // pool.leased, in use only
}

// opener makes sessions from a configuration. It is immutable.
type opener struct {
	cfg  *Config
	opts options
}

// connect makes one attempt to open a session, over all hosts, bounded by
// connect_timeout and by ctx. With an error it may return a session as well, that
// the server has accepted: the caller closes it, which may take longer.
func (o *opener) connect(ctx context.Context) (*session, error) {
	start := time.Now()
	cancel := context.CancelFunc(func() {})
	if o.cfg.ConnectTimeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, o.cfg.ConnectTimeout)
	}
	defer cancel()
	s, err := o.attempt(ctx)
	if err != nil {
		e := o.connectError(ctx, s, err, start)
		if s != nil && s.conn == nil {
			s = nil // the server has not accepted it
		}
		return s, e
	}
	s.created = time.Now()
	s.jitter = rand.Float64()
	s.intr.grace = o.cfg.CancelGrace
	if s.intr.grace <= 0 {
		s.intr.grace = max(500*time.Millisecond, 6*s.created.Sub(start))
	}
	return s, nil
}

// attemptExcept takes the hosts that pose as primaries for the standbys that
// they are.
func (o *opener) attemptExcept(ctx context.Context, posing map[string]error) (*session, error) {
	s := &session{}
	base := o.opts.base
	if base == nil {
		cfg, err := o.target(ctx)
		if err != nil {
			return nil, err
		}
		// Behind a transaction pooler each Sync may meet another server process, so
		// a statement has to be one message group.
		cfg.BinaryParameters = cfg.BinaryParameters || o.cfg.PgBouncer
		cfg.ConnectTimeout = 0 // the wire's deadline is absolute, lib/pq's is per host
		if err := nameProtocol(&cfg); err != nil {
			return nil, err
		}
		c, err := pq.NewConnectorConfig(cfg)
		if err != nil {
			return nil, err
		}
		hosts := 1 + len(cfg.Multi)
		if cfg.TargetSessionAttrs == pq.TargetSessionAttrsPreferStandby {
			hosts *= 2 // lib/pq goes through them twice
		}
		s.dials = newDialer(ctx, o, s, hosts)
		s.dials.prefers = cfg.SSLMode == pq.SSLModePrefer
		s.dials.posing = posing
		s.question = questionFor(cfg.TargetSessionAttrs)
		c.Dialer(s.dials)
		base = c
	}
	s.intr = &interceptor{s: s, unnamed: o.cfg.PgBouncer}
	wrapped, err := sqlmw.Driver(bareDriver{base}, s.intr).(driver.DriverContext).OpenConnector("")
	if err != nil {
		return nil, err
	}
	conn, err := wrapped.Connect(ctx)
	if s.dials != nil {
		// All but the last socket were given up by lib/pq, which forgets to
		// close one when sslmode=prefer meets a server without TLS.
		s.wire = s.dials.settle(err == nil)
	}
	if err != nil {
		return s, err
	}
	s.conn = conn.(sessionConn)
	s.watchNotices()
	if s.wire != nil {
		s.conn = &frame{s.base.(sessionConn), s.intr}
		s.wire.greeted()
		s.intr.cache = newStmtCache(o.cfg.StatementCacheCapacity)
	}
	s.intr.grace = lingerLimit // until it is measured
	if s.wire == nil {
		s.gone = make(chan struct{})
	} else {
		s.wire.polite.Store(true) // from here on the server counts a session
	}
	if err := ctx.Err(); err != nil { // the socket may have been cut just now
		return s, err
	}
	if s.unproven = s.verify(); s.unproven != nil {
		return s, s.unproven
	}
	return s, o.finish(ctx, s)
}

// cancel dooms the session on behalf of a context that ended.
func (s *session) cancel() {
	s.cancelled.Store(true)
	s.doomed.Store(true)
}

// target is what lib/pq connects with now.
func (o *opener) target(ctx context.Context) (pq.Config, error) {
	cfg := o.cfg.PQ.Clone()
	if before := o.opts.beforeConnect; before != nil {
		if err := before(ctx, &cfg); err != nil {
			return cfg, fmt.Errorf("WithBeforeConnect: %w", err)
		}
	}
	return cfg, nil
}

// finish prepares a session that the server has accepted.
func (o *opener) finish(ctx context.Context, s *session) error {
	if after := o.opts.afterConnect; after != nil {
		if d, ok := ctx.Deadline(); ok && s.wire != nil {
			// Several hosts shared the time; now it is this one's.
			if err := s.wire.SetDeadline(d); err != nil {
				return err
			}
		}
		if err := s.setUp(ctx, after); err != nil {
			return fmt.Errorf("WithAfterConnect: %w", err)
		}
	}
	if s.wire == nil {
		return nil
	}
	s.wire.patience = o.cfg.SocketTimeout
	return s.wire.SetDeadline(time.Time{})
}

// setUp runs the caller's own preparation of a session, as on a *sql.Conn.
func (s *session) setUp(ctx context.Context, prepare func(context.Context, *sql.Conn) error) error {
	db := sql.OpenDB(borrowed{s.conn})
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	returned := false
	defer func() {
		if !returned { // it ended the goroutine, and nobody else knows the session yet
			s.close()
		}
	}()
	err = prepare(ctx, conn)
	returned = true
	if ended := ctx.Err(); ended != nil {
		return errors.Join(err, ended) // whatever was left open is being closed now
	}
	if s.intr.tx != nil || s.intr.rows != nil {
		// conn.Close would wait for whoever has them.
		return errors.Join(err, errors.New("the session is of no use afterwards: "+closedInTx.String()))
	}
	_ = conn.Close()
	if err != nil {
		return err
	}
	if why, ok := s.comeBack(false); !ok {
		return fmt.Errorf("the session is of no use afterwards: %s", why)
	}
	return nil
}

// borrowed lends a session's connection to a *sql.DB that must not close it.
type borrowed struct{ sessionConn }

func (b borrowed) Connect(context.Context) (driver.Conn, error) { return b, nil }
func (b borrowed) Driver() driver.Driver                        { return nil }
func (b borrowed) Close() error                                 { return nil }

// connectError passes what the server answered and explains the rest.
func (o *opener) connectError(ctx context.Context, s *session, err error, start time.Time) error {
	if direct, ok := err.(*pq.Error); ok { // the server's own answer passes as it is
		return direct
	}
	e := &connectError{cause: err, took: time.Since(start)}
	if s != nil && s.dials != nil && errors.Is(err, pq.ErrSSLNotSupported) && s.dials.turnedAway {
		// lib/pq takes every answer but "yes" to mean that there is no TLS; a
		// server that starts up or shuts down answers with an error.
		e.cause, e.turnedAway = errTurnedAway, true
	}
	e.turnedAway = e.turnedAway || errors.Is(err, errNoDowngrade) ||
		anyOf(err, func(err error) bool { return strings.HasPrefix(err.Error(), withoutProcess) })
	if o.cfg.PQ.SSLNegotiation == pq.SSLNegotiationDirect && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
		// An older server takes TLS that nobody negotiated for garbage and hangs up.
		e.cause = fmt.Errorf("the server hung up: %w (sslnegotiation=direct needs PostgreSQL 17 or newer; leave it out for an older one)", err)
	}
	e.wrongServer = anyOf(err, func(err error) bool { return wrongServer[err.Error()] })
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || (o.cfg.ConnectTimeout > 0 && e.took >= o.cfg.ConnectTimeout) {
		e.timeout = o.cfg.ConnectTimeout
	}
	return e
}

var errTurnedAway = errors.New("the server answered the request for TLS with an error: it starts up or shuts down")

// errNoDowngrade: lib/pq would go on without TLS, and without a word. libpq of
// PostgreSQL 17 does not either.
var errNoDowngrade = errors.New("the server neither granted nor refused TLS: it starts up or shuts down; sslmode=prefer does without TLS only where the server says that it has none")

// withoutProcess begins what lib/pq says, untyped, of an error in the form of
// before PostgreSQL 7.4: the server could not start a process for us, or pgpool-II
// was itself refused by its server.
const withoutProcess = "pq: server error: "

// wrongServer is what lib/pq says, untyped, of a server that does not have the
// target_session_attrs: after a failover it may.
var wrongServer = map[string]bool{
	"session is read-only": true, "session is not read-only": true,
	"server is in hot standby mode": true, "server is not in hot standby mode": true,
}

// comeBack prepares a session that a lease returns for its next caller and says
// whether there can be one.
func (s *session) comeBack(kept bool) (why closeReason, ok bool) {
	clean, left := s.intr.endLease(kept)
	switch {
	case s.replay:
		return closedReplay, false
	case s.cancelled.Load():
		return closedCancelled, false
	case s.doomed.Load(), s.valid() != nil, s.wire != nil && s.wire.failure() != nil:
		return closedBroken, false
	case left:
		return closedInTx, false
	case clean:
		return 0, true
	}
	if s.inTransaction() {
		return closedInTx, false
	}
	if s.refused && s.pool != nil && s.isDemoted(context.Background()) {
		s.pool.demoted(s)
		return closedDemoted, false
	}
	if s.doomed.Load() {
		return closedBroken, false
	}
	return 0, true
}

// inTransaction asks lib/pq whether the server is inside a transaction, without
// a round trip and also under TLS: lib/pq refuses COPY when no transaction is
// open, and if one is open the wire refuses what lib/pq would send. A session
// inside a transaction is of no use afterwards.
func (s *session) inTransaction() bool {
	if s.wire == nil {
		return false
	}
	s.wire.refuse.Store(true)
	defer s.wire.refuse.Store(false)
	st, err := s.base.Prepare("COPY pgpooled FROM STDIN")
	if err == nil {
		_ = st.Close()
		return true
	}
	return s.valid() != nil
}

// close waits for cancel requests on their way, says goodbye, waits until the
// server has closed its end, all of it for at most lingerLimit, and frees
// everything the session had.
func (s *session) close() {
	if s.wire == nil {
		_ = s.conn.Close()
		return
	}
	until := time.Now().Add(lingerLimit)
	s.dials.drain(until)
	_ = s.wire.SetDeadline(until)
	_ = s.base.Close()
	s.wire.hangUp()
	s.dials.close()
	s.intr.guard.unwatch()
}

// awaitGone waits until a session of WithBase is closed: go-sqlmock and its like
// want to see calls in an order, and do not lock against their own test.
func (s *session) awaitGone() {
	if s.gone != nil {
		<-s.gone
	}
}

// abort closes the socket under a call that may be under way.
func (s *session) abort() {
	if s.wire == nil {
		_ = s.conn.Close()
		return
	}
	s.wire.abort()
	s.dials.close()
	s.intr.guard.unwatch()
}

// bareDriver lets sqlmw wrap a connector: it wraps drivers only.
type bareDriver struct{ c driver.Connector }

func (d bareDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("pgpooled: not opened by name")
}
func (d bareDriver) OpenConnector(string) (driver.Connector, error) { return d.c, nil }

// outcomeUnknown reports a statement whose fate nobody knows, unless it can
// still be found out.
func (s *session) outcomeUnknown(ctx context.Context, err *OutcomeUnknownError) error {
	if s.pool != nil && err.ticket == nil {
		s.pool.noteUnknown(ctx, err)
	}
	return err
}

func (p *pool) noteUnknown(ctx context.Context, err *OutcomeUnknownError) {
	p.mu.Lock()
	p.counts.unknown++
	p.logLocked(slog.LevelWarn, "pgpooled: outcome unknown", slog.String("op", err.Op), slog.String("cause", err.Cause.Error()))
	p.mu.Unlock()
	p.observe(ctx, CallEvent{Kind: CallOutcomeUnknown, Op: err.Op, Err: err.Cause})
}
