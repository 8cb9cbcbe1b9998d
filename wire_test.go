package pgpooled

import (
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
)

// half is a socket that takes part of a write and then breaks.
type half struct {
	net.Conn
	takes int
}

func (h half) Write(b []byte) (int, error) { return min(h.takes, len(b)), syscall.ECONNRESET }

// What a socket took before it broke may be a whole statement to the server.
func TestBytesOfAWriteThatFailedHalfWayCountAsSent(t *testing.T) {
	t.Parallel()
	for _, takes := range []int{0, 1, 5} {
		w := &wire{Conn: half{takes: takes}}
		i := &interceptor{s: &session{wire: w, pool: &pool{mode: RetrySafe, closed: true}}}
		c := call{op: "exec", query: "insert into t values (1)", ctx: t.Context()}
		if _, err := w.Write(make([]byte, 9)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
		err := i.judge(c, driver.ErrBadConn)
		var unknown *OutcomeUnknownError
		if again := errors.Is(err, driver.ErrBadConn); again != (takes == 0) || errors.As(err, &unknown) == again {
			t.Errorf("%d bytes taken: %T %v", takes, err, err)
		}
		if takes > 0 && (unknown.Sent != int64(takes) || !errors.Is(err, syscall.ECONNRESET)) {
			t.Errorf("%d bytes taken: %+v", takes, unknown)
		}
	}
}

func TestAWireRemembersItsFirstFailureOnly(t *testing.T) {
	t.Parallel()
	w := &wire{Conn: half{}}
	w.fail(io.EOF)
	w.fail(syscall.EPIPE)
	if w.failure() != io.EOF {
		t.Error(w.failure())
	}
}
