package main

import (
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"
)

//go:embed report.html
var reportPage string

var reportTemplate = template.Must(template.New("report").Parse(reportPage))

// reportFile is where a report goes, nil = nowhere. It begins before the work, so
// that a path that cannot be written is known at once, under another name, so that
// an earlier report stays until there is a new one.
type reportFile struct {
	f    *os.File
	name string
}

func openReport(name string) (*reportFile, error) {
	if name == "" {
		return nil, nil
	}
	if file, err := filepath.EvalSymlinks(name); err == nil {
		name = file
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("the report: %s is there and is not a file", name)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".pgpooled-report-*")
	if err != nil {
		return nil, fmt.Errorf("the report: %w", err)
	}
	return &reportFile{f, name}, nil
}

// openDemoReport takes a temporary file if no name is given: a demo leaves nothing
// where it is started.
func openDemoReport(name string) (*reportFile, error) {
	if name != "" {
		return openReport(name)
	}
	f, err := os.CreateTemp("", "pgpooled-demo-*.html")
	if err != nil {
		return nil, fmt.Errorf("the report: %w", err)
	}
	return &reportFile{f, f.Name()}, nil
}

// drop removes a report that will not be written.
func (r *reportFile) drop() {
	if r != nil {
		_ = r.f.Close()
		_ = os.Remove(r.f.Name())
	}
}

func (r *reportFile) write(f *figures, sc *screen) error {
	if r == nil {
		return nil
	}
	err := errors.Join(reportTemplate.Execute(r.f, newPage(f)), r.f.Chmod(0o644), r.f.Close())
	if err == nil && r.f.Name() != r.name {
		err = os.Rename(r.f.Name(), r.name)
	}
	if err != nil {
		r.drop()
		return fmt.Errorf("the report: %w", err)
	}
	sc.printf("\nthe report, for a browser: %s", r.name)
	return nil
}

// page is what the template shows.
type page struct {
	Title, Subtitle, When, Made string
	Met                         bool
	Verdicts                    []pageVerdict
	Tiles                       []tile
	Plots                       []*plot
	Events                      []event
	Failures                    []pageFailure
	Pool                        []tile
	Settings                    []pageSetting
	Samples                     []pageSample
	Open                        bool
}

type pageVerdict struct {
	Met          bool
	Name, Figure string
	Notes        []string
}

type tile struct{ Name, Value string }

type pageFailure struct{ Count, Op, Kind, When, Example string }

type pageSetting struct{ Key, Value, From string }

type pageSample struct {
	At, Rate, P50, P99             string
	Failed                         int64
	InUse, Idle, Waiting, Sessions string
}

func newPage(f *figures) *page {
	loop := "closed loop"
	if f.rate > 0 {
		loop = "open loop at " + grouped(int64(f.rate)) + " calls/s"
	}
	failed := int64(0)
	for _, x := range f.failures {
		failed += x.n
	}
	p := &page{
		Title:    f.title,
		Subtitle: fmt.Sprintf("%s, %d users on %s, %s, %s, PostgreSQL %s", f.work, f.users, counted(f.limit, "session"), loop, short(f.length), printable(f.server)),
		When:     f.when.Format("2006-01-02 15:04:05 MST"), Made: made(),
		Met: true, Plots: plots(f), Events: f.events, Open: f.rate > 0,
		Tiles: []tile{
			{"calls per second", grouped(int64(f.perSecond()))}, {"calls", grouped(f.calls)}, {"failed", grouped(failed)}, {"p50", short(f.median)},
			{"p99", short(f.p99)}, {"slowest", short(f.slowest)}, {"cold start", short(f.coldStart)},
		},
		Pool: []tile{
			{"most sessions in use", fmt.Sprint(f.pool.PeakInUse)}, {"sessions opened", grouped(f.pool.Opens)},
			{"failed attempts to open one", grouped(f.pool.OpenErrors)}, {"calls that waited for one", grouped(f.pool.Waits)},
			{"mean wait", short(f.pool.WaitTime / time.Duration(max(f.pool.Waits, 1)))}, {"reads run again", grouped(f.pool.Replays)},
			{"outcomes unknown", grouped(f.pool.OutcomesUnknown)},
		},
	}
	if f.rate > 0 {
		p.Tiles = append(p.Tiles, tile{"due, but not begun", grouped(f.late)})
	}
	if r := f.restart; r != nil && r.recovered && r.gap > 0 {
		p.Tiles = append(p.Tiles, tile{"longest gap in the restart", short(r.gap)})
	}
	for _, v := range f.verdicts() {
		p.Met = p.Met && v.met
		p.Verdicts = append(p.Verdicts, pageVerdict{v.met, v.name[2:], v.figure, v.notes})
	}
	for _, x := range f.failures {
		when := ""
		if x.inOutage {
			when = "during the restart"
		}
		p.Failures = append(p.Failures, pageFailure{grouped(x.n), x.op, x.what, when, printable(x.example)})
	}
	for _, s := range f.settings {
		value := s.Value
		switch {
		case s.Hidden:
			value = "not shown"
		case value == "":
			value = s.Meaning
		case s.Meaning != "":
			value += " (" + s.Meaning + ")"
		}
		p.Settings = append(p.Settings, pageSetting{s.Key, value, from(setting{Source: string(s.Origin), Name: s.Name})})
	}
	for _, s := range f.series {
		sessions := "no answer"
		if s.Sessions >= 0 {
			sessions = fmt.Sprint(s.Sessions)
		}
		p.Samples = append(p.Samples, pageSample{fmt.Sprintf("%.2f s", s.At.Seconds()), grouped(int64(s.rate())), short(s.P50), short(s.P99),
			s.Failed, fmt.Sprint(s.InUse), fmt.Sprint(s.Idle), fmt.Sprint(s.Waiting), sessions})
	}
	return p
}

// made says what wrote the page.
func made() string {
	version := ""
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		version = " " + info.Main.Version
	}
	return fmt.Sprintf("pgpooled%s, %s, %s/%s, %d processors", version, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
}
