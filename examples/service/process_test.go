package main

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test's own program is the service too, race detector included.
func TestMain(m *testing.M) {
	if os.Getenv("PGPOOLED_TEST_SERVICE") != "" {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(3) // the test is gone
		}()
		main()
	}
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the pools of the tests
	os.Exit(m.Run())
}

// process is the service as a process of its own.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended; then cmd.ProcessState is there

	mu    sync.Mutex
	lines []map[string]any // its log
	raw   strings.Builder
}

// launch starts the service on ports of its own. env are its variables, as pairs.
func launch(t *testing.T, env ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0]), exited: make(chan struct{})}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") && !strings.HasPrefix(v, "DATABASE_URL=") {
			p.cmd.Env = append(p.cmd.Env, v)
		}
	}
	env = append([]string{"PGPOOLED_TEST_SERVICE", "yes", "LISTEN_ADDR", "127.0.0.1:0", "ADMIN_ADDR", "127.0.0.1:0", "DRAIN_DELAY", "1ms"}, env...)
	for i := 0; i < len(env); i += 2 {
		p.cmd.Env = append(p.cmd.Env, env[i]+"="+env[i+1])
	}
	p.cmd.Stderr = os.Stderr // the race detector's report
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		p.read(stdout)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		_ = stdin.Close()
		if t.Failed() {
			t.Logf("the service said:\n%s", p.raw.String())
		}
	})
	return p
}

func (p *process) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := map[string]any{}
		_ = json.Unmarshal(lines.Bytes(), &line) // one that is no JSON shows in raw
		p.mu.Lock()
		p.lines = append(p.lines, line)
		p.raw.WriteString(lines.Text() + "\n")
		p.mu.Unlock()
	}
}

// logged are the lines with this message.
func (p *process) logged(message string) (found []map[string]any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.lines {
		if line["msg"] == message {
			found = append(found, line)
		}
	}
	return found
}

// url is where one of its servers, api or admin, listens.
func (p *process) url(t *testing.T, server string) (url string) {
	t.Helper()
	p.await(t, "it listens", func() bool {
		for _, line := range p.logged("listening") {
			if line["server"] == server {
				url = "http://" + line["addr"].(string)
			}
		}
		return url != ""
	})
	return url
}

// await waits until something holds while the service runs.
func (p *process) await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !holds() {
		select {
		case <-p.exited:
			t.Fatalf("the service ended (%v) before %s", p.cmd.ProcessState, what)
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (p *process) terminate(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// ends waits for the process and checks its exit status.
func (p *process) ends(t *testing.T, status int) {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(time.Minute):
		t.Fatal("the service does not end")
	}
	if got := p.cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("exit status %d, want %d", got, status)
	}
}

// get returns the status and the body of a page, 0 if there was no answer.
func get(url string) (status int, body string) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.raw.String()
}
