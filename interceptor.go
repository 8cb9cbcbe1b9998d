package pgpooled

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"time"

	"github.com/ngrok/sqlmw"
)

// interceptor is the sqlmw interceptor of one session: it guards the deadline
// of each call and judges what a failure means by the bytes that had left.
// database/sql makes one call at a time on a connection; only the guard's
// timers run beside it.
type interceptor struct {
	sqlmw.NullInterceptor
	s       *session
	unnamed bool          // no named statements: a pooler may run somebody else's
	grace   time.Duration // between a context's end and giving up the connection

	lease  uint64      // counts the leases: what belongs to an earlier one is stale
	used   bool        // something was asked of the session in this lease
	raw    bool        // the caller has lib/pq's connection and may set handlers on it
	rows   driver.Rows // open rows, nil = none
	read   call        // the call that opened them
	broken error       // why they ended early, nil = they did not
	tx     *txn        // the transaction begun through BeginTx, nil = none

	closing []*stmt // statements to close once the rows, or a COPY, are
	unkept  int     // statements of this lease that are in no cache

	prepared bool          // the text of the call is one that the caller has prepared
	cache    *stmtCache    // nil = none
	pinned   []*cachedStmt // that statements of this lease have

	guard guard
}

// call is one call on a session, from before the first byte until its answer is
// complete.
type call struct {
	op     string
	query  string          // the text, empty if there is none
	rows   bool            // it has opened rows
	ctx    context.Context // the caller's
	tx     context.Context // the transaction's, nil outside one
	loose  bool            // a text has ended the transaction before
	before int64           // bytes written before it
	ticket *ticket         // a COMMIT's, with commit_check
}

// ended is the error of the context that has ended, the caller's first.
func (c call) ended() error {
	if err := c.ctx.Err(); err != nil || c.tx == nil {
		return err
	}
	return c.tx.Err()
}

// commits says whether what the call did, in a transaction, may stay although
// its connection is lost.
func (c call) commits() bool {
	if c.loose && (c.op == "exec" || c.op == "query") {
		return !onlyReads(c.query)
	}
	_, commits := endsTx(c.query)
	return commits
}

// txn is the driver.Tx of one lease.
type txn struct {
	driver.Tx
	ctx      context.Context
	intr     *interceptor
	lease    uint64
	check    CommitCheck
	readOnly bool // as asked of BeginTx
	loose    bool // a text may have ended it
}

// start opens a call: it refuses one that cannot go well without sending a byte
// and sets the guard. The context it returns is what lib/pq watches: it also
// ends with the transaction's.
func (i *interceptor) start(ctx context.Context, op, query string) (context.Context, call, error) {
	return i.startWithin(ctx, i.grace, op, query)
}

// startWithin is start with a grace of its own.
func (i *interceptor) startWithin(ctx context.Context, grace time.Duration, op, query string) (context.Context, call, error) {
	c := call{op: op, query: query, ctx: ctx}
	if i.tx != nil {
		c.tx, c.loose = i.tx.ctx, i.tx.loose
	}
	if i.rows != nil || i.feeding() && !(op == "exec" && startsWithCopy(query)) {
		return ctx, c, errRowsOpen
	}
	if err := c.ended(); err != nil {
		return ctx, c, err
	}
	first := !i.used
	i.used = true
	i.watchAgain()
	c.before = i.s.bytesSent()
	if w := i.s.wire; w != nil {
		cause := w.failure()
		if cause == nil && i.s.cancelled.Load() {
			cause = errLateCancel
		}
		if cause != nil {
			return ctx, c, i.lost(c, cause)
		}
	}
	if i.tx != nil && (op == "exec" || op == "query") {
		i.tx.loose = i.tx.loose || mayEndTx(query)
	}
	if c.tx != nil && c.tx.Done() != nil && c.tx.Done() != ctx.Done() {
		ctx = i.guard.merge(ctx, c.tx)
	}
	i.guard.begin(ctx, i.s, grace)
	if first && i.cache != nil && i.cache.wanted && i.cache.direct == unproven {
		if err := i.prove(); err != nil {
			c.op = "prepare" // nothing of the call was sent
			return ctx, c, i.end(c, err)
		}
		if err := c.ended(); err != nil {
			i.guard.end()
			return ctx, c, err
		}
		c.before = i.s.bytesSent()
	}
	return i.guard.watched(ctx), c, nil
}

// busy says whether the lease has something that ends with it.
func (i *interceptor) busy() bool { return i.unkept > 0 || i.rows != nil || i.tx != nil }

// endLease makes everything of the lease stale; what a wrapper has database/sql
// keep loses its rows and transaction only. clean: nothing was asked of the
// session; left: rows or a transaction were left open.
func (i *interceptor) endLease(kept bool) (clean, left bool) {
	clean, left = !i.used, i.rows != nil || i.tx != nil
	i.guard.end()
	if i.cache != nil {
		i.cache.begun = false // a session inside a transaction is discarded
	}
	if !kept {
		for n, e := range i.pinned {
			e.pins, i.pinned[n] = 0, nil
		}
		i.pinned, i.unkept = i.pinned[:0], 0
		i.lease++
	}
	i.used, i.rows, i.tx, i.closing, i.broken, i.prepared = false, nil, nil, nil, nil, false
	return clean, left
}

// ConnectorConnect opens the connection under the session.
func (i *interceptor) ConnectorConnect(ctx context.Context, c driver.Connector) (driver.Conn, error) {
	conn, err := c.Connect(ctx)
	if err == nil {
		i.s.base = conn
	}
	return conn, err
}

// ConnPing asks the server for an empty answer.
func (i *interceptor) ConnPing(ctx context.Context, conn driver.Pinger) error {
	ctx, c, err := i.start(ctx, "ping", "")
	if err != nil {
		return err
	}
	return i.end(c, conn.Ping(ctx))
}

// ConnExecContext runs a statement that returns no rows.
func (i *interceptor) ConnExecContext(ctx context.Context, conn driver.ExecerContext, query string, args []driver.NamedValue) (driver.Result, error) {
	ctx, c, err := i.start(ctx, "exec", query)
	if err != nil {
		return nil, err
	}
	e, err := i.cachedStmt(ctx, &c, query, i.comes(len(args)))
	if err != nil {
		return nil, i.end(c, err)
	}
	if e != nil {
		res, err := e.ExecContext(ctx, i, args)
		return res, i.end(c, err)
	}
	res, err := conn.ExecContext(ctx, query, args)
	i.noteChange(query)
	return res, i.end(c, err)
}

// ConnQueryContext runs a statement that returns rows; the call goes on until
// they are closed.
func (i *interceptor) ConnQueryContext(ctx context.Context, conn driver.QueryerContext, query string, args []driver.NamedValue) (context.Context, driver.Rows, error) {
	own, c, err := i.start(ctx, "query", query)
	if err != nil {
		return ctx, nil, err
	}
	e, err := i.cachedStmt(own, &c, query, i.comes(len(args)))
	if err != nil {
		return ctx, nil, i.end(c, err)
	}
	if e != nil {
		rows, err := e.QueryContext(own, i, args)
		return ctx, rows, i.opened(c, rows, err)
	}
	rows, err := conn.QueryContext(own, query, args)
	i.noteChange(query)
	return ctx, rows, i.opened(c, rows, err)
}

func (i *interceptor) opened(c call, rows driver.Rows, err error) error {
	if err != nil {
		return i.end(c, err)
	}
	c.rows = true
	i.rows, i.read = rows, c
	return nil
}

// ConnPrepareContext prepares a statement.
func (i *interceptor) ConnPrepareContext(ctx context.Context, conn driver.ConnPrepareContext, query string) (context.Context, driver.Stmt, error) {
	copies := startsWithCopy(query)
	if i.unnamed && !copies {
		return ctx, &stmt{Stmt: &textStmt{conn: i.s.base, query: query}, intr: i, lease: i.lease}, nil
	}
	own, c, err := i.start(ctx, "prepare", query)
	if err != nil {
		return ctx, nil, err
	}
	if !copies {
		e, err := i.cachedStmt(own, &c, query, byPrepare)
		if err != nil || e != nil {
			if err = i.end(c, err); err != nil {
				return ctx, nil, err
			}
			i.pin(e)
			return ctx, &stmt{Stmt: e.st, intr: i, lease: i.lease, entry: e}, nil
		}
	}
	if copies && i.s.wire != nil {
		i.s.wire.copying.Store(true)
	}
	st, err := conn.PrepareContext(own, query)
	if copies && err != nil {
		i.copied()
	}
	if err = i.end(c, err); err != nil {
		return ctx, nil, err
	}
	i.unkept++
	return ctx, &stmt{Stmt: st, intr: i, lease: i.lease, own: true, copies: copies}, nil
}

// feeding says whether a COPY is open: lib/pq reads its answer in a goroutine of
// its own, and nobody else may read.
func (i *interceptor) feeding() bool { return i.s.wire != nil && i.s.wire.copying.Load() }

// copied notes that no COPY is being fed any more.
func (i *interceptor) copied() {
	if i.feeding() {
		i.s.wire.endCopy()
	}
}

// ConnBeginTx begins a transaction. lib/pq does not get to see the context: it
// would watch it until the end of the transaction and could cancel its COMMIT.
func (i *interceptor) ConnBeginTx(ctx context.Context, conn driver.ConnBeginTx, opts driver.TxOptions) (context.Context, driver.Tx, error) {
	_, c, err := i.start(ctx, "begin", "")
	if err != nil {
		return ctx, nil, err
	}
	check := i.commitCheck(ctx, opts)
	if check != CommitCheckOff {
		err = i.prepareCheck(check)
	}
	var tx driver.Tx
	if err == nil {
		own := ctx
		if ctx.Done() != nil {
			own = context.WithoutCancel(ctx)
		}
		tx, err = conn.BeginTx(own, opts)
	}
	if err = i.end(c, err); err != nil {
		return ctx, nil, err
	}
	i.tx = &txn{Tx: tx, ctx: ctx, intr: i, lease: i.lease, check: check, readOnly: opts.ReadOnly}
	return ctx, i.tx, nil
}

// TxCommit ends a transaction. Once it is sent only the server knows.
func (i *interceptor) TxCommit(ctx context.Context, tx driver.Tx) error {
	return i.finishTx("commit", tx, driver.Tx.Commit)
}

// TxRollback ends a transaction.
func (i *interceptor) TxRollback(ctx context.Context, tx driver.Tx) error {
	return i.finishTx("rollback", tx, driver.Tx.Rollback)
}

func (i *interceptor) finishTx(op string, tx driver.Tx, finish func(driver.Tx) error) error {
	t, ok := tx.(*txn)
	if !ok || t.lease != i.lease || i.tx != t {
		return errStaleTx
	}
	// COMMIT and ROLLBACK are not cancelled; the guard only gives the
	// connection up when the network is silent after the context's end.
	c := call{op: op, ctx: t.ctx, tx: t.ctx, loose: t.loose, before: i.s.bytesSent()}
	if i.rows != nil {
		return errRowsOpen
	}
	i.watchAgain()
	if op == "commit" {
		if err := t.ctx.Err(); err != nil {
			return err
		}
	}
	if i.feeding() {
		i.tx = nil
		i.s.doomed.Store(true)
		i.s.wire.abort()
		return &ConnLostError{Op: op, InTx: true, Cause: errCopyOpen}
	}
	if i.s.wire != nil && i.s.cancelled.Load() {
		switch {
		case op == "commit":
			i.tx = nil
			return i.lost(c, errLateCancel)
		case i.failure() == nil && !t.loose:
			i.tx = nil
			return nil // the session is closed now, and that rolls back
		}
	}
	grace := i.grace
	if op == "commit" && t.check != CommitCheckOff {
		grace /= 2 // the other half is for finding out
		finish = func(driver.Tx) error { return i.commit(&c, t) }
	}
	i.guard.begin(t.ctx, i.s, grace)
	err := finish(t.Tx)
	i.tx = nil
	i.settle()
	if err != nil && i.refusedHere(c, err) {
		i.guard.end()
		i.s.doomed.Store(true)
		return err
	}
	return i.end(c, err)
}

// refusedHere: lib/pq itself refuses to end a transaction that the caller has
// ended by text. Whether it was committed then is not for us to say.
func (i *interceptor) refusedHere(c call, err error) bool {
	var ne net.Error
	return i.s.wire != nil && i.sent(c) == 0 && i.failure() == nil && !errors.Is(err, driver.ErrBadConn) && !errors.As(err, &ne) && c.ended() == nil
}

// RowsNext reads a row.
func (i *interceptor) RowsNext(_ context.Context, rows driver.Rows, dest []driver.Value) error {
	if i.rows != rows {
		return errStaleRows
	}
	err := rows.Next(dest)
	switch err {
	case nil:
		return nil
	case io.EOF: // the contract of driver.Rows
		if i.broken = i.trust(i.read); i.broken != nil {
			return i.broken
		}
		return err
	}
	if err = i.judge(i.read, err); err != nil && i.s.doomed.Load() {
		i.broken = err
	}
	return err
}

// RowsClose ends the call that opened the rows.
func (i *interceptor) RowsClose(_ context.Context, rows driver.Rows) error {
	if i.rows != rows {
		return nil
	}
	if i.broken != nil && i.s.wire != nil {
		i.s.wire.cut() // there is nothing to wait for
	}
	err := rows.Close()
	if i.broken != nil { // already judged
		i.guard.end()
		err = i.broken
	} else {
		err = i.end(i.read, err)
	}
	i.rows, i.broken = nil, nil
	return i.closeWaiting(err)
}
