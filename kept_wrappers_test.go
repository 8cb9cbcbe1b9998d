package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"sync"
	"testing"

	"github.com/pgpooled/pgpooled"
)

// unresetting is a wrapper that asks IsValid and forgets ResetSession.
type unresetting struct{ driver.Connector }

func (c unresetting) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return struct {
		driver.Conn
		driver.ExecerContext
		driver.QueryerContext
		driver.Validator
	}{conn, conn.(driver.ExecerContext), conn.(driver.QueryerContext), conn.(driver.Validator)}, nil
}

func TestAWrapperThatHidesResetSessionKeepsNoSession(t *testing.T) {
	t.Parallel()
	c, err := pgpooled.NewConnector(server.DSN("application_name", app(), "max_open_conns", "2"), quiet)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(unresetting{c})
	defer func() { _ = db.Close(); _ = c.Close() }()
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 20 {
				if _, err := db.Exec("select 1"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if s := c.Stats(); s.InUse != 0 || s.Open > 2 {
		t.Errorf("%+v", s)
	}
}

// A wrapper may ask at a wrong time. What belongs to a transaction must not run
// outside it.
func TestALeaseIsNotGivenBackInTheMiddleOfATransactionOrRows(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	db, _ := openAs(t, "max_open_conns", "1")
	c, _ := pgpooled.ConnectorOf(db)
	ctx := testContext(t)
	lease, err := c.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	insert := func(id int) {
		t.Helper()
		if _, err := lease.(driver.ExecerContext).ExecContext(ctx, fmt.Sprintf("insert into %s values (%d, '')", table, id), nil); err != nil {
			t.Fatal(err)
		}
	}
	tx, err := lease.(driver.ConnBeginTx).BeginTx(ctx, driver.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	insert(1)
	if lease.(driver.Validator).IsValid() {
		t.Error("kept in the middle of a transaction")
	}
	insert(2)
	if n := queryInt(t, server.Admin(), "select count(*) from "+table); n != 0 {
		t.Errorf("%d rows were written outside their transaction", n)
	}
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
	rows, err := lease.(driver.QueryerContext).QueryContext(ctx, "select generate_series(1, 3)", nil)
	if err != nil {
		t.Fatal(err)
	}
	if lease.(driver.Validator).IsValid() {
		t.Error("kept in the middle of rows")
	}
	if err := rows.Next(make([]driver.Value, 1)); err != nil {
		t.Error(err)
	}
	_ = rows.Close()
	if !lease.(driver.Validator).IsValid() {
		t.Error("not kept")
	}
	insert(3)
	if err := lease.Close(); err != nil {
		t.Fatal(err)
	}
	if lease.(driver.Validator).IsValid() {
		t.Error("a closed lease is valid")
	}
	if n := queryInt(t, db, "select sum(id) from "+table); n != 6 {
		t.Errorf("rows that add up to %d", n)
	}
	if s := stats(t, db); s.ClosedInTx != 0 || s.InUse != 0 {
		t.Errorf("%+v", s)
	}
}
