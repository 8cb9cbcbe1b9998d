package pgtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// dieWithUs asks the kernel to send an immediate shutdown when we are gone.
func dieWithUs(cmd *exec.Cmd) { cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT }

func waitFor(cmd *exec.Cmd) error { return cmd.Wait() }

// roomy is what a few servers at a time need; containers often have 64 MB.
const roomy = 1 << 30

func defaultParent() string {
	const shm = "/dev/shm"
	var st syscall.Statfs_t
	if syscall.Statfs(shm, &st) != nil || st.Bavail*uint64(st.Bsize) < roomy {
		return os.TempDir()
	}
	probe, err := os.MkdirTemp(shm, "pgtest-probe-")
	if err != nil {
		return os.TempDir()
	}
	_ = os.Remove(probe)
	return shm
}

// childrenOf reads /proc: small containers have no ps.
func childrenOf(parent int) []child {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var out []child
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		// pid (command) state ppid …; the command may hold anything.
		end := bytes.LastIndexByte(b, ')')
		f := strings.Fields(string(b[end+1:]))
		if end < 0 || len(f) < 2 || f[1] != strconv.Itoa(parent) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err == nil {
			out = append(out, child{pid: pid, dead: f[0] == "Z" || f[0] == "X"})
		}
	}
	return out
}
