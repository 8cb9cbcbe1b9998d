//go:build unix

package pgpooled

import (
	"errors"
	"io"
	"syscall"
)

const canPeek = true

// peek looks at the socket's receive queue: nil if it is open and empty,
// io.EOF if the server has closed, errUnasked if there is something to read,
// else the socket's error.
func peek(raw syscall.RawConn) error {
	var (
		b   [1]byte
		n   int
		err error
	)
	rerr := raw.Read(func(fd uintptr) bool {
		for {
			n, _, err = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			if !errors.Is(err, syscall.EINTR) {
				return true
			}
		}
	})
	switch {
	case rerr != nil:
		return rerr
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EWOULDBLOCK):
		return nil
	case err != nil:
		return err
	case n == 0:
		return io.EOF
	}
	return errUnasked
}
