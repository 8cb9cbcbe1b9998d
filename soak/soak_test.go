package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	beginMark = "<!-- begin: make soak -->"
	endMark   = "<!-- end: make soak -->"
)

// shortest is how long a run takes in which every fault is made once.
const shortest = 20 * time.Second

func runOf(t *testing.T, change func(*config)) *result {
	t.Helper()
	cfg := config{Duration: shortest, Callers: 30, Limit: 10, Think: 150 * time.Millisecond, Seed: uint64(time.Now().UnixNano()), CommitCheck: "off"}
	change(&cfg)
	t.Logf("seed %d", cfg.Seed)
	res, err := soak(t.Context(), cfg, func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	res.print(&out)
	t.Logf("\n%s", out.String())
	return res
}

// One after the other: both count the goroutines and descriptors of the process.
func TestTwentySecondsOfFaultsBreakNoPromise(t *testing.T) {
	res := runOf(t, func(*config) {})
	for _, p := range res.Promises {
		// Twenty seconds of a busy machine say nothing of a trend; what they leak is
		// left after Close.
		if !p.Holds && !p.Trend {
			t.Errorf("%s: %s", p.What, p.Figure)
		}
	}
	if res.Truth.Writes == 0 || res.calls() == 0 || len(res.rows12) == 0 {
		t.Errorf("nothing was done: %d writes, %d calls", res.Truth.Writes, res.calls())
	}
	checkOutput(t, res)
}

func TestALeakOfFiveGoroutinesASecondFails(t *testing.T) {
	res := runOf(t, func(c *config) { c.Leak, c.NoFaults = 200*time.Millisecond, true })
	for _, p := range res.Promises {
		goroutines := strings.HasPrefix(p.What, "goroutines")
		if goroutines && p.Holds || !p.Holds && !p.Trend {
			t.Errorf("%s: holds = %v (%s)", p.What, p.Holds, p.Figure)
		}
	}
	if res.passed() {
		t.Error("the run passed")
	}
}

func checkOutput(t *testing.T, res *result) {
	t.Helper()
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("before\n"+beginMark+"\nthe former text\n"+endMark+"\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	svg, figures := filepath.Join(filepath.Dir(page), "img", "soak.svg"), filepath.Join(filepath.Dir(page), "soak.json")
	for range 2 { // the second replaces the first
		if err := save(res, figures, "", page); err != nil {
			t.Fatal(err)
		}
	}
	text := read(t, page)
	if !strings.HasPrefix(text, "before\n"+beginMark) || !strings.HasSuffix(text, endMark+"\nafter\n") || strings.Contains(text, "the former text") ||
		strings.Count(text, "| **PASS** |")+strings.Count(text, "| **FAIL** |") != len(res.Promises) || !strings.Contains(text, "(img/soak.svg)") {
		t.Errorf("the page:\n%s", text)
	}
	drawn := read(t, svg)
	if len(drawn) > 100_000 {
		t.Errorf("the plot has %d bytes", len(drawn))
	}
	for d := xml.NewDecoder(strings.NewReader(drawn)); ; {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the plot: %v", err)
		}
	}
	if strings.Contains(drawn, "NaN") || strings.Contains(drawn, "Inf") {
		t.Error("the plot has a point that is no number")
	}
	if !strings.Contains(read(t, figures), `"Promises"`) {
		t.Error("soak.json lacks the promises")
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
