package main

import (
	"bufio"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled/pgpooledtest"
)

// A client that never sends its body keeps a request under way for longer than a
// shutdown waits.
func TestAShutdownThatCutsARequestSaysSo(t *testing.T) {
	t.Parallel()
	p := launch(t, "DATABASE_URL", pgpooledtest.Start(t).Database(t), "REQUEST_TIMEOUT", "50ms", "SHUTDOWN_TIMEOUT", "50ms")
	p.await(t, "it is ready", func() bool { return len(p.logged("ready")) == 1 })
	c, err := net.Dial("tcp", strings.TrimPrefix(p.url(t, "api"), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "POST /transfers HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, "100") {
		t.Fatalf("%q, %v", line, err) // else it reads the body now
	}
	p.terminate(t)
	p.ends(t, 1)
	if !strings.Contains(p.text(), "requests were cut") {
		t.Error("it does not say what it cut")
	}
}

func TestASecondSignalEndsTheProcessAtOnce(t *testing.T) {
	t.Parallel()
	p := launch(t, "DATABASE_URL", pgpooledtest.Start(t).Database(t), "DRAIN_DELAY", "1h")
	p.await(t, "it is ready", func() bool { return len(p.logged("ready")) == 1 })
	p.terminate(t)
	p.await(t, "it drains", func() bool { return len(p.logged("draining")) == 1 })
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // the first may still be under way
		select {
		case <-p.exited:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Error("it goes on")
}
