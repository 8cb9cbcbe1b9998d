package pgpooled

import (
	"context"
	"database/sql/driver"
	"errors"
)

// sessionStmt is what a session's statement can do.
type sessionStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
	driver.NamedValueChecker
	//lint:ignore SA1019 sqlmw has it
	driver.ColumnConverter
}

// leaseStmt is a prepared statement as database/sql holds it. If nothing but its
// own Prepare has run on the lease, it is like the lease's first call: what may be
// repeated is run again when its connection is lost, from then on by its text. So
// is what is run after the lease went to its next user, on another session: the
// text is in the statement cache.
type leaseStmt struct {
	sessionStmt
	l     *lease
	turn  uint64 // the lease's, when it was prepared
	query string
	moved bool // its session is gone
}

// byText says whether only the text is left of the statement.
func (st *leaseStmt) byText() bool { return st.moved || st.turn != st.l.turn }

// Close closes the statement, unless it went with its session, which may serve
// somebody else by now.
func (st *leaseStmt) Close() error {
	if st.byText() || st.l.state.Load() != leaseUsed {
		return nil
	}
	return st.sessionStmt.Close()
}

// ExecContext runs the statement.
func (st *leaseStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if st.byText() {
		return st.l.exec(ctx, st.query, args, true)
	}
	fresh := st.begin()
	res, err := st.sessionStmt.ExecContext(ctx, args)
	if err != nil {
		return stmtAgain(ctx, st, fresh, err, func(c sessionConn) (driver.Result, error) { return c.ExecContext(ctx, st.query, args) })
	}
	return res, nil
}

// QueryContext runs the statement.
func (st *leaseStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if st.byText() {
		return st.l.query(ctx, st.query, args, true)
	}
	fresh := st.begin()
	rows, err := st.sessionStmt.QueryContext(ctx, args)
	if err != nil {
		return stmtAgain(ctx, st, fresh, err, func(c sessionConn) (driver.Rows, error) { return c.QueryContext(ctx, st.query, args) })
	}
	return rows, nil
}

// Exec and Query are for wrappers that know no context.
func (st *leaseStmt) Exec(args []driver.Value) (driver.Result, error) {
	return st.ExecContext(context.Background(), named(args))
}

// Query is QueryContext without a context.
func (st *leaseStmt) Query(args []driver.Value) (driver.Rows, error) {
	return st.QueryContext(context.Background(), named(args))
}

// begin counts a call and says whether nothing but its Prepare came before.
func (st *leaseStmt) begin() (fresh bool) {
	fresh = st.l.calls == 1
	st.l.calls++
	return fresh
}

// stmtAgain is callAgain for a statement.
func stmtAgain[T any](ctx context.Context, st *leaseStmt, fresh bool, err error, byText func(sessionConn) (T, error)) (v T, _ error) {
	fresh = fresh && st.l.state.Load() == leaseUsed
	var lost *ConnLostError // here, because it escapes
	switch {
	case fresh && st.l.s.refused && isPlainWrite(st.query):
		on := st.l.s
		v, err = runElsewhere(ctx, st.l, err, byText)
		st.moved = st.l.s != on || st.l.state.Load() != leaseUsed
		return v, err
	case fresh && errors.As(err, &lost) && lost.read:
		st.moved = true
		return readAgain(ctx, st.l, err, byText)
	case fresh && errors.Is(err, driver.ErrBadConn):
		st.moved = true
		return runAgain(ctx, st.l, err, byText)
	}
	return v, pinned(err)
}
