package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

const (
	askEvery     = 50 * time.Millisecond
	outputLines  = 20
	askTimeLimit = 2 * time.Second
)

// restartServer runs the user's command and finds out by itself when the server
// was away: the command may return before, or long after.
func (r *runner) restartServer(ctx context.Context) *restartFigures {
	f := &restartFigures{mode: "by the given command"}
	before, err := r.startTime(ctx)
	for patience := time.Now().Add(recoveryLimit); err != nil; before, err = r.startTime(ctx) {
		if time.Now().After(patience) || !sleep(ctx, askEvery) {
			f.err = fmt.Errorf("the server did not answer before it: %w", err)
			return f
		}
	}
	down := r.tally.outage.begin()
	r.sc.event("restart: the command is run")
	ended := make(chan error, 1)
	commanded, stopCommand := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { ended <- r.shell(commanded) })
	defer running.Wait()
	defer stopCommand()

	limit := time.Now().Add(r.f.restartTimeout)
	var endedAt time.Time // the command's
	missed := false
	for {
		if !sleep(ctx, askEvery) {
			f.err = errInterrupted
			return f
		}
		select {
		case f.err = <-ended:
			if f.err != nil {
				r.sc.event("restart: the command failed: %s", printable(f.err.Error()))
				return f
			}
			endedAt, limit = time.Now(), time.Now().Add(r.f.restartTimeout)
		default:
		}
		now, err := r.startTime(ctx)
		if err != nil {
			if !missed {
				r.sc.event("restart: the server is away")
			}
			missed = true
		} else if now != before || missed {
			break
		} else if !endedAt.IsZero() && time.Since(endedAt) > recoveryLimit {
			f.err = errors.New("the command is through, but the server has not been away")
			r.sc.event("restart: %v", f.err)
			return f
		}
		if time.Now().After(limit) {
			f.err = fmt.Errorf("the server has not come back within %s", brief(r.f.restartTimeout))
			if endedAt.IsZero() {
				f.err = fmt.Errorf("the command has not ended within %s", brief(r.f.restartTimeout))
			}
			r.sc.event("restart: %v", f.err)
			return f
		}
	}
	up := r.tally.outage.serverUp()
	f.away = up.Sub(down)
	r.sc.event("restart: the server answers again, %s after the command was begun", short(f.away))
	wait := time.NewTimer(recoveryLimit)
	defer wait.Stop()
	select {
	case <-r.tally.outage.over:
		f.recovered, f.firstAfter = true, r.tally.outage.end().Sub(up)
		f.gap = r.tally.outage.longestGap()
		r.sc.event("restart: first call that succeeded: %s after that", short(f.firstAfter))
	case <-wait.C:
		r.sc.event("restart: no success within %s", recoveryLimit)
	case <-ctx.Done():
		f.err = errInterrupted
	}
	if endedAt.IsZero() && f.err == nil {
		select {
		case <-ended:
		case <-time.After(recoveryLimit):
			r.sc.event("restart: the command still runs, %s after the server came back: it is stopped", brief(recoveryLimit))
		case <-ctx.Done():
			f.err = errInterrupted
		}
	}
	return f
}

var errInterrupted = errors.New("interrupted before it was over")

// startTime asks on a new connection each time. Through a pooler the answer is
// the server's too.
func (r *runner) startTime(ctx context.Context) (at string, err error) {
	limited, cancel := context.WithTimeout(ctx, askTimeLimit)
	defer cancel()
	db, err := openPlain(r.target.plain, r.target.connectTimeout)
	if err != nil {
		return "", err
	}
	defer db.Close()
	err = db.QueryRowContext(limited, "select pg_postmaster_start_time()::text").Scan(&at)
	return at, err
}

// shell runs the command and shows what it prints.
func (r *runner) shell(ctx context.Context) error {
	c := exec.CommandContext(ctx, "sh", "-c", r.f.restart) //nolint:gosec // the user's own command
	if runtime.GOOS == "windows" {
		c = exec.CommandContext(ctx, "cmd", "/C", r.f.restart) //nolint:gosec // the same
	}
	c.WaitDelay = time.Second
	reader, writer := io.Pipe()
	c.Stdout, c.Stderr = writer, writer
	var shown sync.WaitGroup
	shown.Go(func() {
		lines := bufio.NewScanner(reader)
		for n := 0; lines.Scan(); n++ {
			if text := strings.TrimSpace(printable(lines.Text())); n < outputLines && text != "" {
				r.sc.event("restart: it says: %s", text)
			}
		}
		_, _ = io.Copy(io.Discard, reader) // a line too long
	})
	err := c.Run()
	_ = writer.Close()
	shown.Wait()
	if errors.Is(err, exec.ErrWaitDelay) { // what it left in the background still has its output
		return nil
	}
	return err
}
