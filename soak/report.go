package main

import (
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// header is the table's first line.
var header = []string{"time", "faults", "calls/s", "failed", "p50 ms", "p99 ms", "max ms", "goroutines", "fds", "heap MB", "sessions (most)", "waits", "mean wait ms", "peak", "opened"}

func (r row) cells(end float64) []string {
	return []string{
		clock(r.From, end) + "–" + clock(r.To, end), fmt.Sprint(r.Faults), fmt.Sprintf("%.0f", float64(r.Calls)/(r.To-r.From)), fmt.Sprint(r.Failed),
		fmt.Sprintf("%.2f", r.P50), fmt.Sprintf("%.1f", r.P99), fmt.Sprintf("%.0f", r.Max), fmt.Sprintf("%.0f", r.Goroutines), fmt.Sprintf("%.0f", r.FDs),
		fmt.Sprintf("%.1f", r.HeapMB), fmt.Sprintf("%.0f (%d)", r.Sessions, r.MostSessions), fmt.Sprint(r.Waits), fmt.Sprintf("%.1f", r.WaitMS),
		fmt.Sprint(r.Peak), fmt.Sprint(r.Opens),
	}
}

// print is for a terminal.
func (r *result) print(w io.Writer) {
	end := r.Seconds
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, strings.Join(header, "\t")+"\t")
	for _, x := range r.rows12 {
		fmt.Fprintln(t, strings.Join(x.cells(end), "\t")+"\t")
	}
	_ = t.Flush()
	fmt.Fprintln(w)
	for _, p := range r.Promises {
		fmt.Fprintf(w, "%s  %s: %s\n", verdict(p.Holds), p.What, p.Figure)
	}
	for _, e := range r.Truth.Examples {
		fmt.Fprintln(w, "      "+e)
	}
	fmt.Fprintln(w, "\nfaults: "+counts(r.Faults))
	for _, s := range r.NotMade {
		fmt.Fprintln(w, "        not made: "+s)
	}
	fmt.Fprintln(w, "sessions closed: "+counts(r.ClosedBy))
	fmt.Fprintln(w, "errors:")
	for _, e := range r.Errors {
		fmt.Fprintf(w, "%8d  %s: %s\n", e.N, e.Op, e.What)
	}
}

func verdict(holds bool) string {
	if holds {
		return "PASS"
	}
	return "FAIL"
}

func counts[N int | int64](m map[string]N) string {
	var parts []string
	for k, n := range m {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", k, n))
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// page is what stands between the marks of docs/soak.md.
func (r *result) page(version, picture string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n`make soak SOAK=%s` on %s, seed %d: %s on %s/%s, %d CPUs, %s. %d callers, two pools of %d, %d calls.\n\n",
		short(r.Config.Duration), time.Now().UTC().Format(time.DateOnly), r.Config.Seed, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), version,
		r.Config.Callers, r.Config.Limit, r.calls())
	b.WriteString("| | promise | figure |\n|---|---|---|\n")
	for _, p := range r.Promises {
		fmt.Fprintf(&b, "| **%s** | %s | %s |\n", verdict(p.Holds), p.What, strings.ReplaceAll(p.Figure, "|", "\\|"))
	}
	fmt.Fprintf(&b, "\n![goroutines, file descriptors, heap, sessions and p99 over time](%s)\n\n", picture)
	b.WriteString("| " + strings.Join(header, " | ") + " |\n|" + strings.Repeat("---|", len(header)) + "\n")
	for _, x := range r.rows12 {
		b.WriteString("| " + strings.Join(x.cells(r.Seconds), " | ") + " |\n")
	}
	b.WriteString("\nFaults: " + counts(r.Faults) + ".\n\nSessions closed: " + counts(r.ClosedBy) + ".\n\n| errors | calls | what the caller was told |\n|---:|---|---|\n")
	for _, e := range r.Errors {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", e.N, e.Op, e.What)
	}
	b.WriteString("\n")
	return b.String()
}

// short is 1h, not 1h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

func (r *result) calls() (n int) {
	for _, x := range r.Windows {
		n += x.Calls
	}
	return n
}

// picture is where the plot is, as the page links to it.
func picture() string { return path.Join("img", "soak.svg") }
