package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// report is a whole run: what -json writes.
type report struct {
	Command  string            `json:"command"`
	Date     string            `json:"date"`
	Go       string            `json:"go"`
	System   string            `json:"system"`
	CPUs     int               `json:"cpus"`
	Postgres string            `json:"postgres"`
	Modules  map[string]string `json:"modules"`
	Rounds   int               `json:"rounds"`
	Seconds  float64           `json:"seconds"` // of one measurement

	Aims     []aim           `json:"aims"`
	Works    []workResult    `json:"works"`
	Specials []specialResult `json:"specials"`
	Growth   []curveResult   `json:"growth"`
}

type workResult struct {
	Name      string        `json:"name"`
	What      string        `json:"what"`
	Callers   int           `json:"callers"`
	Conns     int           `json:"connections"`
	NoPgbench bool          `json:"noPgbench,omitempty"` // it would take part, but is not installed
	Rivals    []rivalResult `json:"rivals"`
}

type rivalResult struct {
	Name   string    `json:"name"`
	Median figures   `json:"median"`
	Rate   *spread   `json:"rateRatio,omitempty"` // ours ÷ this one's, round by round
	P99    *spread   `json:"p99Ratio,omitempty"`
	CPU    *spread   `json:"cpuRatio,omitempty"` // moves least when others use the machine
	Rounds []figures `json:"rounds"`
}

type specialResult struct {
	Name    string          `json:"name"`
	What    string          `json:"what"`
	Rivals  []string        `json:"rivals"`
	Absent  []string        `json:"absent,omitempty"` // who did not take part, and why
	Metrics []specialMetric `json:"metrics"`
}

type specialMetric struct {
	Name   string      `json:"name"`
	Unit   string      `json:"unit"`
	Values []spread    `json:"values"` // by rival
	Rounds [][]float64 `json:"rounds"`
}

type curveResult struct {
	Name   string `json:"name"`
	What   string `json:"what"`
	Axis   string `json:"axis"`
	Points []int  `json:"points"`
	Lines  []line `json:"lines"`
}

type line struct {
	Rival string    `json:"rival"`
	At    []figures `json:"at"`
}

func (r *report) work(name string) *workResult {
	for i := range r.Works {
		if r.Works[i].Name == name {
			return &r.Works[i]
		}
	}
	return nil
}

func (r *report) rival(work, name string) *rivalResult {
	w := r.work(work)
	if w == nil {
		return nil
	}
	for i := range w.Rivals {
		if w.Rivals[i].Name == name {
			return &w.Rivals[i]
		}
	}
	return nil
}

func (r *report) special(name string) *specialResult {
	for i := range r.Specials {
		if r.Specials[i].Name == name {
			return &r.Specials[i]
		}
	}
	return nil
}

// column is where a rival stands, -1 = nowhere.
func (s *specialResult) column(rival string) int { return slices.Index(s.Rivals, rival) }

// writeJSON writes all figures of all rounds.
func (r *report) writeJSON(file string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// markdown writes the tables.
func (r *report) markdown(w io.Writer) {
	fmt.Fprintf(w, "\nMade by `%s` on %s: %s on %s, %d CPUs; PostgreSQL %s; lib/pq %s, pgx %s. %d rounds, %.2g s per rival and work in each.\n\n",
		r.Command, r.Date, r.Go, r.System, r.CPUs, r.Postgres, r.Modules["github.com/lib/pq"], r.Modules["github.com/jackc/pgx/v5"], r.Rounds, r.Seconds)
	r.aims(w)
	r.overview(w)
	for _, res := range r.Works {
		res.table(w)
	}
	for _, res := range r.Specials {
		res.table(w)
	}
	for _, res := range r.Growth {
		res.table(w)
	}
}

func (r *report) aims(w io.Writer) {
	if len(r.Aims) == 0 {
		return
	}
	fmt.Fprint(w, "## Aims\n\n| | aim | measured (lowest to highest round) | |\n|---|---|---|---|\n")
	for _, a := range r.Aims {
		fmt.Fprintf(w, "| %s | %s %s | %s | %s |\n", a.What, a.sign(), short(a.Aim), a.Measured, a.verdict())
	}
	fmt.Fprintln(w)
}

// overview has one line per work: how many times as fast as each rival.
func (r *report) overview(w io.Writer) {
	var columns []string
	for _, res := range r.Works {
		for _, e := range res.Rivals {
			if e.Rate != nil && !slices.Contains(columns, e.Name) {
				columns = append(columns, e.Name)
			}
		}
	}
	if len(columns) == 0 {
		return
	}
	for _, b := range barCharts {
		if r.hasBars(b) {
			fmt.Fprintf(w, "![%s](img/%s)\n\n", b.title, b.file())
		}
	}
	fmt.Fprint(w, "## In one table\n\nThe rate of pgpooled ÷ that of …: the median of the rounds' ratios. Above 1 pgpooled is faster.\n\n")
	fmt.Fprintf(w, "| | callers | %s |\n|---|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, res := range r.Works {
		fmt.Fprintf(w, "| %s | %d |", res.What, res.Callers)
		for _, c := range columns {
			cell := ""
			if e := r.rival(res.Name, c); e != nil && e.Rate != nil {
				cell = short(e.Rate.Median)
			}
			fmt.Fprintf(w, " %s |", cell)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
}

func (res *workResult) table(w io.Writer) {
	fmt.Fprintf(w, "### %s, %s on %s\n\n", upper(res.What), count(res.Callers, "caller"), count(res.Conns, "connection"))
	fmt.Fprint(w, "| | calls/s | p50, µs | p99, µs | client CPU, µs/call | allocations/call | bytes/call | rate of pgpooled ÷ | its p99 ÷ | its CPU ÷ |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, e := range res.Rivals {
		m := e.Median
		allocs, bytes := short(m.Allocs), fmt.Sprintf("%.0f", m.Bytes)
		name := e.Name
		if e.Name == limit {
			allocs, bytes = "", ""
			name = fmt.Sprintf("%s, %s", limit, count(min(res.Callers, res.Conns), "caller"))
		}
		rate := fmt.Sprintf("%.0f", m.Rate)
		if m.Errors > 0 {
			rate += fmt.Sprintf(" (%.0f failed: %s)", m.Errors, strings.ReplaceAll(m.Error, "|", "/"))
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n",
			name, rate, short(m.P50), short(m.P99), short(m.CPU), allocs, bytes, e.Rate.cell(), e.P99.cell(), e.CPU.cell())
	}
	if res.NoPgbench {
		fmt.Fprintf(w, "| %s | not installed |  |  |  |  |  |  |  |  |\n", limit)
	}
	fmt.Fprintln(w)
}

func (res *specialResult) table(w io.Writer) {
	fmt.Fprintf(w, "### %s\n\n| | %s |\n|---|%s\n", upper(res.What), strings.Join(res.Rivals, " | "), strings.Repeat("---|", len(res.Rivals)))
	for _, m := range res.Metrics {
		name := m.Name
		if m.Unit != "" {
			name += ", " + m.Unit
		}
		fmt.Fprintf(w, "| %s |", name)
		for _, v := range m.Values {
			fmt.Fprintf(w, " %s |", v)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
	for _, a := range res.Absent {
		fmt.Fprintf(w, "Not here: %s.\n\n", a)
	}
}

func (res *curveResult) table(w io.Writer) {
	fmt.Fprintf(w, "### Growth: %[1]s\n\n![%[1]s](img/%[2]s)\n\n| %[3]s |", res.What, res.file(), res.Axis)
	for _, l := range res.Lines {
		fmt.Fprintf(w, " %s: CPU, µs/call | calls/s | p99, µs |", l.Rival)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", 3*len(res.Lines)))
	for i, n := range res.Points {
		fmt.Fprintf(w, "| %d |", n)
		for _, l := range res.Lines {
			fmt.Fprintf(w, " %s | %.0f | %s |", short(l.At[i].CPU), l.At[i].Rate, short(l.At[i].P99))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
}

// String is the median and, if there are several rounds, the extremes.
func (s spread) String() string {
	if s.Min == s.Max {
		return short(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", short(s.Median), short(s.Min), short(s.Max))
}

// cell is empty where there is nothing.
func (s *spread) cell() string {
	if s == nil {
		return ""
	}
	return s.String()
}

// short has about three digits.
func short(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// upper makes a heading of a description that may begin with code.
func upper(s string) string {
	if s == "" || s[0] == '`' {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
