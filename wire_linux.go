package pgpooled

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout sets how long sent data may stay unacknowledged before the
// kernel gives the connection up: TCP_USER_TIMEOUT, tcp(7).
func setUserTimeout(raw syscall.RawConn, d time.Duration) error {
	var err error
	cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
	if cerr != nil {
		return cerr
	}
	return err
}
