package pgpooled

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// errWriteRefused is what a write meets while the wire refuses writes.
var errWriteRefused = errors.New("pgpooled: write refused")

// errUnasked is why a session is dropped whose server spoke while nobody asked:
// it said goodbye, or the two sides no longer agree on where they are.
var errUnasked = errors.New("the server sent something while the session was idle")

// writePiece is what may take as long as socket_timeout to be sent; crypto/tls
// writes no longer records.
const writePiece = 16 << 10

// wire is the net.Conn under lib/pq. It counts the bytes that were written,
// because that is the one thing that tells whether a statement can have run;
// it remembers why the connection failed, because lib/pq drops that; and it can
// look at the socket without a round trip.
//
// With TLS the records are made above the wire: counting works, reading does
// not. It may be used by several goroutines, like any net.Conn.
type wire struct {
	net.Conn
	peeker *peeker // nil: liveness is probed by a short read

	patience time.Duration // socket_timeout: how long one read or write may wait, 0 = no limit

	// Written before the session is settled.
	startup []byte // the server's greeting, until it is over
	settled bool   // the greeting is over, or cannot be read
	greeter int32  // the process that greeted
	named   bool   // the greeting could be read: greeter is known

	answer beginning   // of the last answer; belongs to the one who reads
	asked  atomic.Bool // something was written since the last read

	first   atomic.Int32 // the first byte read, plus one; 0 = none
	sent    atomic.Int64 // bytes written so far
	copying atomic.Bool  // a COPY is fed: the server owes nothing until its end
	refuse  atomic.Bool  // every write fails, nothing is sent
	polite  atomic.Bool  // Close says goodbye and leaves the socket to hangUp

	cause  atomic.Pointer[error] // the first failure
	closed atomic.Bool           // Close was called: reads and writes fail from now on

	mu    sync.Mutex // guards the field below, and the deadline
	fixed bool       // a deadline is set that patience must not move
}

func newWire(c net.Conn) *wire {
	w := &wire{Conn: c}
	if sc, ok := innermost(c).(syscall.Conn); ok && canPeek {
		if raw, err := sc.SyscallConn(); err == nil {
			w.peeker = newPeeker(raw)
		}
	}
	return w
}

// innermost is the socket under a conn that says what it wraps, as tls.Conn and
// the dialers of cloud providers do.
func innermost(c net.Conn) net.Conn {
	for range 8 {
		u, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = u.NetConn()
	}
	return c
}

func (w *wire) Read(b []byte) (int, error) {
	if w.closed.Load() {
		return 0, net.ErrClosed
	}
	impatient := w.patience > 0 && w.armPatience(w.Conn.SetReadDeadline)
	n, err := w.Conn.Read(b)
	if n > 0 && w.first.Load() == 0 {
		w.first.Store(int32(b[0]) + 1)
	}
	if !w.settled {
		w.record(b[:n])
	}
	if n > 0 {
		w.answer.keep(b[:n], w.asked.Load() && w.asked.Swap(false))
	}
	if err != nil {
		if impatient && errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("nothing came for socket_timeout (%s): %w", w.patience, err)
		}
		w.fail(w.answer.farewell(err))
	}
	return n, err
}

// armPatience gives the next read or write socket_timeout, unless a deadline
// rules.
func (w *wire) armPatience(set func(time.Time) error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.fixed:
		return false
	case w.copying.Load():
		_ = set(time.Time{}) // the last one's
		return false
	}
	return set(time.Now().Add(w.patience)) == nil
}

// endCopy: from now on the server owes an answer again, to a read that may have
// been waiting for long.
func (w *wire) endCopy() {
	w.copying.Store(false)
	if w.patience > 0 {
		w.armPatience(w.Conn.SetReadDeadline)
	}
}

// SetDeadline bounds reads and writes; zero ends that.
func (w *wire) SetDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fixed = !t.IsZero()
	return w.Conn.SetDeadline(t)
}

// SetWriteDeadline is for crypto/tls, which allows its own goodbye five seconds:
// a deadline that rules already stays.
func (w *wire) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fixed {
		return nil
	}
	return w.Conn.SetWriteDeadline(t)
}

// Write sends all of b. With socket_timeout it goes in pieces, so that one that
// is only long is told from one that nobody takes.
func (w *wire) Write(b []byte) (n int, err error) {
	if w.refuse.Load() {
		return 0, errWriteRefused
	}
	if w.closed.Load() {
		return 0, net.ErrClosed
	}
	for {
		piece, impatient := b[n:], false
		if w.patience > 0 {
			piece = piece[:min(len(piece), writePiece)]
			impatient = w.armPatience(w.Conn.SetWriteDeadline)
		}
		w.asked.Store(true)
		m, err := w.Conn.Write(piece)
		n += m
		if m > 0 {
			w.sent.Add(int64(m))
		}
		if err != nil {
			if impatient && errors.Is(err, os.ErrDeadlineExceeded) {
				err = fmt.Errorf("nothing was taken for socket_timeout (%s): %w", w.patience, err)
			}
			w.fail(err)
			return n, err
		}
		if n >= len(b) {
			return n, nil
		}
	}
}

// Close closes the socket; a polite wire only ends its own direction, so that
// hangUp can wait for the server to end the other.
func (w *wire) Close() error {
	if w.closed.Swap(true) {
		return nil
	}
	if !w.polite.Load() {
		return w.Conn.Close()
	}
	if h, ok := w.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

// hangUp waits until the server has closed its end, at most until the deadline
// that is set, and closes the socket. By then the server has taken the session off its list:
// a backend leaves pg_stat_activity before its process, and with it the socket,
// ends.
func (w *wire) hangUp() {
	_ = w.Close()
	buf := make([]byte, 4096)
	for {
		if _, err := w.Conn.Read(buf); err != nil {
			break
		}
	}
	_ = w.Conn.Close()
}

// abort closes the socket under whatever is using it.
func (w *wire) abort() {
	w.closed.Store(true)
	_ = w.Conn.Close()
}

// cut makes reads and writes that are under way, and all later ones, fail.
func (w *wire) cut() { _ = w.SetDeadline(time.Unix(1, 0)) }

func (w *wire) fail(err error) { w.cause.CompareAndSwap(nil, &err) }

// failure is why the connection failed, nil if nothing has.
func (w *wire) failure() error {
	if cause := w.cause.Load(); cause != nil {
		return *cause
	}
	return nil
}

// quiet tells, without a round trip, that the server has neither closed nor
// said anything: nil, or the reason to drop the session. It may be called only
// while no call is under way.
func (w *wire) quiet() error {
	if err := w.failure(); err != nil {
		return err
	}
	if w.closed.Load() {
		return net.ErrClosed
	}
	if w.patience > 0 {
		// The last read's deadline may have passed meanwhile.
		if err := w.Conn.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
	}
	if w.peeker != nil {
		return w.peeker.peek()
	}
	return w.quietByReading()
}

// quietByReading is quiet for conns that cannot be peeked at: a read that is
// given a moment. A healthy idle session has nothing to read. A read that is
// held up until its moment is over fails without having looked, so a late
// failure proves nothing and is followed by a longer moment.
func (w *wire) quietByReading() error {
	var b [1]byte
	for _, moment := range []time.Duration{500 * time.Microsecond, 20 * time.Millisecond, 200 * time.Millisecond} {
		began := time.Now()
		if err := w.Conn.SetReadDeadline(began.Add(moment)); err != nil {
			return err
		}
		n, err := w.Conn.Read(b[:])
		late := time.Since(began) > moment+moment/2
		var ne net.Error
		switch {
		case n > 0:
			w.fail(errUnasked)
			return errUnasked
		case !errors.As(err, &ne) || !ne.Timeout():
			w.fail(err)
			return err
		case !late:
			return w.Conn.SetReadDeadline(time.Time{})
		}
	}
	return errHeldUp
}

var errHeldUp = errors.New("pgpooled: no time to look at the connection")
