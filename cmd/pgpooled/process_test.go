package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asCommand makes this test binary the command.
const asCommand = "PGPOOLED_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) == "" && signal.Ignored(syscall.SIGHUP) {
		// The tests run below nohup: the commands that they start must not.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if name == "DATABASE_URL" || strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "PGPOOLED_TEST_") {
			if os.Getenv(asCommand) == "" {
				_ = os.Unsetenv(name) // somebody else's database
			}
		}
	}
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

// processLimit bounds a process of a test that hangs.
const processLimit = 2 * time.Minute

func commandFor(ctx context.Context, env []string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, os.Args[0], args...)
	// The race detector would sleep for a second before a process ends.
	c.Env = append(append(os.Environ(), asCommand+"=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE")), env...)
	return c
}

type ended struct {
	out, errOut string
	status      int
}

// run runs the command as a process of its own. What it prints never has a piece
// of the tests' password.
func run(t *testing.T, env []string, args ...string) ended {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), processLimit)
	defer cancel()
	c := commandFor(ctx, env, args...)
	var out, errOut bytes.Buffer
	c.Stdout, c.Stderr = &out, &errOut
	return finish(t, c.Run(), &out, &errOut)
}

func finish(t *testing.T, err error, out, errOut *bytes.Buffer) ended {
	t.Helper()
	e := ended{out.String(), errOut.String(), 0}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		e.status = exit.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	keepsSecret(t, e.out+e.errOut)
	return e
}

func keepsSecret(t *testing.T, text string) {
	t.Helper()
	for _, piece := range []string{"hush", "%20hush", "h/secret", "h%2Fsecret"} {
		if strings.Contains(text, piece) {
			t.Errorf("a piece of the password is in the output: %q in:\n%s", piece, text)
		}
	}
}

func (e ended) want(t *testing.T, status int, texts ...string) {
	t.Helper()
	if e.status != status {
		t.Errorf("exit status %d, want %d", e.status, status)
	}
	for _, text := range texts {
		if !strings.Contains(e.out+e.errOut, text) {
			t.Errorf("it does not say %q", text)
		}
	}
	if t.Failed() {
		t.Logf("it printed:\n%s%s", e.out, e.errOut)
	}
}

func decode[T any](t *testing.T, e ended) T {
	t.Helper()
	var v T
	d := json.NewDecoder(strings.NewReader(e.out))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("its JSON: %v in:\n%s%s", err, e.out, e.errOut)
	}
	return v
}
