package main

import (
	"fmt"
	"math"
	"strings"
)

// The plot: one panel under the other over the same time, a tick for each
// fault. Its colours are of middle brightness and there is no background, so
// that it reads on white and on black.
const (
	plotWidth, plotLeft, plotRight = 760, 64, 12
	panelHeight, panelGap          = 84, 30
	grey                           = "#7f8791"
)

type panel struct {
	title, colour string
	log           bool
	value         func(row) float64
	second        func(row) float64 // a thinner line, may be nil
}

var panels = []panel{
	{"goroutines", "#3d8bd9", false, func(r row) float64 { return r.Goroutines }, nil},
	{"open file descriptors", "#2f9e77", false, func(r row) float64 { return r.FDs }, nil},
	{"heap after a collection, MB", "#b8741a", false, func(r row) float64 { return r.HeapMB }, nil},
	{"server sessions of both pools, median (thin: most)", "#9a6fd0", false, func(r row) float64 { return r.Sessions }, func(r row) float64 { return float64(r.MostSessions) }},
	{"p99 of short statements, ms (thin: p50)", "#d0556b", true, func(r row) float64 { return r.P99 }, func(r row) float64 { return r.P50 }},
}

func plot(res *result) string {
	var b strings.Builder
	rows := res.Windows
	height := 24 + len(panels)*(panelHeight+panelGap) + 34
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="11" fill="%s">`+"\n",
		plotWidth, height, plotWidth, height, grey)
	end := 1.0
	if len(rows) > 0 {
		end = rows[len(rows)-1].To
	}
	x := func(at float64) float64 { return plotLeft + at/end*(plotWidth-plotLeft-plotRight) }
	top := 24.0
	for _, p := range panels {
		p.draw(&b, rows, x, top)
		top += panelHeight + panelGap
	}
	fmt.Fprintf(&b, `<text x="%d" y="%.0f">faults</text><path stroke="%s" stroke-opacity=".8" d="`, 8, top-4, grey)
	for _, r := range rows {
		if r.Faults > 0 {
			fmt.Fprintf(&b, "M%.1f %.0fv-%d", x(r.From), top, min(3+3*r.Faults, 14))
		}
	}
	b.WriteString(`"/>` + "\n")
	for i := range 7 {
		at := end * float64(i) / 6
		anchor := "middle"
		if i == 6 {
			anchor = "end"
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%.0f" text-anchor="%s">%s</text>`, x(at), top+18, anchor, clock(at, end))
	}
	b.WriteString("\n</svg>\n")
	return b.String()
}

// clock is minutes, or seconds of a short run.
func clock(at, end float64) string {
	if end < 300 {
		return fmt.Sprintf("%.0f s", at)
	}
	return fmt.Sprintf("%.0f min", at/60)
}

func (p panel) draw(b *strings.Builder, rows []row, x func(float64) float64, top float64) {
	most, least := 0.0, math.Inf(1)
	for _, r := range rows {
		for _, f := range []func(row) float64{p.value, p.second} {
			if f != nil {
				most = math.Max(most, f(r))
				if v := f(r); v > 0 {
					least = math.Min(least, v)
				}
			}
		}
	}
	low, high := 0.0, ceiling(most)
	if p.log {
		low, high = math.Floor(math.Log10(math.Min(least, 1))), math.Ceil(math.Log10(math.Max(most, 10)))
	}
	y := func(v float64) float64 {
		if p.log {
			v = math.Log10(math.Max(v, math.Pow(10, low)))
		}
		return top + panelHeight*(1-(v-low)/(high-low))
	}
	fmt.Fprintf(b, `<text x="%d" y="%.0f" font-weight="bold">%s</text>`+"\n", plotLeft, top-6, p.title)
	marks := []float64{0, high / 2, high}
	if p.log {
		marks = nil
		for e := low; e <= high; e++ {
			marks = append(marks, math.Pow(10, e))
		}
	}
	for _, v := range marks {
		fmt.Fprintf(b, `<path stroke="%s" stroke-opacity=".35" d="M%d %.1fH%d"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`,
			grey, plotLeft, y(v), plotWidth-plotRight, plotLeft-6, y(v)+4, number(v))
	}
	b.WriteString("\n")
	line := func(f func(row) float64, width float64) {
		fmt.Fprintf(b, `<path fill="none" stroke="%s" stroke-width="%.1f" stroke-linejoin="round" d="`, p.colour, width)
		command := "M"
		for _, r := range rows {
			v := f(r)
			if p.log && v == 0 { // no call was answered
				command = "M"
				continue
			}
			fmt.Fprintf(b, "%s%.1f %.1f", command, x((r.From+r.To)/2), y(v))
			command = "L"
		}
		b.WriteString(`"/>` + "\n")
	}
	if p.second != nil {
		line(p.second, 0.7)
	}
	line(p.value, 1.6)
}

// ceiling is the next of 1, 2, 4, 5, 6, 8 times a power of ten.
func ceiling(v float64) float64 {
	if v <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 4, 5, 6, 8} {
		if v <= m*unit {
			return m * unit
		}
	}
	return 10 * unit
}

func number(v float64) string { return fmt.Sprintf("%g", math.Round(v*1000)/1000) }
