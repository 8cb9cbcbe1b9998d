package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// proxyVariable makes this program a proxy: "target latency". It is a process
// of its own, because the work of forwarding is not the client's.
const proxyVariable = "PGPOOLED_TEST_BENCH_PROXY"

// proxy delays what goes to the server and back.
type proxy struct {
	addr  string
	cmd   *exec.Cmd
	stdin io.Closer
}

func startProxy(target string, latency time.Duration) (*proxy, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), proxyVariable+"="+target+" "+latency.String())
	cmd.Stderr = os.Stderr
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	for _, err := range []error{err1, err2} {
		if err != nil {
			return nil, err
		}
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &proxy{cmd: cmd, stdin: stdin}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("the proxy did not start: %w", err)
	}
	p.addr = strings.TrimSpace(line)
	return p, nil
}

// stop closes the proxy's standard input, which ends it.
func (p *proxy) stop() {
	_ = p.stdin.Close()
	_ = p.cmd.Wait()
}

// runProxy is the process of the proxy: it ends with its standard input, also
// when the parent was killed. It returns false if this is not that process.
func runProxy() bool {
	what, ok := os.LookupEnv(proxyVariable)
	if !ok {
		return false
	}
	target, latency, _ := strings.Cut(what, " ")
	d, err := time.ParseDuration(latency)
	if err == nil {
		err = forward(target, d)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "proxy:", err)
	}
	return true
}

func forward(target string, latency time.Duration) error {
	p, err := faultnet.New(target)
	if err != nil {
		return err
	}
	defer p.Close()
	p.SetLatency(latency)
	fmt.Println(p.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
