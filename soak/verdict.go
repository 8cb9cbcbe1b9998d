package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// result is what a run came to; soak.json has it.
type result struct {
	Config     config
	Seconds    float64
	Server     string // its version
	Promises   []promise
	Truth      truth
	Limits     limitCheck
	Errors     []class
	Faults     map[string]int
	NotMade    []string // faults that could not be made
	ClosedBy   map[string]int64
	Pools      totals
	CloseError string
	Slots      string // those still taken when no call was under way
	Left       leftover
	Windows    []row // a few hundred at most

	rows12 []row
}

func (r *result) passed() bool {
	return !slices.ContainsFunc(r.Promises, func(p promise) bool { return !p.Holds })
}

// promise is one line of the summary.
type promise struct {
	What   string
	Holds  bool
	Figure string
	Trend  bool // of what was seen over time
}

// leftover is what is there beyond what was there before the pools.
type leftover struct{ Goroutines, FDs, Sessions int }

// left counts; its own connections to the server come and go.
func (r *run) left() leftover {
	n, _ := goroutines(nil)
	l := leftover{Goroutines: n}
	if fds, err := openFDs(r.proxyPorts(), r.server.Port()); err == nil {
		l.FDs = fds - r.server.Admin().Stats().OpenConnections
	}
	return l
}

// awaitLeft gives what is closing a while to close.
func (r *run) awaitLeft(before leftover) leftover {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		l := r.left()
		l.Goroutines -= before.Goroutines
		l.FDs -= before.FDs
		l.Sessions = 0
		counted := true
		for _, p := range r.pools {
			n, err := r.server.CountSessions(ctx, p.app)
			counted = counted && err == nil
			l.Sessions += n
		}
		if counted && l.Goroutines <= 0 && l.FDs <= 0 && l.Sessions == 0 || ctx.Err() != nil {
			return l
		}
		<-time.After(20 * time.Millisecond)
	}
}

// awaitSlots gives the pools a while to have nothing in use once nobody calls.
// It says which slots stay taken.
func (r *run) awaitSlots() string {
	for deadline := time.Now().Add(20 * time.Second); ; {
		taken := ""
		for _, p := range r.pools {
			if st := p.conn.Stats(); st.InUse+st.Opening+st.Closing+st.Waiting > 0 {
				taken += fmt.Sprintf("%s: in use %d, opening %d, closing %d, waiting %d; ", p.name, st.InUse, st.Opening, st.Closing, st.Waiting)
			}
		}
		if taken == "" || time.Now().After(deadline) {
			return taken
		}
		<-time.After(20 * time.Millisecond)
	}
}

// fill judges. It is called when no call is under way.
func (r *run) fill(res *result, hung bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	windows, limits, stuck := r.samples.complete()
	var log []made
	log, res.Faults, res.NotMade = r.faults.snapshot()
	res.Limits, res.Errors = limits, r.classes.list()
	slices.SortFunc(res.Errors, func(a, b class) int {
		if a.N != b.N {
			return b.N - a.N
		}
		return strings.Compare(a.Op+a.What, b.Op+b.What)
	})
	add := func(what string, holds bool, format string, args ...any) {
		res.Promises = append(res.Promises, promise{What: what, Holds: holds, Figure: fmt.Sprintf(format, args...)})
	}

	switch {
	case stuck != "":
		add("no call hangs", false, "%s took longer than %s", stuck, hangLimit)
	case hung:
		add("no call hangs", false, "one had not returned %s after the end", hangLimit)
	default:
		// The grace is half a second; only a hang is the run's business, the
		// machine is shared.
		late, op := time.Duration(r.late.Load()), r.lateOp.Load()
		figure := "none ended after its context"
		if op != nil {
			figure = fmt.Sprintf("the latest return was %s after its context's end (%s)", late.Round(time.Millisecond), *op)
		}
		add("no call hangs", late < lateLimit, "%s", figure)
	}
	if !hung {
		var err error
		if res.Truth, err = r.book.final(ctx, r.server.Admin()); err != nil {
			return fmt.Errorf("the last look at what was written: %w", err)
		}
		t := res.Truth
		add("nothing written twice, lost, or done against what was told", t.holds(), "%d writes: %d confirmed, %d failed or rolled back; wrong: %d twice, %d lost, %d done though told not, %d without a caller",
			t.Writes, t.Confirmed, t.Failed, t.Twice, t.Lost, t.Lied, t.Strangers)
		add("unknown outcomes are told", true, "%d, of which %d were done; WithIdempotent gave up on %d, of which %d were done", t.Unknown, t.UnknownDone, t.TryAgain, t.TryAgainDone)
	}
	r.fillErrors(res, add)
	r.fillCommits(res, add)
	add("never more sessions than the limit, by the server's count", limits.Over == 0 && limits.Counts > 0,
		"%d counts, %d above (by %d at most); %d above (by %d at most) while the broken network hid the server", limits.Counts, limits.Over, limits.WorstOver, limits.Hidden, limits.WorstBelow)
	marks := quiet(windows, log, r.scale.settle)
	from := len(res.Promises)
	fillTrends(windows, marks, add)
	for i := range res.Promises[from:] {
		res.Promises[from+i].Trend = true
	}
	if !hung {
		add("no slot is lost: nothing is in use when nobody calls", res.Slots == "", "%s", cmp.Or(res.Slots, "nothing"))
		l := res.Left
		add("nothing is left after Close", l.Goroutines <= 0 && l.FDs <= 0 && l.Sessions == 0 && res.CloseError == "",
			"%d goroutines, %d file descriptors, %d sessions more than before%s", max(0, l.Goroutines), max(0, l.FDs), l.Sessions, res.CloseError)
	}
	if !r.cfg.NoFaults {
		var missing []string
		for _, k := range kinds {
			if res.Faults[k.name] == 0 {
				missing = append(missing, k.name)
			}
		}
		n := 0
		for _, c := range res.Faults {
			n += c
		}
		// A run that broke nothing shows nothing.
		add("every kind of fault was made", len(missing) == 0, "%d faults of %d kinds%s", n, len(res.Faults), ", not made: "+strings.Join(missing, ", "))
		if len(missing) == 0 {
			p := &res.Promises[len(res.Promises)-1]
			p.Figure = strings.TrimSuffix(p.Figure, ", not made: ")
		}
	}
	res.Windows, res.rows12 = together(windows, log, 240), together(windows, log, 12)
	return nil
}

// lateLimit is the cancel grace and what a busy machine may add.
const lateLimit = 10 * time.Second

func (r *run) fillErrors(res *result, add func(string, bool, string, ...any)) {
	all, bad := 0, 0
	var examples []string
	for _, e := range res.Errors {
		all += e.N
		if e.Unexpected > 0 {
			bad += e.Unexpected
			examples = append(examples, fmt.Sprintf("%d × %s: %s (%s)", e.Unexpected, e.Op, e.What, e.Example))
		}
	}
	figure := fmt.Sprintf("%d errors of %d kinds, %d unexpected", all, len(res.Errors), bad)
	if bad > 0 {
		figure += ": " + strings.Join(examples, "; ")
	}
	add("every error is one that the faults explain", bad == 0, "%s", figure)
}

// fillCommits: with commit_check a lost COMMIT is unknown only if nobody could
// be asked, and the book has checked each answer.
func (r *run) fillCommits(res *result, add func(string, bool, string, ...any)) {
	if r.cfg.CommitCheck == "off" {
		return
	}
	open, wrong := 0, 0
	for _, e := range res.Errors {
		switch e.What {
		case fateOpen:
			wrong += e.N
		case "outcome unknown (commit)":
			open += e.N
		}
	}
	add("commit_check="+r.cfg.CommitCheck+" finds out about each lost COMMIT", wrong == 0,
		"%d were committed, %d were not; nobody could be asked about %d, %d of them were found out later; not found out: %d",
		res.Pools.LostCommitted, res.Pools.LostAborted, open, r.resolved.Load(), wrong)
}

// quiet says of each window whether nothing was broken in it, or shortly before.
func quiet(windows []window, log []made, settle time.Duration) []bool {
	out := make([]bool, len(windows))
	for i, w := range windows {
		out[i] = true
		for _, f := range log {
			to := f.to
			if to == 0 {
				to = w.to // it lasts
			}
			if f.from < w.to && to+settle > w.from {
				out[i] = false
			}
		}
	}
	return out
}

// warmUp is left out of the trends: until then the pools fill, and idle and
// lifetime limits have not had their first effect.
const warmUp = 0.2

// fillTrends judges what should be level.
func fillTrends(windows []window, marks []bool, add func(string, bool, string, ...any)) {
	if len(windows) == 0 {
		add("nothing grows", false, "not one window is complete: the run was too short")
		return
	}
	from := windows[len(windows)-1].to.Seconds() * warmUp
	judge := func(what, format string, tol tolerance, value func(window) float64) {
		points := series(windows, from, value)
		up, allowed := rise(points), tol.of(points)
		first, last := quarters(points)
		add(what+" do not grow", len(points) >= 8 && up <= allowed, format+" in the first quarter, "+format+" in the last: trend "+format+", allowed "+format,
			median(first), median(last), up, allowed)
	}
	judge("goroutines", "%.0f", goroutineTolerance, func(w window) float64 { return w.goroutines })
	if windows[0].fds >= 0 {
		judge("file descriptors beyond the pools' sessions", "%.0f", fdTolerance, func(w window) float64 { return w.strayFDs })
	} else {
		add("file descriptors beyond the pools' sessions do not grow", true, "not counted on this system")
	}
	judge("MB of heap", "%.1f", heapTolerance, func(w window) float64 { return w.heap })
	judge("server sessions unknown to the pools", "%.0f", sessionTolerance, func(w window) float64 { return w.strays })

	what := fmt.Sprintf("p99 in quiet windows grows less than %d times", p99Factor)
	first, last, n := quietLatency(windows, marks, from)
	if first.count() < fewCalls || last.count() < fewCalls {
		add(what, true, "not judged: only %d quiet windows", n)
		return
	}
	a, b := first.quantile(0.99), last.quantile(0.99)
	add(what, b <= p99Factor*a, "%s in the first quarter, %s in the last (%d quiet windows)", ms(a), ms(b), n)
}

// fewCalls: the p99 of fewer is one or two calls.
const fewCalls = 1000

func quietLatency(windows []window, marks []bool, from float64) (first, last hist, n int) {
	to := windows[len(windows)-1].to.Seconds()
	for i, w := range windows {
		if !marks[i] || w.from.Seconds() < from {
			continue
		}
		n++
		switch at := (w.from.Seconds() - from) / (to - from); {
		case at <= 0.25:
			first.merge(&w.lat)
		case at >= 0.75:
			last.merge(&w.lat)
		}
	}
	return first, last, n
}

func series(windows []window, from float64, value func(window) float64) []point {
	var points []point
	for _, w := range windows {
		if w.from.Seconds() >= from {
			points = append(points, point{w.from.Seconds(), value(w)})
		}
	}
	return points
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }
