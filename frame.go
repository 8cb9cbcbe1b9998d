package pgpooled

import (
	"context"
	"database/sql/driver"
)

// frame puts the interceptor around lib/pq's connection, as sqlmw does around
// any. sqlmw looks at each call for what the connection and its rows can do, and
// allocates for each answer; of lib/pq's it is known.
type frame struct {
	sessionConn // lib/pq's
	intr        *interceptor
}

func (f *frame) Ping(ctx context.Context) error { return f.intr.ConnPing(ctx, f.sessionConn) }

func (f *frame) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return f.intr.ConnExecContext(ctx, f.sessionConn, query, args)
}

func (f *frame) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	_, rows, err := f.intr.ConnQueryContext(ctx, f.sessionConn, query, args)
	return f.intr.framed(rows, err)
}

func (f *frame) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	_, st, err := f.intr.ConnPrepareContext(ctx, f.sessionConn, query)
	if err != nil {
		return nil, err
	}
	return &framedStmt{st.(*stmt), query}, nil
}

func (f *frame) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	_, tx, err := f.intr.ConnBeginTx(ctx, f.sessionConn, opts)
	if err != nil {
		return nil, err
	}
	return (*framedTx)(tx.(*txn)), nil
}

// framedTx is a transaction as its lease has it; as a txn its Commit is lib/pq's.
type framedTx txn

func (t *framedTx) Commit() error   { return t.intr.TxCommit(t.ctx, (*txn)(t)) }
func (t *framedTx) Rollback() error { return t.intr.TxRollback(t.ctx, (*txn)(t)) }

// framedStmt is a statement as its lease has it.
type framedStmt struct {
	*stmt
	query string
}

func (st *framedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return st.intr.StmtExecContext(ctx, st.stmt, st.query, args)
}

func (st *framedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	_, rows, err := st.intr.StmtQueryContext(ctx, st.stmt, st.query, args)
	return st.intr.framed(rows, err)
}

func (st *framedStmt) Close() error { return st.intr.StmtClose(context.Background(), st.stmt) }

// pqRows is what lib/pq's rows can do.
type pqRows interface {
	driver.Rows
	driver.RowsNextResultSet
	driver.RowsColumnTypeDatabaseTypeName
	driver.RowsColumnTypeLength
	driver.RowsColumnTypePrecisionScale
	driver.RowsColumnTypeScanType
}

// framedRows are rows as their lease has them.
type framedRows struct {
	pqRows
	intr *interceptor
}

func (i *interceptor) framed(rows driver.Rows, err error) (driver.Rows, error) {
	if err != nil {
		return nil, err
	}
	return &framedRows{rows.(pqRows), i}, nil
}

func (r *framedRows) Next(dest []driver.Value) error {
	return r.intr.RowsNext(context.Background(), r.pqRows, dest)
}

func (r *framedRows) Close() error { return r.intr.RowsClose(context.Background(), r.pqRows) }
