package pgpooled

import (
	"context"
	"database/sql/driver"
	"errors"
	"runtime"
	"sync/atomic"
	"time"
)

// A lease is in one of these states. It leaves leaseFresh by compare-and-swap:
// either its first call wins it or the pool takes its session back.
const (
	leaseEmpty int32 = iota // has no session: it takes one at its next call
	leaseFresh              // has a session, nothing was asked of it
	leaseUsed               // has a session
	leaseClosed
)

// parkedAfter is how long a lease may stay unused before its session counts as
// parked: it is looked at again before its first call, and it may be given to a
// waiter.
const parkedAfter = 20 * time.Millisecond

var errLeaseClosed = errors.New("pgpooled: connection used after it was closed")

// lease is the driver.Conn that database/sql holds. When it is asked whether it
// is valid, database/sql has done with it: its session goes back to the pool,
// and what database/sql keeps has none until it is used again. database/sql
// makes one call at a time; the pool may reclaim the session of a fresh lease at
// any time.
type lease struct {
	pool     *pool
	shut     *atomic.Bool // its connector is closed
	state    atomic.Int32
	s        *session // owned by whoever won the state
	turn     uint64   // counts the users that database/sql gave it to
	calls    int      // what ran on it in this turn, Ping aside
	replayed bool     // its session is still inside a repeated read's transaction
	failed   error    // why it got no session, until a call has said so

	raw  bool // PQConn gave lib/pq's connection away
	solo bool // database/sql keeps it: there is no pool to return to

	lost error // why it was closed before its time

	wait *waiter // its place in line, nil until it has waited

	stack  []uintptr // who took it, with leak detection only
	leaked bool      // guarded by pool.mu: it was reported
}

var (
	_ driver.Conn               = (*lease)(nil)
	_ driver.ConnBeginTx        = (*lease)(nil)
	_ driver.ConnPrepareContext = (*lease)(nil)
	_ driver.ExecerContext      = (*lease)(nil)
	_ driver.QueryerContext     = (*lease)(nil)
	//lint:ignore SA1019 lib/pq has it
	_ driver.Execer = (*lease)(nil)
	//lint:ignore SA1019 lib/pq has it
	_ driver.Queryer           = (*lease)(nil)
	_ driver.NamedValueChecker = (*lease)(nil)
	_ driver.Pinger            = (*lease)(nil)
	_ driver.SessionResetter   = (*lease)(nil)
	_ driver.Validator         = (*lease)(nil)
)

// newLease leases a session.
func (p *pool) newLease(ctx context.Context) (*lease, error) {
	l := &lease{pool: p}
	if err := l.take(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// take gets a session for a lease that has none.
func (l *lease) take(ctx context.Context) error {
	if l.shut != nil && l.shut.Load() {
		return ErrClosed
	}
	if l.pool.tracing {
		l.trace()
	}
	if _, err := l.pool.acquire(ctx, l); err != nil {
		return err
	}
	l.state.Store(leaseFresh)
	return nil
}

// trace remembers who takes the lease.
func (l *lease) trace() {
	pcs := make([]uintptr, 32)
	l.stack = pcs[:runtime.Callers(4, pcs)]
}

// use returns the session for a call. The first call of a lease that was put
// aside meanwhile looks at the socket again, or takes another session.
func (l *lease) use(ctx context.Context) (*session, error) {
	switch l.state.Load() {
	case leaseUsed:
		if l.replayed && l.s.intr.rows == nil { // the rows of a repeated read are through
			if err := l.s.endReadOnly(ctx); err != nil {
				return nil, err
			}
			l.replayed = false
		}
		return l.s, nil
	case leaseClosed:
		if l.lost != nil {
			return nil, l.lost
		}
		return nil, errLeaseClosed
	}
	if l.state.CompareAndSwap(leaseFresh, leaseUsed) {
		if time.Since(l.s.taken) < parkedAfter || l.s.check() == nil {
			return l.s, nil
		}
		l.pool.giveUp(l.s, closedDead)
	}
	if err := l.failed; err != nil {
		l.failed = nil
		return nil, err
	}
	return l.replace(ctx)
}

// replace takes another session. Nothing has run on the lease, so no state of a
// session can be missing.
func (l *lease) replace(ctx context.Context) (*session, error) {
	l.state.Store(leaseEmpty)
	l.replayed = false // that was on the session before
	if l.pool.tracing {
		l.trace()
	}
	s, err := l.pool.acquire(ctx, l)
	if err != nil {
		return nil, err
	}
	l.state.Store(leaseUsed)
	return s, nil
}

// Close returns the session to the pool. A closed lease is inert.
func (l *lease) Close() error {
	l.giveBack(leaseClosed)
	return nil
}

// giveBack returns the session, if there is one, to the pool. It says whether
// the lease was open.
func (l *lease) giveBack(next int32) bool {
	for {
		state := l.state.Load()
		if state == leaseClosed {
			return false
		}
		if !l.state.CompareAndSwap(state, next) {
			continue
		}
		if state != leaseEmpty {
			if l.raw {
				l.s.clearHandlers()
			}
			l.pool.release(l.s)
		}
		return true
	}
}

// IsValid is what database/sql asks when it has done with the lease. The session
// goes back to the pool; without it the lease costs nothing, and database/sql
// may keep it. One that has a statement which is in no cache has to be closed,
// for database/sql would go on to use it. So has one in the middle of rows or a
// transaction: if it was a wrapper that asked, what comes next belongs to them.
func (l *lease) IsValid() bool {
	switch state := l.state.Load(); {
	case l.solo && state != leaseClosed:
		l.pool.mu.Lock()
		expired := l.pool.expiredLocked(l.s, time.Now())
		l.pool.mu.Unlock()
		return !expired && l.s.check() == nil
	case !l.pool.keeps, state == leaseUsed && l.s.intr.busy(), l.shut != nil && l.shut.Load():
		return false
	}
	l.turn++
	open := l.giveBack(leaseEmpty)
	l.calls, l.replayed, l.raw, l.failed = 0, false, false, nil
	return open
}

// ResetSession is what database/sql asks before it uses a lease again that it
// has kept: it gets a session, as a new one would. An error is told once more by
// the call that follows: database/sql heeds none here but ErrBadConn, and would
// wait for another lease as long as it has waited for this one.
//
// A lease that still has a session was kept because something between
// database/sql and pgpooled hides IsValid.
func (l *lease) ResetSession(ctx context.Context) error {
	if l.state.Load() == leaseEmpty {
		l.failed = l.take(ctx)
		return l.failed
	}
	if !l.solo {
		l.pool.hintHidden()
	}
	s, err := l.use(ctx)
	if err != nil {
		return driver.ErrBadConn
	}
	if s.check() != nil {
		return driver.ErrBadConn
	}
	if _, ok := s.comeBack(true); !ok {
		s.doomed.Store(true)
		return driver.ErrBadConn
	}
	return nil
}

// ExecContext runs a statement that returns no rows.
func (l *lease) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return l.exec(ctx, query, args, false)
}

// exec runs a text; prepared says that the caller has prepared it.
func (l *lease) exec(ctx context.Context, query string, args []driver.NamedValue, prepared bool) (driver.Result, error) {
	s, first, err := l.begin(ctx, prepared)
	if err != nil {
		return nil, err
	}
	res, err := s.conn.ExecContext(ctx, query, args)
	if err != nil && first {
		return callAgain(ctx, l, query, err, func(c sessionConn) (driver.Result, error) { return c.ExecContext(ctx, query, args) })
	}
	return res, err
}

// QueryContext runs a statement that returns rows.
func (l *lease) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return l.query(ctx, query, args, false)
}

func (l *lease) query(ctx context.Context, query string, args []driver.NamedValue, prepared bool) (driver.Rows, error) {
	s, first, err := l.begin(ctx, prepared)
	if err != nil {
		return nil, err
	}
	rows, err := s.conn.QueryContext(ctx, query, args)
	if err != nil && first {
		return callAgain(ctx, l, query, err, func(c sessionConn) (driver.Rows, error) { return c.QueryContext(ctx, query, args) })
	}
	return rows, err
}

// begin returns the session for a statement, and whether it is the lease's first
// call.
func (l *lease) begin(ctx context.Context, prepared bool) (s *session, first bool, err error) {
	first = l.state.Load() != leaseUsed
	if s, err = l.use(ctx); err != nil {
		return nil, false, err
	}
	s.intr.prepared = prepared
	l.calls++
	return s, first, nil
}

// callAgain runs a statement that failed as the first call of its lease again:
// when its connection was lost and it only reads or is idempotent, or when its
// server was demoted.
func callAgain[T any](ctx context.Context, l *lease, query string, err error, run func(sessionConn) (T, error)) (T, error) {
	var unknown *OutcomeUnknownError
	switch {
	case l.state.Load() != leaseUsed:
		var zero T
		return zero, err
	case l.s.refused && isPlainWrite(query):
		return runElsewhere(ctx, l, err, run)
	case errors.As(err, &unknown) && unknown.repeatable:
		return runAgain(ctx, l, err, run)
	}
	return readAgain(ctx, l, err, run)
}

// PrepareContext prepares a statement.
func (l *lease) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s, err := l.use(ctx)
	if err != nil {
		return nil, err
	}
	l.calls++
	st, err := s.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	return &leaseStmt{sessionStmt: st.(sessionStmt), l: l, turn: l.turn, query: query}, nil
}

// BeginTx begins a transaction.
func (l *lease) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	first := l.state.Load() != leaseUsed
	s, err := l.use(ctx)
	if err != nil {
		return nil, err
	}
	l.calls++
	tx, err := s.conn.BeginTx(ctx, opts)
	if err != nil && first && s.refused {
		tx, err = runElsewhere(ctx, l, err, func(c sessionConn) (driver.Tx, error) { return c.BeginTx(ctx, opts) })
	}
	if err != nil {
		return nil, err
	}
	return &leaseTx{Tx: tx, l: l, ctx: ctx}, nil
}

// Ping makes a round trip. database/sql repeats everything but this, so a Ping
// that is the first call of its lease is repeated here, as often as database/sql
// repeats the rest.
func (l *lease) Ping(ctx context.Context) error {
	first := l.state.Load() != leaseUsed
	s, err := l.use(ctx)
	for tries := 3; err == nil; tries-- {
		err = s.conn.Ping(ctx)
		if !first || tries == 1 || !errors.Is(err, driver.ErrBadConn) {
			return err
		}
		l.pool.giveUp(s, closedBroken)
		s, err = l.replace(ctx)
	}
	return err
}

// CheckNamedValue converts an argument as lib/pq would. database/sql asks before
// the call and without its context, so no session is taken for it: lib/pq's
// answer depends on the configuration only.
func (l *lease) CheckNamedValue(nv *driver.NamedValue) error {
	return checkNamedValue(l.pool.exemplar(), nv)
}

// Prepare, Begin, Exec and Query are for wrappers that know no context.
func (l *lease) Prepare(query string) (driver.Stmt, error) {
	return l.PrepareContext(context.Background(), query)
}

// Begin is BeginTx without a context.
func (l *lease) Begin() (driver.Tx, error) {
	return l.BeginTx(context.Background(), driver.TxOptions{})
}

// Exec is ExecContext without a context.
func (l *lease) Exec(query string, args []driver.Value) (driver.Result, error) {
	return l.ExecContext(context.Background(), query, named(args))
}

// Query is QueryContext without a context.
func (l *lease) Query(query string, args []driver.Value) (driver.Rows, error) {
	return l.QueryContext(context.Background(), query, named(args))
}

func named(args []driver.Value) []driver.NamedValue {
	out := make([]driver.NamedValue, len(args))
	for i, a := range args {
		out[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	return out
}

// PQConn returns lib/pq's own connection out of what [database/sql.Conn.Raw]
// hands over, for pq.SetNoticeHandler and its like, which panic on any other
// connection. It returns nil if the argument is not pgpooled's, or if the pool
// has no session for it within pool_timeout. The connection is valid inside
// Raw's function only; notice and notification handlers set on it are removed
// when the session goes back to the pool.
func PQConn(driverConn any) driver.Conn {
	l, ok := driverConn.(*lease)
	if solo, isSolo := driverConn.(*soloConn); isSolo {
		l, ok = solo.lease, true
	}
	if !ok {
		return nil
	}
	l.failed = nil // there is no error to return
	s, err := l.use(context.Background())
	if err != nil {
		return nil
	}
	l.calls++ // whatever the caller does with it
	l.raw = true
	return s.lend()
}
