//go:build linux || darwin || freebsd

package pgtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestARelativeTMPDIRWorks(t *testing.T) {
	t.Chdir("/tmp") // where the owner may go; t.TempDir would be closed to it under root
	dir, err := os.MkdirTemp(".", "pgtest-relative-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Join("/tmp", dir)) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	s := StartT(t, Options{Dir: dir})
	mustAsk(t, testContext(t), s.DSN(), "SELECT 1", "1")
}

// What the kernel says is that initdb may not be executed, which it may.
func TestATMPDIRThatTheServersUserCannotEnterIsNamed(t *testing.T) {
	if os.Geteuid() != 0 {
		return // nobody else's folder is in play: the server is ours
	}
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{"the template's": {}, "the server's": {Dir: closed}} {
		t.Run(name, func(t *testing.T) {
			if o.Dir == "" {
				t.Setenv("TMPDIR", closed)
			}
			s, err := Start(testContext(t), o)
			if err == nil {
				_ = s.Stop()
			}
			if err == nil || !strings.Contains(err.Error(), "must be able to enter "+closed) || !strings.Contains(err.Error(), "set TMPDIR") {
				t.Errorf("got %v", err)
			}
		})
	}
}
