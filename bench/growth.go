package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// curve is the cost of a call against the size of something.
type curve struct {
	name, what string
	axis       string
	points     []int
	at         func(config, int) work
}

// growers are the rivals of the curves.
var growers = []string{ours, pqTuned, pgxSQL}

func curves(cfg config) []curve {
	point := func(callers, conns int) work { return works(callers, conns)[0] }
	all := []curve{
		{"growth-callers", "point select with an argument, against callers", fmt.Sprintf("callers on %d connections", cfg.conns),
			[]int{1, 10, 30, 100, 300, 1000, 3000, 10000},
			func(cfg config, n int) work { return point(n, cfg.conns) }},
		{"growth-connections", "point select with an argument, 100 callers, against connections", "connections",
			[]int{1, 2, 5, 10, 20, 50, 100},
			func(_ config, n int) work { return point(100, n) }},
		{"growth-statements", fmt.Sprintf("point select with an argument, %d callers on %d connections, against distinct texts", cfg.callers, cfg.conns), "distinct texts",
			[]int{1, 10, 100, 200, 300, 500, 1000, 3000, 10000},
			func(cfg config, n int) work {
				w := point(cfg.callers, cfg.conns)
				// Each connection has to see each text twice before it prepares it.
				w.start, w.warmup = textsOf(n), min(6*n*cfg.conns, 60_000)
				return w
			}},
		{"growth-rows", fmt.Sprintf("select of so many rows, %[1]d callers on %[1]d connections", cfg.conns), "rows",
			[]int{1, 10, 100, 1000, 10000},
			func(cfg config, n int) work {
				return work{callers: cfg.conns, conns: cfg.conns, start: rowsOf(n)}
			}},
	}
	if cfg.points > 0 {
		for i := range all {
			all[i].points = slices.DeleteFunc(all[i].points, func(n int) bool { return n > cfg.points })
		}
	}
	return all
}

// draw measures all points of a curve.
func (b *bench) draw(ctx context.Context, c curve) (curveResult, error) {
	began := time.Now()
	res := curveResult{Name: c.name, What: c.what, Axis: c.axis, Points: c.points}
	es := slices.DeleteFunc(b.cfg.entered(), func(r rival) bool { return !slices.Contains(growers, r.name) })
	for _, r := range es {
		res.Lines = append(res.Lines, line{Rival: r.name})
	}
	for _, n := range c.points {
		w := c.at(b.cfg, n)
		w.name = fmt.Sprintf("%s %d", c.name, n)
		all, err := rounds(b.cfg.rounds, len(es), func(_, i int) (figures, error) { return b.measure(ctx, w, es[i]) })
		if err != nil {
			return res, err
		}
		for i := range es {
			res.Lines[i].At = append(res.Lines[i].At, medians(all[i]))
		}
	}
	b.cfg.log("%s: %s", c.name, time.Since(began).Round(time.Second))
	return res, nil
}
