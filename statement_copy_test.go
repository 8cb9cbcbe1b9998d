package pgpooled

import (
	"context"
	"database/sql/driver"
	"errors"
	"net"
	"testing"
)

// failedCopy is lib/pq's COPY after the server has refused a row: the call that
// ends it says so at once, and somebody still reads the rest of the answer.
type failedCopy struct {
	cachedDriverStmt
	reading bool
}

var errRow = errors.New("the server has refused a row")

func (c *failedCopy) ExecContext(context.Context, []driver.NamedValue) (driver.Result, error) {
	return nil, errRow
}
func (c *failedCopy) Close() error { c.reading = false; return nil }

func TestNobodyReadsAfterACopyThatFailed(t *testing.T) {
	t.Parallel()
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	s := &session{wire: newWire(client), base: &tripsConn{}}
	s.intr = &interceptor{s: s}
	s.wire.copying.Store(true)
	c := &failedCopy{reading: true}
	query := "copy t from stdin"
	_, err := s.intr.StmtExecContext(t.Context(), &stmt{Stmt: c, intr: s.intr, own: true, copies: true}, query, nil)
	if !errors.Is(err, errRow) {
		t.Error(err)
	}
	if c.reading {
		t.Error("ROLLBACK would be sent, and its answer read, beside the reader of COPY")
	}
}
