package pgpooled

import (
	"context"
	"database/sql/driver"
	"slices"
	"time"
)

// stmt is a prepared statement of one lease. database/sql closes it before the
// lease; what is used later all the same is refused here.
type stmt struct {
	driver.Stmt
	intr   *interceptor
	lease  uint64
	own    bool        // the session has it for this lease only
	copies bool        // COPY ... FROM STDIN
	entry  *cachedStmt // the cache's, which closes it; nil = its own
}

var (
	_ driver.StmtExecContext   = (*stmt)(nil)
	_ driver.StmtQueryContext  = (*stmt)(nil)
	_ driver.NamedValueChecker = (*stmt)(nil)
	//lint:ignore SA1019 sqlmw asks for it
	_ driver.ColumnConverter = (*stmt)(nil)
)

// ExecContext runs the statement.
func (st *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if st.lease != st.intr.lease {
		return nil, errStaleStmt
	}
	if st.entry != nil {
		return st.entry.ExecContext(ctx, st.intr, args)
	}
	if e, ok := st.Stmt.(driver.StmtExecContext); ok {
		return e.ExecContext(ctx, args)
	}
	//lint:ignore SA1019 COPY has only this
	return st.Stmt.Exec(values(args))
}

// QueryContext runs the statement.
func (st *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if st.lease != st.intr.lease {
		return nil, errStaleStmt
	}
	if st.entry != nil {
		return st.entry.QueryContext(ctx, st.intr, args)
	}
	if q, ok := st.Stmt.(driver.StmtQueryContext); ok {
		return q.QueryContext(ctx, args)
	}
	//lint:ignore SA1019 some drivers have only this
	return st.Stmt.Query(values(args))
}

// CheckNamedValue asks the statement, then the connection, as database/sql does.
func (st *stmt) CheckNamedValue(nv *driver.NamedValue) error {
	if c, ok := st.Stmt.(driver.NamedValueChecker); ok {
		return c.CheckNamedValue(nv)
	}
	return checkNamedValue(st.intr.s.base, nv)
}

// ColumnConverter keeps the statement's own converter.
func (st *stmt) ColumnConverter(idx int) driver.ValueConverter {
	//lint:ignore SA1019 kept for WithBase
	if c, ok := st.Stmt.(driver.ColumnConverter); ok {
		return c.ColumnConverter(idx)
	}
	return driver.DefaultParameterConverter
}

// textStmt is a prepared statement that only remembers its text, for sessions
// that must not name statements. Errors in the text show at its first use.
type textStmt struct {
	conn  driver.Conn
	query string
}

// Close has nothing to close.
func (t *textStmt) Close() error { return nil }

// NumInput is not known.
func (t *textStmt) NumInput() int { return -1 }

// ExecContext sends the text.
func (t *textStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if c, ok := t.conn.(driver.ExecerContext); ok {
		return c.ExecContext(ctx, t.query, args)
	}
	return nil, driver.ErrSkip
}

// QueryContext sends the text.
func (t *textStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if c, ok := t.conn.(driver.QueryerContext); ok {
		return c.QueryContext(ctx, t.query, args)
	}
	return nil, driver.ErrSkip
}

// Exec is ExecContext without a context.
func (t *textStmt) Exec(args []driver.Value) (driver.Result, error) {
	return t.ExecContext(context.Background(), named(args))
}

// Query is QueryContext without a context.
func (t *textStmt) Query(args []driver.Value) (driver.Rows, error) {
	return t.QueryContext(context.Background(), named(args))
}

// startsWithCopy: lib/pq streams COPY ... FROM STDIN through Prepare.
func startsWithCopy(query string) bool {
	return firstWord(query) == "copy"
}

// checkNamedValue is what database/sql does for a connection.
func checkNamedValue(conn driver.Conn, nv *driver.NamedValue) (err error) {
	if c, ok := conn.(driver.NamedValueChecker); ok {
		return c.CheckNamedValue(nv)
	}
	nv.Value, err = driver.DefaultParameterConverter.ConvertValue(nv.Value)
	return err
}

func values(args []driver.NamedValue) []driver.Value {
	out := make([]driver.Value, len(args))
	for i, a := range args {
		out[i] = a.Value
	}
	return out
}

// StmtExecContext runs a prepared statement that returns no rows.
func (i *interceptor) StmtExecContext(ctx context.Context, st driver.StmtExecContext, query string, args []driver.NamedValue) (driver.Result, error) {
	ctx, c, err := i.start(ctx, "exec", query)
	if err != nil {
		return nil, err
	}
	last := len(args) == 0 && i.feeding() // ends the COPY
	if last {
		i.copied()
	}
	res, err := st.ExecContext(ctx, args)
	if fed, ok := st.(*stmt); ok && last && err != nil {
		// lib/pq says what it has heard so far, and goes on reading in a goroutine
		// of its own; closing waits for that.
		_ = fed.Stmt.Close()
	}
	i.noteChange(query)
	if err = i.end(c, err); last {
		err = i.closeWaiting(err)
	}
	return res, err
}

// StmtQueryContext runs a prepared statement that returns rows.
func (i *interceptor) StmtQueryContext(ctx context.Context, st driver.StmtQueryContext, query string, args []driver.NamedValue) (context.Context, driver.Rows, error) {
	own, c, err := i.start(ctx, "query", query)
	if err != nil {
		return ctx, nil, err
	}
	rows, err := st.QueryContext(own, args)
	i.noteChange(query)
	return ctx, rows, i.opened(c, rows, err)
}

// StmtClose closes a prepared statement, after the rows or the COPY that are
// open: lib/pq would read its answer out of theirs.
func (i *interceptor) StmtClose(_ context.Context, ds driver.Stmt) error {
	st, ok := ds.(*stmt)
	if !ok || st.lease != i.lease {
		return nil
	}
	if i.rows != nil || i.feeding() && !st.copies {
		i.closing = append(i.closing, st)
		return nil
	}
	return i.closeStmt(st)
}

// pin keeps a statement in the cache for one more that the caller has.
func (i *interceptor) pin(e *cachedStmt) {
	if e.pins++; e.pins == 1 {
		i.pinned = append(i.pinned, e)
	}
}

func (i *interceptor) unpin(e *cachedStmt) {
	if e.pins--; e.pins > 0 {
		return
	}
	e.pins = 0
	if n := slices.Index(i.pinned, e); n >= 0 {
		i.pinned = slices.Delete(i.pinned, n, n+1)
	}
}

// closeWaiting closes the statements that had to wait for the end of a call,
// whose error err is.
func (i *interceptor) closeWaiting(err error) error {
	for _, st := range i.closing {
		if cerr := i.closeStmt(st); err == nil {
			err = cerr
		}
	}
	i.closing = nil
	return err
}

func (i *interceptor) closeStmt(st *stmt) error {
	if st.entry != nil {
		i.unpin(st.entry)
		return nil
	}
	if st.own {
		i.unkept--
	}
	if i.s.doomed.Load() || i.failure() != nil {
		return nil // it goes with the session
	}
	c := call{op: "close", ctx: context.Background()}
	if i.tx != nil {
		c.tx = i.tx.ctx
	}
	w := i.s.wire
	if w == nil {
		return i.judge(c, st.Stmt.Close())
	}
	c.before = i.s.bytesSent()
	if st.copies {
		// Closing a COPY sends the rest and waits until the server has taken it.
		if c.tx != nil {
			i.guard.begin(c.tx, i.s, i.grace)
		}
		i.copied()
		return i.closeWaiting(i.end(c, st.Stmt.Close()))
	}
	// database/sql gives no context here, and the server answers at once or not
	// at all.
	_ = w.SetDeadline(time.Now().Add(i.grace))
	err := i.judge(c, st.Stmt.Close())
	if err == nil {
		err = w.SetDeadline(time.Time{})
	}
	return err
}
