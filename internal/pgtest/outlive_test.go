//go:build linux || darwin || freebsd

package pgtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// childVariable makes the test program start a server and wait to be killed.
const childVariable = "PGTEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		s, err := Start(context.Background(), Options{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(s.Addr(), s.dir)
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestKilledParentLeavesNoServer(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	addr, dir, ok := strings.Cut(strings.TrimSpace(line), " ")
	if err != nil || !ok {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("the child says %q, %v", line, err)
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := os.Stat(filepath.Join(dir, "data", "postmaster.pid"))
		c, dialErr := net.Dial("tcp", addr)
		if dialErr == nil {
			c.Close()
		} else if os.IsNotExist(err) {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the server at %s outlived the process that started it", addr)
		}
	}

	// The directory is the next one's to remove, unless it looks young.
	parent := filepath.Dir(dir)
	swept.Delete(parent)
	sweepOnce(parent)
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("a young directory was removed: %v", err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, lockName), old, old); err != nil {
		t.Fatal(err)
	}
	swept.Delete(parent)
	sweepOnce(parent)
	if _, err := os.Stat(dir); err == nil {
		t.Fatal("an abandoned directory was not removed")
	}
}

func TestDirectoryInUseIsNotSwept(t *testing.T) {
	s := StartT(t, Options{})
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(s.dir, lockName), old, old); err != nil {
		t.Fatal(err)
	}
	parent := filepath.Dir(s.dir)
	swept.Delete(parent)
	sweepOnce(parent)
	if _, err := os.Stat(filepath.Join(s.dir, "data")); err != nil {
		t.Fatal(err)
	}
}
