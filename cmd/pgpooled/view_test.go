//go:build !windows

package main

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/creack/pty"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

var sequences = regexp.MustCompile("\x1b\\[[0-9;?=>]*[a-zA-Z]|\x1b[()][A-Z0-9]|\x1b[=>78]|\x1b\\][^\x07]*\x07")

// terminal collects what a process writes on one.
type terminal struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (o *terminal) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *terminal) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Reset()
}

func (o *terminal) plain() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return sequences.ReplaceAllString(o.text.String(), "")
}

// onTerminal starts the command on a terminal of its own.
func onTerminal(t *testing.T, args ...string) (c *exec.Cmd, tty *os.File, out *terminal, ended func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), processLimit)
	t.Cleanup(cancel)
	c = commandFor(ctx, []string{"TERM=xterm-256color"}, args...)
	tty, err := pty.StartWithSize(c, &pty.Winsize{Rows: 24, Cols: 120})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	out = &terminal{}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		b := make([]byte, 4096)
		for {
			n, err := tty.Read(b) // ends with EIO when the process is gone
			_, _ = out.Write(b[:n])
			if err != nil {
				return
			}
		}
	}()
	return c, tty, out, func() {
		_ = c.Wait()
		<-copied
		raw := out.text.String()
		if strings.LastIndex(raw, "\x1b[?25l") > strings.LastIndex(raw, "\x1b[?25h") {
			t.Error("the cursor stays hidden")
		}
		keepsSecret(t, out.plain())
	}
}

func TestLoadOnATerminal(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Password: secret})
	c, tty, out, ended := onTerminal(t, "load", "--duration", "10m", "--users", "4", "--limit", "2", s.URL())
	// Single words: what is on the screen already is not drawn again.
	for _, want := range []string{"users,", "closed", "10m", "█", "calls/s", "p99", "idle", "limit", "health"} {
		await(t, want, func() bool { return strings.Contains(out.plain(), want) })
	}
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 10, Cols: 40}); err != nil {
		t.Fatal(err)
	}
	if _, err := tty.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	ended()
	if text := out.plain(); c.ProcessState.ExitCode() != exitInterrupted || !strings.Contains(text, "interrupted: the figures are of the first") || !strings.Contains(text, "PASS  2") {
		t.Errorf("exit status %d:\n%s", c.ProcessState.ExitCode(), text)
	}
	clean(t, s, 0)
}

func TestWatchOnATerminalOutlivesARestart(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Password: secret})
	c, tty, out, ended := onTerminal(t, "watch", "--interval", "100ms", s.URL())
	seen := func(want string) func() bool { return func() bool { return strings.Contains(out.plain(), want) } }
	await(t, "the picture", seen("pgtest-admin"))
	await(t, "the server's name", seen(s.Addr()))
	if err := s.Down("fast"); err != nil {
		t.Fatal(err)
	}
	await(t, "the server to be away", seen("answer:"))
	out.forget()
	if err := s.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "the server to be back", seen("longest"))
	if _, err := tty.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	ended()
	if c.ProcessState.ExitCode() != exitOK {
		t.Errorf("exit status %d:\n%s", c.ProcessState.ExitCode(), out.plain())
	}
}
