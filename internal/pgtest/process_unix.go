//go:build linux || darwin || freebsd

package pgtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const supported = true

// owner is the account that PostgreSQL runs under when this process is root,
// as which it refuses to run. A nil owner means: our own account.
type owner struct {
	name string
	cred syscall.Credential
}

func serverOwner() (*owner, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 != nil || err2 != nil || uid == 0 {
			continue
		}
		o := &owner{name: name, cred: syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		ids, _ := u.GroupIds()
		for _, id := range ids {
			if g, err := strconv.ParseUint(id, 10, 32); err == nil {
				o.cred.Groups = append(o.cred.Groups, uint32(g))
			}
		}
		return o, nil
	}
	return nil, fmt.Errorf("pgtest: PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody: run `make postgres` or use another account")
}

func (o *owner) String() string {
	if o == nil {
		return ""
	}
	return o.name
}

func (o *owner) chown(path string) error {
	if o == nil {
		return nil
	}
	return os.Lchown(path, int(o.cred.Uid), int(o.cred.Gid))
}

func (o *owner) apply(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if o != nil {
		cmd.SysProcAttr.Credential = &o.cred
	}
}

// noEntry is what a program that could not be started as the owner means: a folder
// on the way to dir is closed to it. The error names the program instead.
func (o *owner) noEntry(err error, dir string) error {
	if o == nil || !errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return fmt.Errorf("pgtest: under root the server runs as user %s, who must be able to enter %s: set TMPDIR to a folder that is open to all, like /tmp (%w)", o.name, dir, err)
}

// process is a running postmaster.
type process struct {
	cmd  *exec.Cmd
	pid  int
	done chan struct{} // closed when it has ended and was waited for
	err  error         // how it ended; read it after done
}

// spawn starts cmd so that it does not outlive this process.
func spawn(cmd *exec.Cmd, own *owner) (*process, error) {
	own.apply(cmd)
	dieWithUs(cmd)
	// A signal of the terminal (Ctrl-C) is for us; Stop then ends the server.
	cmd.SysProcAttr.Setpgid = true
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The death signal comes when the thread that started the child ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			p.err = waitFor(cmd)
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) interrupt() { _ = p.cmd.Process.Signal(syscall.SIGINT) }

func (p *process) quit() { _ = p.cmd.Process.Signal(syscall.SIGQUIT) }

// kill ends the postmaster and each of its children, as a power cut would, and
// waits for them. The postmaster is held first, so that it neither starts
// another child nor gives a dead one's number away.
func (p *process) kill() {
	if p.cmd.Process.Signal(syscall.SIGSTOP) == nil {
		deadline := time.Now().Add(5 * time.Second)
		for time.Now().Before(deadline) {
			alive := 0
			for _, c := range childrenOf(p.pid) {
				if !c.dead {
					alive++
					_ = syscall.Kill(c.pid, syscall.SIGKILL)
				}
			}
			if alive == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		_ = p.cmd.Process.Kill()
	}
	<-p.done
}

// child is a child process; dead ones wait to be reaped.
type child struct {
	pid  int
	dead bool
}

const (
	dirPrefix = "pgtest-srv-"
	lockName  = "lock"
)

// lockDir marks dir as in use for as long as this process lives.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

var swept sync.Map // folders that were swept

// sweepOnce removes the directories of processes that were killed. Young ones
// are left alone: their lock may be about to be taken.
func sweepOnce(parent string) {
	if _, done := swept.LoadOrStore(parent, true); done {
		return
	}
	dirs, _ := filepath.Glob(filepath.Join(parent, dirPrefix+"*"))
	for _, dir := range dirs {
		fi, err := os.Lstat(filepath.Join(dir, lockName))
		if err != nil || time.Since(fi.ModTime()) < time.Minute || !ownFile(filepath.Join(dir, lockName)) {
			continue
		}
		if f, err := lockDir(dir); err == nil {
			_ = os.RemoveAll(dir)
			_ = f.Close()
		}
	}
}

// ownFile says whether path is there and ours, and nobody else may write it.
func ownFile(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode().Perm()&0o022 != 0 || fi.Mode()&os.ModeSymlink != 0 {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
