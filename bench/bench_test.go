package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if runProxy() {
		return
	}
	os.Exit(m.Run())
}

// tiny runs everything, for moments. What comes out says nothing of speed.
func tiny(t *testing.T) config {
	return config{
		rounds: 1, time: 5 * time.Millisecond, callers: 6, conns: 2, crowd: 40, points: 10,
		latency: 2 * time.Millisecond, log: t.Logf,
	}
}

func TestEverythingRunsOnceAndIsWrittenDown(t *testing.T) {
	dir := t.TempDir()
	page, figures := filepath.Join(dir, "page.md"), filepath.Join(dir, "all.json")
	if err := os.WriteFile(page, []byte("before\n<!-- begin: make bench -->\nold\n<!-- end: make bench -->\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := tiny(t)
	if err := run(context.Background(), cfg, figures, page, ""); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(figures)
	if err != nil {
		t.Fatal(err)
	}
	var rep report
	if err := json.Unmarshal(b, &rep); err != nil {
		t.Fatal(err)
	}
	everybodyTookPart(t, &rep, cfg)
	if len(rep.Aims) != len(goals)+4 {
		t.Errorf("%d aims were judged, want %d", len(rep.Aims), len(goals)+4)
	}

	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(text); !strings.HasPrefix(s, "before\n") || !strings.HasSuffix(s, "\nafter\n") || strings.Contains(s, "\nold\n") {
		t.Errorf("only the part between the markers should change:\n%s", s)
	}
	for _, want := range []string{"Made by `", rep.Postgres, "## Aims", "## In one table", "### Growth: ", "| pgx stdlib |"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page has no %q", want)
		}
	}
	pictures, err := filepath.Glob(filepath.Join(dir, "img", "*.svg"))
	if err != nil || len(pictures) != 4+len(rep.Growth) {
		t.Errorf("%d pictures, want %d (%v)", len(pictures), 4+len(rep.Growth), err)
	}
	for _, file := range pictures {
		isSmallSVG(t, file)
	}
}

// everybodyTookPart fails if a rival is missing or made nothing but errors.
func everybodyTookPart(t *testing.T, rep *report, cfg config) {
	t.Helper()
	if len(rep.Works) != len(works(1, 1)) || len(rep.Specials) != 5 || len(rep.Growth) != 4 {
		t.Errorf("%d works, %d special ones, %d curves", len(rep.Works), len(rep.Specials), len(rep.Growth))
	}
	for _, w := range rep.Works {
		for _, r := range cfg.entered() {
			e := rep.rival(w.Name, r.name)
			switch {
			case e == nil:
				t.Errorf("%s: %s is missing", w.Name, r.name)
			case e.Median.Rate <= 0 || e.Median.P50 <= 0 || e.Median.P99 < e.Median.P50 || e.Median.Allocs <= 0 || e.Median.Errors > 0:
				t.Errorf("%s: %s came to %+v", w.Name, r.name, e.Median)
			case (e.Rate == nil) != (r.name == ours):
				t.Errorf("%s: %s has the ratio %v", w.Name, r.name, e.Rate)
			}
		}
		if !w.NoPgbench && w.Name == "select" && rep.rival(w.Name, limit) == nil {
			t.Errorf("%s: pgbench is missing", w.Name)
		}
	}
	for _, s := range rep.Specials {
		if len(s.Rivals) != len(rivals) {
			t.Errorf("%s: only %v took part", s.Name, s.Rivals)
		}
		for _, m := range s.Metrics {
			if strings.Contains(m.Name, "failed") && slices.ContainsFunc(m.Values, func(v spread) bool { return v.Max > 0 }) {
				t.Errorf("%s: %s: %v", s.Name, m.Name, m.Values)
			}
		}
	}
	for _, c := range rep.Growth {
		for _, l := range c.Lines {
			if len(l.At) != len(c.Points) || l.At[0].Rate <= 0 {
				t.Errorf("%s: %s has %d points of %d", c.Name, l.Rival, len(l.At), len(c.Points))
			}
		}
	}
}

func isSmallSVG(t *testing.T, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 64<<10 {
		t.Errorf("%s has %d bytes", filepath.Base(file), len(b))
	}
	for d := xml.NewDecoder(bytes.NewReader(b)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%s: %v", filepath.Base(file), err)
		}
	}
}

func TestWithoutPgbenchItsRowSaysSo(t *testing.T) {
	ctx := context.Background()
	cfg := tiny(t)
	cfg.rivals = []string{ours, pqTuned}
	b, err := newBench(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	b.pgbench = ""
	r, err := b.do(ctx, works(cfg.callers, cfg.conns)[0])
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	r.table(&out)
	if !strings.Contains(out.String(), "| pgbench | not installed |") {
		t.Errorf("not in the table:\n%s", &out)
	}
}

func TestProfilesOfAWorkAreWritten(t *testing.T) {
	dir := t.TempDir()
	cfg := tiny(t)
	cfg.only = []string{"select"}
	if err := run(context.Background(), cfg, "", "", dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"select-pgpooled.cpu.out", "select-pgpooled.allocs.out"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRatiosAreTakenWithinARound(t *testing.T) {
	t.Parallel()
	rate := func(f figures) float64 { return f.Rate }
	// The machine was busy in the second round.
	got := ratios([]figures{{Rate: 200}, {Rate: 20}, {Rate: 210}}, []figures{{Rate: 100}, {Rate: 10}, {Rate: 100}}, rate)
	if want := (spread{2, 2, 2.1}); got == nil || *got != want {
		t.Errorf("ratios %v, want %v", got, want)
	}
}

func TestAimsAreMetOrMissedByPerCent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		aim  aim
		want string
	}{
		{aim{Aim: 1.8, Measured: spread{Median: 1.98}}, "met, by 10 %"},
		{aim{Aim: 1, Measured: spread{Median: .95}}, "**missed by 5.0 %**"},
		{aim{Aim: 2, AtMost: true, Measured: spread{Median: 1}}, "met, by 50 %"},
		{aim{Aim: 2, AtMost: true, Measured: spread{Median: 3}}, "**missed by 50.0 %**"},
	} {
		if got := c.aim.judged().verdict(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.aim, got, c.want)
		}
	}
}

func TestEveryRoundBeginsWithAnotherRival(t *testing.T) {
	t.Parallel()
	var order []int
	all, err := rounds(3, 3, func(round, i int) (int, error) {
		order = append(order, i)
		return 10*round + i, nil
	})
	if want := []int{0, 1, 2, 1, 2, 0, 2, 0, 1}; err != nil || !slices.Equal(order, want) {
		t.Errorf("order %v, want %v (%v)", order, want, err)
	}
	if want := []int{2, 12, 22}; !slices.Equal(all[2], want) {
		t.Errorf("the last rival has %v, want %v", all[2], want)
	}
}
