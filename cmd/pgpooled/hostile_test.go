package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// lib/pq, which counts sessions, would wait for ever.
func TestLoadDoesNotWaitForAServerThatIsSilent(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(processLimit))
	defer l.Close() // what was not accepted is not answered
	dsn := fmt.Sprintf("host=127.0.0.1 port=%d user=u sslmode=disable", l.Addr().(*net.TCPAddr).Port)
	run(t, nil, "load", "--duration", "1s", dsn+" connect_timeout=1").want(t, exitFailed, "counting sessions")

	process, wait := started(t, "--duration", "1s", dsn+" connect_timeout=0")
	c, err := l.Accept() // of the first
	if err == nil {
		defer c.Close()
		c, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	wait().want(t, exitInterrupted)
}

func TestLoadEndsWhereTheNetworkFallsSilent(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	network, err := faultnet.New(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	_, wait := started(t, "--duration", "2s", "--timeout", "1s", "--users", "2",
		s.DSN("host", network.Host(), "port", fmt.Sprint(network.Port())))
	await(t, "the users work", func() bool { return network.Bytes(faultnet.ToClient) > 20_000 })
	network.Freeze()
	wait().want(t, exitFailed, "FAIL")
}

func TestLoadDoesNotWaitForACommandThatHangs(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	run(t, nil, "load", "--duration", "1s", "--users", "2", "--restart", "exec sleep 3600", "--restart-timeout", "2s", s.DSN()).
		want(t, exitFailed, "the command has not ended within 2s")
}

func TestLoadPrintsNoEscapesOfTheServer(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	file := filepath.Join(t.TempDir(), "bad.sql")
	if err := os.WriteFile(file, []byte("select '\x1b[31mred'::int"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := run(t, nil, "load", "--sql", file, "--duration", "1s", "--users", "2", s.DSN())
	e.want(t, exitFailed, "[31mred")
	if strings.Contains(e.out+e.errOut, "\x1b") {
		t.Errorf("an escape reaches the terminal: %q", e.out)
	}
}

func TestLoadRefusesARateThatIsNoNumber(t *testing.T) {
	t.Parallel()
	run(t, nil, "load", "--rate", "NaN", "host=h").want(t, exitUsage, "--rate")
}

func TestCheckFailsIfItCannotSayWhatItFound(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Logf("no such device here: a closed pipe instead")
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		full = w
	}
	defer full.Close()
	s := pgtest.StartT(t, pgtest.Options{})
	c := commandFor(t.Context(), nil, "check", s.DSN())
	c.Stdout = full
	if err := c.Run(); err == nil || c.ProcessState.ExitCode() != exitFailed {
		t.Errorf("%v, want exit status %d", err, exitFailed)
	}
}

func TestNohupIsRespected(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	c := commandFor(t.Context(), nil, "watch", "--interval", "100ms", s.DSN())
	sh := exec.CommandContext(t.Context(), "sh", append([]string{"-c", `trap "" HUP; exec "$@"`, "sh"}, c.Args...)...)
	sh.Env = c.Env
	out, err := sh.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sh.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	if _, err := out.Read(buf); err != nil {
		t.Fatal(err)
	}
	_ = sh.Process.Signal(syscall.SIGHUP)
	for range 5 { // five more pictures
		if _, err := out.Read(buf); err != nil {
			t.Fatalf("it has ended: %v", err)
		}
	}
	_ = sh.Process.Signal(os.Interrupt)
	_ = out.Close()
	_ = sh.Wait()
}
