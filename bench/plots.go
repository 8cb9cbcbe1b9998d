package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The colours can be told apart, and read, on white and on black: there is no
// background.
var (
	ink  = color.NRGBA{R: 0x80, G: 0x86, B: 0x8e, A: 0xff}
	grid = color.NRGBA{R: 0x80, G: 0x86, B: 0x8e, A: 0x40}

	paint = map[string]color.Color{
		ours:     color.NRGBA{R: 0x1f, G: 0x88, B: 0xe5, A: 0xff},
		pqTuned:  color.NRGBA{R: 0xe0, G: 0x6c, B: 0x00, A: 0xff},
		pqBinary: color.NRGBA{R: 0xb0, G: 0x8d, B: 0x00, A: 0xff},
		pgxSQL:   color.NRGBA{R: 0x2e, G: 0xa0, B: 0x43, A: 0xff},
		pgxPool:  color.NRGBA{R: 0xa3, G: 0x71, B: 0xf7, A: 0xff},
	}
)

// barChart compares the rivals with lib/pq tuned in all works.
type barChart struct {
	name, title string
	get         func(figures) float64
}

var barCharts = []barChart{
	{"rate", "calls per second, lib/pq tuned = 1", func(f figures) float64 { return f.Rate }},
	{"p99", "p99 of the latency, lib/pq tuned = 1 (less is better)", func(f figures) float64 { return f.P99 }},
	{"cpu", "client CPU per call, lib/pq tuned = 1 (less is better)", func(f figures) float64 { return f.CPU }},
	{"allocs", "allocations per call, lib/pq tuned = 1 (less is better)", func(f figures) float64 { return f.Allocs }},
}

func (b barChart) file() string { return "bench-" + b.name + ".svg" }

func (res *curveResult) file() string { return "bench-" + res.Name + ".svg" }

// hasBars says whether there is something to draw: lib/pq tuned took part, and
// the figure is known on this system.
func (r *report) hasBars(b barChart) bool {
	for _, w := range r.Works {
		if base := r.rival(w.Name, pqTuned); base != nil && b.get(base.Median) > 0 {
			return true
		}
	}
	return false
}

// plots draws what was measured into a folder.
func (r *report) plots(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, b := range barCharts {
		if err := r.bars(filepath.Join(dir, b.file()), b); err != nil {
			return err
		}
	}
	for _, c := range r.Growth {
		if err := c.plot(filepath.Join(dir, c.file())); err != nil {
			return err
		}
	}
	return nil
}

func newPlot() *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.Transparent
	sans := func(f *font.Font, size vg.Length) {
		*f = font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, size)
	}
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Color, a.Label.TextStyle.Color, a.Tick.Color, a.Tick.Label.Color = ink, ink, ink, ink
		sans(&a.Label.TextStyle.Font, 10)
		sans(&a.Tick.Label.Font, 9)
	}
	p.Title.TextStyle.Color, p.Legend.TextStyle.Color = ink, ink
	sans(&p.Title.TextStyle.Font, 11)
	sans(&p.Legend.TextStyle.Font, 9)
	p.Legend.Top, p.Legend.Padding = true, vg.Points(3)
	return p
}

func newGrid() *plotter.Grid {
	g := plotter.NewGrid()
	g.Vertical.Color, g.Horizontal.Color = grid, grid
	g.Vertical.Dashes, g.Horizontal.Dashes = nil, nil
	return g
}

// air keeps a name off its colour where the reader's font is wider.
const air = "   "

// barred are the rivals of the bar charts, from top to bottom.
var barred = []string{ours, pgxSQL, pgxPool, pqBinary}

// bars has a group for each work and in it a bar for each rival.
func (r *report) bars(file string, chart barChart) error {
	if !r.hasBars(chart) {
		return nil
	}
	var (
		labels []string
		values = make([]plotter.Values, len(barred))
		get    = chart.get
	)
	for _, w := range slices.Backward(r.Works) { // the axis goes up
		base := r.rival(w.Name, pqTuned)
		if base == nil || get(base.Median) == 0 {
			continue
		}
		labels = append(labels, w.Name)
		for i, name := range barred {
			v := 0.0
			if e := r.rival(w.Name, name); e != nil {
				v = get(e.Median) / get(base.Median)
			}
			values[i] = append(values[i], v)
		}
	}
	p := newPlot()
	p.Title.Text = chart.title
	p.Y.Tick.Length = 0
	const thick, step = 4.2, 4.6
	for i, name := range barred {
		b, err := plotter.NewBarChart(values[i], vg.Points(thick))
		if err != nil {
			return err
		}
		b.Horizontal, b.Color, b.LineStyle.Width = true, paint[name], 0
		b.Offset = vg.Points(step * (float64(len(barred)-1)/2 - float64(i)))
		p.Add(b)
		p.Legend.Add(name+air, b)
	}
	one, err := plotter.NewLine(plotter.XYs{{X: 1, Y: -.5}, {X: 1, Y: float64(len(labels)) - .5}})
	if err != nil {
		return err
	}
	one.Color, one.Width = paint[pqTuned], vg.Points(1.2)
	p.Add(one)
	p.Legend.Add(pqTuned+air, one)
	p.NominalY(labels...)
	p.X.Min = 0
	p.X.Max *= 1.2 // room for the legend
	return save(file, vg.Points(520), vg.Points(70+24*float64(len(labels))), p)
}

// plot has the client's CPU per call on the left and the rate on the right.
func (res *curveResult) plot(file string) error {
	left, right := newPlot(), newPlot()
	left.Title.Text, right.Title.Text = "client CPU per call, µs", "calls per second"
	for _, side := range []struct {
		p   *plot.Plot
		get func(figures) float64
	}{{left, func(f figures) float64 { return f.CPU }}, {right, func(f figures) float64 { return f.Rate }}} {
		side.p.Add(newGrid())
		side.p.X.Label.Text = res.Axis
		side.p.X.Scale, side.p.X.Tick.Marker = plot.LogScale{}, decades{}
		top, bottom := 0.0, math.Inf(1)
		for _, l := range res.Lines {
			var at plotter.XYs
			for i, n := range res.Points {
				v := side.get(l.At[i])
				if v <= 0 { // not known here
					continue
				}
				at = append(at, plotter.XY{X: float64(n), Y: v})
				top, bottom = max(top, v), min(bottom, v)
			}
			if len(at) == 0 {
				continue
			}
			drawn, dots, err := plotter.NewLinePoints(at)
			if err != nil {
				return err
			}
			drawn.Color, drawn.Width, dots.Color = paint[l.Rival], vg.Points(1.5), paint[l.Rival]
			dots.Shape, dots.Radius = draw.CircleGlyph{}, vg.Points(2)
			side.p.Add(drawn, dots)
			if side.p == left {
				side.p.Legend.Add(l.Rival, drawn)
			}
		}
		if top == 0 {
			continue
		}
		side.p.Y.Min, side.p.Y.Max = 0, 1.25*top
		if top > 30*bottom {
			side.p.Y.Scale, side.p.Y.Tick.Marker = plot.LogScale{}, decades{}
			side.p.Y.Min, side.p.Y.Max = bottom/1.5, 4*top
		}
	}
	left.Legend.Left = true
	return save(file, vg.Points(640), vg.Points(250), left, right)
}

// decades marks 1, 10, 100 … with whole numbers.
type decades struct{}

// Ticks implements plot.Ticker.
func (decades) Ticks(lo, hi float64) []plot.Tick {
	var out []plot.Tick
	for v := math.Pow(10, math.Floor(math.Log10(lo))); v <= hi; v *= 10 {
		for k := 1.0; k < 10; k++ {
			t := plot.Tick{Value: k * v}
			if k == 1 {
				t.Label = strconv.FormatFloat(v, 'f', -1, 64)
			}
			if t.Value >= lo && t.Value <= hi {
				out = append(out, t)
			}
		}
	}
	return out
}

// save draws plots side by side.
func save(file string, w, h vg.Length, plots ...*plot.Plot) error {
	canvas := vgsvg.New(w, h)
	tiles := draw.Tiles{Rows: 1, Cols: len(plots), PadX: vg.Points(14), PadY: vg.Points(4), PadTop: vg.Points(4), PadRight: vg.Points(6), PadBottom: vg.Points(4), PadLeft: vg.Points(4)}
	at := plot.Align([][]*plot.Plot{plots}, tiles, draw.New(canvas))
	for i, p := range plots {
		p.Draw(at[0][i])
	}
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	// The fonts are the reader's: the file stays small.
	text := strings.ReplaceAll(b.String(), "Liberation Sans", "Liberation Sans,Arial,Helvetica,sans-serif")
	return os.WriteFile(file, []byte(text), 0o644)
}
