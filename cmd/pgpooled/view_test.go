//go:build !windows

package main

import (
	"context"
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

func (o *terminal) plain() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return sequences.ReplaceAllString(o.text.String(), "")
}

func TestLoadOnATerminal(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Password: secret})
	ctx, cancel := context.WithTimeout(t.Context(), processLimit)
	defer cancel()
	c := commandFor(ctx, []string{"TERM=xterm-256color"}, "load", "--duration", "10m", "--users", "4", "--limit", "2", s.URL())
	tty, err := pty.StartWithSize(c, &pty.Winsize{Rows: 24, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	out := &terminal{}
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
	for _, want := range []string{"read, 4 users, closed loop", "of 10m", "█", "calls/s", "p99", "in use 2", "limit 2", "health"} {
		await(t, want, func() bool { return strings.Contains(out.plain(), want) })
	}
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 10, Cols: 40}); err != nil {
		t.Fatal(err)
	}
	if _, err := tty.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	_ = c.Wait()
	<-copied
	text := out.plain()
	if c.ProcessState.ExitCode() != exitInterrupted || !strings.Contains(text, "interrupted: the figures are of the first") || !strings.Contains(text, "PASS  2") {
		t.Errorf("exit status %d:\n%s", c.ProcessState.ExitCode(), text)
	}
	if hidden, shown := strings.LastIndex(out.text.String(), "\x1b[?25l"), strings.LastIndex(out.text.String(), "\x1b[?25h"); hidden > shown {
		t.Error("the cursor stays hidden")
	}
	keepsSecret(t, text)
	clean(t, s, 0)
}
