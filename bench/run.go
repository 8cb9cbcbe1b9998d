package main

import (
	"context"
	"fmt"
	"net"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// config is what the flags say, and how large everything is.
type config struct {
	rounds  int
	time    time.Duration // of one measurement
	only    []string      // patterns of names, none = all
	rivals  []string      // names, none = all
	callers int
	conns   int
	crowd   int           // callers of the work "crowd"
	latency time.Duration // of the network, there and back
	points  int           // the largest point of the growth curves, 0 = all
	log     func(format string, args ...any)
}

func (c *config) wants(name string) bool {
	return len(c.only) == 0 || slices.ContainsFunc(c.only, func(pattern string) bool {
		ok, _ := path.Match(pattern, name)
		return ok
	})
}

func (c *config) entered() []rival {
	return slices.DeleteFunc(slices.Clone(rivals), func(r rival) bool {
		return len(c.rivals) > 0 && !slices.Contains(c.rivals, r.name)
	})
}

// bench has the server that all rivals ask.
type bench struct {
	cfg     config
	server  *pgtest.Server
	proxy   *proxy // delays
	pgbench string // its path, "" = not there
}

func newBench(ctx context.Context, cfg config) (*bench, error) {
	// Nothing but the rivals keeps the server busy: no autovacuum, and room
	// before the next checkpoint.
	s, err := pgtest.Start(ctx, pgtest.Options{TLS: true, MaxConnections: 300, Params: map[string]string{
		"autovacuum": "off", "shared_buffers": "128MB", "max_wal_size": "2GB",
	}})
	if err != nil {
		return nil, err
	}
	b := &bench{cfg: cfg, server: s, pgbench: findPgbench(s.BinDir())}
	if err := b.admin(ctx, schema); err != nil {
		b.close()
		return nil, err
	}
	if b.proxy, err = startProxy(s.Addr(), cfg.latency/2); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) close() {
	if b.proxy != nil {
		b.proxy.stop()
	}
	_ = b.server.Stop()
}

// admin runs statements as a superuser, each by itself: VACUUM allows no
// company.
func (b *bench) admin(ctx context.Context, statements string) error {
	for s := range strings.SplitSeq(statements, ";") {
		if _, err := b.server.Admin().ExecContext(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// dsn is understood by all rivals.
func (b *bench) dsn(tls, far bool) string {
	kv := []string{"sslmode", "disable"}
	if tls {
		kv[1] = "require"
	}
	if far {
		host, port, _ := net.SplitHostPort(b.proxy.addr)
		kv = append(kv, "host", host, "port", port)
	}
	return b.server.DSN(kv...)
}

// entrant is a rival or pgbench in one work.
type entrant struct {
	name    string
	measure func(context.Context) (figures, error)
}

func (b *bench) entrants(w work) []entrant {
	var out []entrant
	for _, r := range b.cfg.entered() {
		out = append(out, entrant{r.name, func(ctx context.Context) (figures, error) { return b.measure(ctx, w, r) }})
	}
	if w.script != "" && b.pgbench != "" && (len(b.cfg.rivals) == 0 || slices.Contains(b.cfg.rivals, limit)) {
		out = append(out, entrant{limit, func(ctx context.Context) (figures, error) { return b.runPgbench(ctx, w) }})
	}
	return out
}

// rounds has each entrant measured once per round, a different one first each
// time. Whatever else happens on the machine meets all of them alike.
func rounds[T any](n int, entrants int, one func(round, entrant int) (T, error)) ([][]T, error) {
	out := make([][]T, entrants) // by entrant, then by round
	for round := range n {
		for turn := range entrants {
			i := (turn + round) % entrants
			v, err := one(round, i)
			if err != nil {
				return nil, err
			}
			out[i] = append(out[i], v)
		}
	}
	return out, nil
}

// do runs one work.
func (b *bench) do(ctx context.Context, w work) (workResult, error) {
	began := time.Now()
	es := b.entrants(w)
	all, err := rounds(b.cfg.rounds, len(es), func(_, i int) (figures, error) { return es[i].measure(ctx) })
	if err != nil {
		return workResult{}, err
	}
	res := workResult{Name: w.name, What: w.what, Callers: w.callers, Conns: w.conns}
	if w.far {
		res.What += fmt.Sprintf(" of %s", b.cfg.latency)
	}
	var own []figures
	for i, e := range es {
		if e.name == ours {
			own = all[i]
		}
	}
	for i, e := range es {
		r := rivalResult{Name: e.name, Median: medians(all[i]), Rounds: all[i]}
		if own != nil && e.name != ours {
			r.Rate = ratios(own, all[i], func(f figures) float64 { return f.Rate })
			r.CPU = ratios(own, all[i], func(f figures) float64 { return f.CPU })
			if e.name != limit || w.callers <= w.conns { // else its callers do not queue
				r.P99 = ratios(own, all[i], func(f figures) float64 { return f.P99 })
			}
		}
		res.Rivals = append(res.Rivals, r)
	}
	res.NoPgbench = b.pgbench == "" && w.script != ""
	b.cfg.log("%s: %s", w.name, time.Since(began).Round(time.Second))
	return res, nil
}

// all runs everything that is wanted.
func (b *bench) all(ctx context.Context, rep *report) error {
	for _, w := range works(b.cfg.callers, b.cfg.conns) {
		if !b.cfg.wants(w.name) {
			continue
		}
		r, err := b.do(ctx, w)
		if err != nil {
			return err
		}
		rep.Works = append(rep.Works, r)
	}
	for _, s := range b.specials() {
		if !b.cfg.wants(s.name) {
			continue
		}
		r, err := b.doSpecial(ctx, s)
		if err != nil {
			return err
		}
		rep.Specials = append(rep.Specials, r)
	}
	for _, c := range curves(b.cfg) {
		if !b.cfg.wants(c.name) {
			continue
		}
		r, err := b.draw(ctx, c)
		if err != nil {
			return err
		}
		rep.Growth = append(rep.Growth, r)
	}
	rep.Aims = judge(rep)
	return nil
}

// describe fills in what was run where.
func (b *bench) describe(ctx context.Context, rep *report) error {
	rep.Date = time.Now().UTC().Format("2006-01-02")
	rep.Go, rep.System, rep.CPUs = runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH, runtime.NumCPU()
	rep.Modules = versions()
	rep.Seconds, rep.Rounds = b.cfg.time.Seconds(), b.cfg.rounds
	return b.server.Admin().QueryRowContext(ctx, "SHOW server_version").Scan(&rep.Postgres)
}

// isOverloaded says that a rival may fail at this: plain lib/pq opens a
// connection per caller.
func isOverloaded(r rival, callers int) bool { return r.name == pqPlain && callers > 250 }
