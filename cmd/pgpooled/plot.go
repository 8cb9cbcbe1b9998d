package main

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"
)

// plot is a picture over time. Its lines are an SVG that is stretched to the
// page's width; the words are HTML around it, so that they keep their size.
type plot struct {
	Title  string
	Lines  []plotLine
	Y      []mark // from the top
	X      []string
	Events []template.CSS // places in percent
	Grid   string         // a path
}

type plotLine struct {
	Name, Class, Path string
}

type mark struct {
	At   template.CSS // percent from the top
	Text string
}

// The SVG's own units.
const plotWidth, plotHeight = 1000, 200

// scale turns a value into a share of the height.
type scale struct {
	low, high float64
	log       bool
	text      func(float64) string
}

func (s scale) share(v float64) float64 {
	if s.log {
		v, low, high := math.Log10(math.Max(v, s.low)), math.Log10(s.low), math.Log10(s.high)
		return (v - low) / (high - low)
	}
	return (v - s.low) / (s.high - s.low)
}

func (s scale) marks() (at []float64) {
	if !s.log {
		return []float64{s.low, (s.low + s.high) / 2, s.high}
	}
	for v := s.low; v <= s.high*1.01; v *= 10 {
		at = append(at, v)
	}
	return at
}

// linear goes from zero to a round number above most.
func linear(most float64) scale {
	step := math.Pow(10, math.Floor(math.Log10(math.Max(most, 1))))
	for _, f := range []float64{1, 2, 4, 5, 6, 8, 10} {
		if high := f * step; high >= most {
			return scale{high: math.Max(high, 2), text: func(v float64) string { return grouped(int64(math.Round(v))) }}
		}
	}
	return scale{high: 10 * step}
}

// decades go from one power of ten to another.
func decades(least, most time.Duration) scale {
	low := math.Pow(10, math.Floor(math.Log10(math.Max(float64(least), float64(10*time.Microsecond)))))
	high := math.Pow(10, math.Ceil(math.Log10(math.Max(float64(most), 10*low))))
	return scale{low: low, high: high, log: true, text: func(v float64) string { return short(time.Duration(math.Round(v))) }}
}

type curve struct {
	name, class string
	value       func(sample) float64 // below zero: not known
}

func plots(f *figures) []*plot {
	if len(f.series) < 2 {
		return nil
	}
	least, mostLatency, mostRate, mostConns := time.Hour, time.Duration(0), 0.0, float64(f.limit)
	for _, s := range f.series {
		if s.P50 > 0 {
			least = min(least, s.P50)
		}
		mostLatency = max(mostLatency, s.P99)
		mostRate = max(mostRate, s.rate())
		mostConns = max(mostConns, float64(s.Sessions), float64(s.Waiting), float64(s.InUse+s.Idle))
	}
	known := func(d time.Duration) float64 {
		if d == 0 {
			return -1
		}
		return float64(d)
	}
	return []*plot{
		newPlot(f, "Latency", decades(least, mostLatency), []curve{
			{"p99", "c1", func(s sample) float64 { return known(s.P99) }},
			{"p50", "c2", func(s sample) float64 { return known(s.P50) }},
		}),
		newPlot(f, "Calls per second", linear(mostRate), []curve{
			{"all", "c2", sample.rate},
			{"failed", "c4", func(s sample) float64 { return float64(s.Failed) / max(s.Took.Seconds(), 1e-9) }},
		}),
		newPlot(f, "Connections", linear(mostConns), []curve{
			{fmt.Sprintf("limit (%d)", f.limit), "limit", func(sample) float64 { return float64(f.limit) }},
			{"waiting callers", "c3", func(s sample) float64 { return float64(s.Waiting) }},
			{"in use", "c2", func(s sample) float64 { return float64(s.InUse) }},
			{"idle", "c5", func(s sample) float64 { return float64(s.Idle) }},
			{"sessions, the server's count", "c1", func(s sample) float64 { return float64(s.Sessions) }},
		}),
	}
}

func newPlot(f *figures, title string, s scale, curves []curve) *plot {
	end := f.series[len(f.series)-1].At.Seconds()
	p := &plot{Title: title}
	var grid strings.Builder
	for _, v := range s.marks() {
		top := 1 - s.share(v)
		p.Y = append(p.Y, mark{percent(top), s.text(v)})
		fmt.Fprintf(&grid, "M0 %.1fH%d", top*plotHeight, plotWidth)
	}
	p.Grid = grid.String()
	for i := range 5 {
		p.X = append(p.X, short(time.Duration(end*float64(i)/4*float64(time.Second)).Round(100*time.Millisecond)))
	}
	for _, e := range f.events {
		if strings.HasPrefix(e.Text, "restart:") && e.At <= end {
			p.Events = append(p.Events, percent(e.At/end))
		}
	}
	for _, c := range curves {
		var path strings.Builder
		pen := "M"
		for _, sample := range f.series {
			v := c.value(sample)
			if v < 0 {
				pen = "M"
				continue
			}
			at := (sample.At - sample.Took/2).Seconds() / end
			fmt.Fprintf(&path, "%s%.1f %.1f", pen, at*plotWidth, (1-s.share(v))*plotHeight)
			pen = "L"
		}
		p.Lines = append(p.Lines, plotLine{c.name, c.class, path.String()})
	}
	return p
}

func percent(share float64) template.CSS { return template.CSS(fmt.Sprintf("%.2f%%", 100*share)) } //nolint:gosec // a number
