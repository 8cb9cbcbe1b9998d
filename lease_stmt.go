package pgpooled

import (
	"context"
	"database/sql/driver"
	"errors"
)

// sessionStmt is what sqlmw's wrapped statement can do.
type sessionStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
	driver.NamedValueChecker
	//lint:ignore SA1019 sqlmw has it
	driver.ColumnConverter
}

// leaseStmt is a prepared statement as database/sql holds it. If nothing but its
// own Prepare has run on the lease, it is like the lease's first call: a reading
// one is run again when its connection is lost, from then on by its text.
type leaseStmt struct {
	sessionStmt
	l     *lease
	query string
	moved bool // its session is gone
}

// ExecContext runs the statement.
func (st *leaseStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return runStmt(ctx, st,
		func() (driver.Result, error) { return st.sessionStmt.ExecContext(ctx, args) },
		func(c sessionConn) (driver.Result, error) { return c.ExecContext(ctx, st.query, args) })
}

// QueryContext runs the statement.
func (st *leaseStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return runStmt(ctx, st,
		func() (driver.Rows, error) { return st.sessionStmt.QueryContext(ctx, args) },
		func(c sessionConn) (driver.Rows, error) { return c.QueryContext(ctx, st.query, args) })
}

func runStmt[T any](ctx context.Context, st *leaseStmt, prepared func() (T, error), byText func(sessionConn) (T, error)) (T, error) {
	if st.moved {
		return firstCall(ctx, st.l, byText)
	}
	fresh := st.l.calls == 1
	st.l.calls++
	v, err := prepared()
	var (
		lost    *ConnLostError
		unknown *OutcomeUnknownError
	)
	errors.As(err, &lost)
	errors.As(err, &unknown)
	switch {
	case fresh && lost != nil && lost.read && st.l.state.Load() == leaseUsed:
		st.moved = true
		return readAgain(ctx, st.l, err, byText)
	case fresh:
	case lost != nil && lost.repeatable:
		// The statement is pinned to a connection. database/sql would try it there
		// again and hide the cause behind sql.ErrConnDone.
		pinned := *lost
		pinned.repeatable = false
		return v, &pinned
	case unknown != nil && unknown.repeatable:
		pinned := *unknown
		pinned.repeatable = false
		return v, &pinned
	}
	return v, err
}
