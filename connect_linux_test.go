package pgpooled_test

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgpooled/pgpooled"
)

// The options are read back from the very socket that the session uses.
func TestTheSocketHasItsKeepalivesAndUserTimeout(t *testing.T) {
	t.Parallel()
	system := func(name string) int {
		b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_keepalive_" + name)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for name, tt := range map[string]struct {
		kv   []string
		want [5]int // SO_KEEPALIVE, idle, interval, count, user timeout
	}{
		"defaults": {nil, [5]int{1, 30, 10, 3, 20000}},
		"set": {
			[]string{"keepalives_idle", "7", "keepalives_interval", "2s", "keepalives_count", "5", "tcp_user_timeout", "1500"},
			[5]int{1, 7, 2, 5, 1500},
		},
		"the system's": {
			[]string{"keepalives_idle", "0", "keepalives_interval", "0", "keepalives_count", "0", "tcp_user_timeout", "0"},
			[5]int{1, system("time"), system("intvl"), system("probes"), 0},
		},
		"off": {[]string{"keepalives", "0"}, [5]int{0, 0, 0, 0, 20000}},
	} {
		for _, mode := range []string{"disable", "require"} {
			m := &meter{}
			db := openWith(t, server.DSN(append([]string{"application_name", app(), "sslmode", mode}, tt.kv...)...), pgpooled.WithDialer(m))
			if err := db.Ping(); err != nil {
				t.Fatal(err)
			}
			got := socketOptions(t, m.last().(*net.TCPConn))
			if got[0] == 0 {
				got[1], got[2], got[3] = 0, 0, 0
			}
			if got != tt.want {
				t.Errorf("%s, sslmode=%s: got %v, want %v", name, mode, got, tt.want)
			}
		}
	}
}

func socketOptions(t *testing.T, c *net.TCPConn) (got [5]int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		for i, opt := range [5][2]int{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT}, {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT},
		} {
			v, err := unix.GetsockoptInt(int(fd), opt[0], opt[1])
			if err != nil {
				t.Error(err)
			}
			got[i] = v
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}
