//go:build unix

package pgpooled

import (
	"io"
	"syscall"
)

const canPeek = true

// peeker looks at a socket's receive queue. It is made once per connection, so
// that a look, which every call begins with, allocates nothing.
type peeker struct {
	raw  syscall.RawConn
	look func(fd uintptr) bool
	buf  [1]byte
	n    int
	err  error
}

func newPeeker(raw syscall.RawConn) *peeker {
	p := &peeker{raw: raw}
	p.look = func(fd uintptr) bool {
		for {
			p.n, _, p.err = syscall.Recvfrom(int(fd), p.buf[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			if p.err != syscall.EINTR {
				return true
			}
		}
	}
	return p
}

// peek returns nil if the socket is open and empty, io.EOF if the server has
// closed, errUnasked if there is something to read, else the socket's error. One
// goroutine at a time may call it.
func (p *peeker) peek() error {
	switch err := p.raw.Read(p.look); {
	case err != nil:
		return err
	case p.err == syscall.EAGAIN, p.err == syscall.EWOULDBLOCK:
		return nil
	case p.err != nil:
		return p.err
	case p.n == 0:
		return io.EOF
	}
	return errUnasked
}
