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
// own Prepare has run on the lease, it is like the lease's first call: what may be
// repeated is run again when its connection is lost, from then on by its text.
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

// Exec and Query are for wrappers that know no context.
func (st *leaseStmt) Exec(args []driver.Value) (driver.Result, error) {
	return st.ExecContext(context.Background(), named(args))
}

// Query is QueryContext without a context.
func (st *leaseStmt) Query(args []driver.Value) (driver.Rows, error) {
	return st.QueryContext(context.Background(), named(args))
}

func runStmt[T any](ctx context.Context, st *leaseStmt, prepared func() (T, error), byText func(sessionConn) (T, error)) (T, error) {
	if st.moved {
		return firstCall(ctx, st.l, st.query, byText)
	}
	fresh := st.l.calls == 1
	st.l.calls++
	v, err := prepared()
	if err == nil {
		return v, nil
	}
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
