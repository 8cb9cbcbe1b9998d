package main

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled"
)

var loads = regexp.MustCompile(`(?i)<script|<link[^>]+href="[^d]|<[^>]+\bsrc=|url\(|@import|https?://|<iframe|<[^>]+\bon[a-z]+=`)

// selfContained: nothing in the page is fetched from anywhere, and nothing runs.
func selfContained(t *testing.T, page string) {
	t.Helper()
	if found := loads.FindString(page); found != "" {
		t.Errorf("the page has %q", found)
	}
	for _, want := range []string{"Content-Security-Policy", "default-src 'none'", "prefers-color-scheme:dark", "</html>", "viewBox"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, bad := range []string{"NaN", "Inf", "ZgotmplZ", "%!"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
}

func render(t *testing.T, f *figures) string {
	t.Helper()
	var b strings.Builder
	if err := reportTemplate.Execute(&b, newPage(f)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestReportEscapesEverything(t *testing.T) {
	t.Parallel()
	const evil = `<img src=x onerror="alert(1)">'"&`
	f := good()
	f.title, f.work, f.server, f.when = evil, evil, evil, time.Now()
	f.failures = append(f.failures, failure{failureKind{op: evil, what: evil}, failureCount{n: 1, example: evil}})
	f.events = []event{{1, "restart: " + evil}, {2, evil}}
	f.settings = []pgpooled.Setting{{Key: evil, Value: evil, Meaning: evil, Origin: pgpooled.OriginAlias, Name: evil}, {Key: "password", Value: "xxxxx", Hidden: true}}
	f.health.lastError = errNotShown
	for i := range 3 {
		f.series = append(f.series, sample{At: time.Duration(i+1) * time.Second, Took: time.Second, Calls: 5, P50: time.Millisecond, P99: 3 * time.Millisecond, Sessions: i - 1, Health: evil})
	}
	page := render(t, f)
	selfContained(t, page)
	if strings.Contains(page, "<img") || strings.Count(page, "&lt;img") < 8 {
		t.Error("something is not escaped, or is missing")
	}
	for _, want := range []string{"not shown", "no answer", "FAIL", "PASS", `class="event"`, "p99"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestReportOfOddFigures(t *testing.T) {
	t.Parallel()
	none := sample{At: time.Second, Took: time.Second, Sessions: -1}
	long := sample{At: 3 * time.Hour, Took: 10 * time.Second, Calls: 1e9, P50: time.Microsecond, P99: time.Hour, InUse: 5000, Waiting: 100000, Sessions: 262143}
	for name, series := range map[string][]sample{"no call succeeded": {none, none}, "one interval": {none}, "extremes": {none, long}} {
		f := good()
		f.series = series
		page := render(t, f)
		if name != "one interval" {
			selfContained(t, page)
		} else if !strings.Contains(page, "too short for a plot") {
			t.Errorf("%s: it does not say why there is no plot", name)
		}
	}
}

func TestPlotsKeepInsideTheirFrame(t *testing.T) {
	t.Parallel()
	f := good()
	for i := range 50 {
		f.series = append(f.series, sample{At: time.Duration(i+1) * time.Second, Took: time.Second, Calls: int64(i * i * 37), Failed: int64(i % 3),
			P50: time.Duration(i) * 130 * time.Microsecond, P99: time.Duration(i*i) * time.Millisecond, InUse: i % 11, Waiting: i * 3, Sessions: i % 11})
	}
	number := regexp.MustCompile(`[ML](-?[0-9.]+) (-?[0-9.]+)`)
	for _, p := range plots(f) {
		for _, line := range p.Lines {
			points := number.FindAllStringSubmatch(line.Path, -1)
			if len(points) < 48 { // the first interval has no latency
				t.Errorf("%s, %s: %d points", p.Title, line.Name, len(points))
			}
			for _, point := range points {
				if x, y := atof(t, point[1]), atof(t, point[2]); x < 0 || x > plotWidth || y < -0.1 || y > plotHeight+0.1 {
					t.Errorf("%s, %s: a point at %v, %v", p.Title, line.Name, x, y)
				}
			}
		}
	}
}

func atof(t *testing.T, s string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
