package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// findPgbench looks beside the server's programs first: Debian's PATH has a
// script that only calls it.
func findPgbench(bin string) string {
	if p, err := exec.LookPath(filepath.Join(bin, "pgbench")); err == nil {
		return p
	}
	p, _ := exec.LookPath("pgbench")
	return p
}

var (
	tpsLine  = regexp.MustCompile(`tps = ([0-9.]+) \((?:without initial connection time|excluding connections establishing)\)`)
	failLine = regexp.MustCompile(`number of failed transactions: (\d+)`)
)

// runPgbench is the limit: PostgreSQL's own program, whose callers have a
// connection each and never wait for one.
func (b *bench) runPgbench(ctx context.Context, w work) (figures, error) {
	if w.prepare != "" {
		if err := b.admin(ctx, w.prepare); err != nil {
			return figures{}, err
		}
	}
	dir, err := os.MkdirTemp("", "bench-pgbench-")
	if err != nil {
		return figures{}, err
	}
	defer os.RemoveAll(dir)
	script := filepath.Join(dir, "script.sql")
	if err := os.WriteFile(script, []byte(w.script), 0o600); err != nil {
		return figures{}, err
	}
	conns := min(w.conns, w.callers)
	perSecond := 2500.0 // calls of one connection, about
	switch {
	case conns == 1 && !w.far:
		perSecond = 12000
	case w.far:
		perSecond = 300
	}
	mode, tls := "prepared", "disable"
	if w.simple {
		mode = "simple"
	}
	if w.tls {
		tls = "require"
	}
	host, port, _ := net.SplitHostPort(b.server.Addr())
	if w.far {
		host, port, _ = net.SplitHostPort(b.proxy.addr)
	}
	cmd := exec.CommandContext(ctx, b.pgbench, "-n", "-M", mode, "-c", strconv.Itoa(conns), "-j", strconv.Itoa(min(conns, runtime.NumCPU())),
		"-t", strconv.Itoa(1+int(b.cfg.time.Seconds()*perSecond)), "-f", script, "-l", "--log-prefix="+filepath.Join(dir, "log"),
		"-h", host, "-p", port, "-U", "postgres", "postgres")
	cmd.Env = append(os.Environ(), "PGSSLMODE="+tls)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return figures{}, fmt.Errorf("pgbench: %w: %s", err, out)
	}
	tps := tpsLine.FindSubmatch(out)
	if tps == nil {
		return figures{}, fmt.Errorf("pgbench said nothing of its rate: %s", out)
	}
	var f figures
	f.Rate, _ = strconv.ParseFloat(string(tps[1]), 64)
	if failed := failLine.FindSubmatch(out); failed != nil {
		f.Errors, _ = strconv.ParseFloat(string(failed[1]), 64)
	}
	lat, err := readLatencies(filepath.Join(dir, "log.*"))
	if err != nil {
		return figures{}, err
	}
	f.Calls = float64(len(lat))
	f.P50, f.P99, f.Max = quantile(lat, .5), quantile(lat, .99), quantile(lat, 1)
	if used := cmd.ProcessState; f.Calls > 0 {
		f.CPU = float64((used.UserTime() + used.SystemTime()).Microseconds()) / f.Calls
	}
	return f, nil
}

// readLatencies reads pgbench's log of transactions, whose third column is µs.
func readLatencies(pattern string) ([]uint32, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	var out []uint32
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		for lines := bufio.NewScanner(file); lines.Scan(); {
			f := strings.Fields(lines.Text())
			if len(f) < 3 {
				continue
			}
			us, err := strconv.ParseUint(f[2], 10, 32)
			if err == nil { // "failed" is a word
				out = append(out, uint32(us*10))
			}
		}
		_ = file.Close()
	}
	slices.Sort(out)
	return out, nil
}
