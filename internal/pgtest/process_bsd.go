//go:build darwin || freebsd

package pgtest

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// dieWithUs does nothing here: macOS has no death signal, waitFor sees to it.
func dieWithUs(*exec.Cmd) {}

// waitFor waits for the postmaster. Meanwhile a shell holds the end of a pipe
// of ours; when we are gone it reads the end and sends an immediate shutdown.
func waitFor(cmd *exec.Cmd) error {
	watch := exec.Command("/bin/sh", "-c", `read -r _; kill -QUIT "$1"`, "sh", strconv.Itoa(cmd.Process.Pid))
	pipe, err := watch.StdinPipe()
	if err == nil && watch.Start() == nil {
		defer func() {
			_ = watch.Process.Kill()
			_ = pipe.Close()
			_ = watch.Wait()
		}()
	}
	return cmd.Wait()
}

func defaultParent() string { return os.TempDir() }

func childrenOf(parent int) []child {
	b, err := exec.Command("ps", "-axo", "pid=,ppid=,stat=").Output()
	if err != nil {
		return nil
	}
	var out []child
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[1] != strconv.Itoa(parent) {
			continue
		}
		if pid, err := strconv.Atoi(f[0]); err == nil {
			out = append(out, child{pid: pid, dead: strings.HasPrefix(f[2], "Z")})
		}
	}
	return out
}
