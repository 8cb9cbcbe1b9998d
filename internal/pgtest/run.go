package pgtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// maxSocketDir leaves room for "/.s.PGSQL.65535" in sun_path, which has 104
// bytes on the BSDs and 108 on Linux.
const maxSocketDir = 85

var (
	errPortTaken = errors.New("pgtest: the port is taken")
	errStopped   = errors.New("pgtest: the server was stopped for good")
)

// freePort looks below the ports that systems give to outgoing connections:
// otherwise a client that dials while the server is down could take its port,
// or be connected to itself.
func freePort() (int, error) {
	for range 50 {
		l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(15000+rand.IntN(17000)))
		if err == nil {
			return l.Addr().(*net.TCPAddr).Port, l.Close()
		}
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// launchLocked starts postgres and waits until it takes connections. A start
// that failed leaves no process.
func (s *Server) launchLocked(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	log, err := os.OpenFile(s.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	defer log.Close()
	before, err := log.Seek(0, 2)
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	cmd := exec.Command(filepath.Join(s.bin, "postgres"),
		"-D", s.dataDir(), "-k", s.sock, "-p", strconv.Itoa(s.port), "-c", "listen_addresses=127.0.0.1")
	cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.Env = log, log, s.dir, serverEnv()
	p, err := spawn(cmd, s.owner)
	if err := s.owner.noEntry(err, s.dir); err != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("pgtest: start %s: %w", cmd.Path, err)
	}
	s.proc = p
	if err := s.awaitReady(ctx, p, before); err != nil {
		s.killLocked()
		s.proc = nil
		return err
	}
	s.shm = ""
	s.pid.Store(int64(p.pid))
	go func() {
		<-p.done
		s.pid.CompareAndSwap(int64(p.pid), 0)
	}()
	return nil
}

// awaitReady polls the pid file, which the postmaster keeps up to date: that
// is quicker than connecting and leaves no trace in the log.
func (s *Server) awaitReady(ctx context.Context, p *process, logFrom int64) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if lines := s.pidFile(); len(lines) >= 8 && lines[0] == strconv.Itoa(p.pid) {
			if state := lines[7]; state == "ready" || state == "standby" {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-p.done:
			tail := s.logTail(logFrom)
			if strings.Contains(tail, "ould not bind") || strings.Contains(tail, "in use") {
				return fmt.Errorf("%w; the server says:\n%s", errPortTaken, tail)
			}
			return fmt.Errorf("pgtest: postgres ended (%v); it says:\n%s", p.err, tail)
		case <-ctx.Done():
			return fmt.Errorf("pgtest: postgres is not ready: %w; it says:\n%s", ctx.Err(), s.logTail(logFrom))
		}
	}
}

func (s *Server) pidFile() []string {
	b, err := os.ReadFile(filepath.Join(s.dataDir(), "postmaster.pid"))
	if err != nil {
		return nil
	}
	lines := strings.Split(string(b), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return lines
}

func (s *Server) logTail(from int64) string {
	b, err := os.ReadFile(s.LogPath())
	if err != nil {
		return err.Error()
	}
	if from < int64(len(b)) {
		b = b[from:]
	}
	if len(b) > 4000 {
		b = b[len(b)-4000:]
	}
	return strings.TrimSpace(string(b))
}

// serverEnv is the environment without the variables that steer PostgreSQL.
func serverEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "LC_") && !strings.HasPrefix(kv, "LANG") {
			env = append(env, kv)
		}
	}
	return append(env, "LC_ALL=C")
}

// Restart stops the server as Down does and starts it again on the same port;
// it returns when connections are taken.
func (s *Server) Restart(ctx context.Context, mode string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.downLocked(mode); err != nil {
		return err
	}
	return s.upLocked(ctx)
}

// Down stops the server and keeps its data and its port. mode is "fast"
// (SIGINT: sessions are told and ended), "immediate" (SIGQUIT: as after a
// crash) or "kill" (SIGKILL to the postmaster and each of its children, as in
// a power cut). A server that is down already is no error.
func (s *Server) Down(mode string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.downLocked(mode)
}

func (s *Server) downLocked(mode string) error {
	if s.stopped {
		return errStopped
	}
	p := s.proc
	if p == nil {
		return nil
	}
	// A fast shutdown ends with a checkpoint, an immediate one gives its
	// children five seconds.
	const patience = 20 * time.Second
	switch mode {
	case "fast":
		p.interrupt()
	case "immediate":
		p.quit()
	case "kill":
		s.killLocked()
	default:
		return fmt.Errorf("pgtest: no such way to stop: %q", mode)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var err error
	select {
	case <-p.done:
	case <-timer.C:
		err = fmt.Errorf("pgtest: the server did not stop (%s) within %s and was killed; it says:\n%s", mode, patience, s.logTail(0))
		s.killLocked()
		<-p.done
	}
	s.proc = nil
	return err
}

// killLocked remembers the shared memory segment, which a postmaster that was
// killed cannot remove.
func (s *Server) killLocked() {
	if lines := s.pidFile(); len(lines) >= 7 {
		if f := strings.Fields(lines[6]); len(f) == 2 {
			s.shm = f[1]
		}
	}
	s.proc.kill()
}

// Up starts a server that is down on its old port and waits until it takes
// connections. A server that is up is no error.
func (s *Server) Up(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.upLocked(ctx)
}

func (s *Server) upLocked(ctx context.Context) error {
	if s.stopped {
		return errStopped
	}
	if s.proc != nil {
		select {
		case <-s.proc.done: // ended by itself
		default:
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		// The port can be taken for a moment, and children of a postmaster that
		// was killed hold the shared memory until they notice.
		err := s.launchLocked(ctx)
		if err == nil || !errors.Is(err, errPortTaken) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the server for good, waits for its process and removes its
// directory. It may be called again and gives the same answer.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return s.stopErr
	}
	var errs []error
	if s.admin != nil {
		_ = s.admin.Close() // saying goodbye fails where the server was killed
	}
	errs = append(errs, s.downLocked("immediate"))
	s.stopped = true
	if s.shm != "" {
		_ = exec.Command("ipcrm", "-m", s.shm).Run()
	}
	if s.dir != "" {
		errs = append(errs, removeAll(s.dir))
		if s.sock != s.dir && s.sock != "" {
			errs = append(errs, removeAll(s.sock))
		}
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	s.stopErr = errors.Join(errs...)
	return s.stopErr
}

// removeAll tries again: a child of a postmaster that was killed may write its
// last file meanwhile.
func removeAll(dir string) (err error) {
	for range 20 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// Main runs the tests of a package with one server for all of them, and returns
// the exit status for TestMain.
func Main(m interface{ Run() int }, server **Server) (status int) {
	var err error
	if *server, err = Start(context.Background(), Options{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status = m.Run()
	if err := (*server).Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}
