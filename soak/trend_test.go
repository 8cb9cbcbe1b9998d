package main

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// series720 is an hour of windows: base, noise, a rise over the hour, and wild
// samples in one window of ten.
func series720(rng *rand.Rand, base, noise, up, wild float64) []point {
	points := make([]point, 720)
	for i := range points {
		v := base + noise*rng.NormFloat64() + up*float64(i)/719
		if rng.IntN(10) == 0 {
			v += wild
		}
		points[i] = point{float64(i) * 5, v}
	}
	return points
}

func TestATrendIsSeenAndNoiseIsNot(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name                  string
		base, noise, up, wild float64
		tol                   tolerance
		grows                 bool
	}{
		{"level goroutines", 45, 3, 0, 60, goroutineTolerance, false},
		{"one goroutine in thirty faults", 45, 3, 20, 60, goroutineTolerance, true},
		{"goroutines that become fewer", 90, 3, -40, 60, goroutineTolerance, false},
		{"level descriptors", 11, 2, 0, 20, fdTolerance, false},
		{"a socket in fifty faults", 11, 2, 12, 20, fdTolerance, true},
		{"level sessions", 0, 1, 0, 10, sessionTolerance, false},
		{"a session in a hundred faults", 0, 1, 6, 10, sessionTolerance, true},
		{"level heap", 3, 0.3, 0, 2, heapTolerance, false},
		{"five bytes per call", 3, 0.3, 2.5, 2, heapTolerance, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(5) {
				points := series720(rand.New(rand.NewPCG(seed, 0)), test.base, test.noise, test.up, test.wild)
				up, allowed := rise(points), test.tol.of(points)
				if grows := up > allowed; grows != test.grows {
					t.Errorf("seed %d: trend %.2f, allowed %.2f: grows = %v, want %v", seed, up, allowed, grows, test.grows)
				}
			}
		})
	}
}

func TestAStepAtTheEndAloneIsNoTrend(t *testing.T) {
	t.Parallel()
	points := series720(rand.New(rand.NewPCG(1, 0)), 45, 2, 0, 0)
	for i := 700; i < 720; i++ {
		points[i].value += 500
	}
	if up := rise(points); up > 5 {
		t.Errorf("trend %.1f", up)
	}
	for i := 360; i < 720; i++ { // half of the time is one
		points[i].value += 50
	}
	if up := rise(points); up < 20 {
		t.Errorf("a step in the middle: trend %.1f", up)
	}
}

// windowsOf makes an hour of windows whose quiet short statements take lat.
func windowsOf(value func(at float64, w *window)) []window {
	windows := make([]window, 720)
	for i := range windows {
		w := &windows[i]
		w.from, w.to = time.Duration(i)*5*time.Second, time.Duration(i+1)*5*time.Second
		w.goroutines, w.strayFDs, w.heap = 45, 11, 2
		for range 100 {
			w.lat.add(2 * time.Millisecond)
		}
		value(float64(i)/719, w)
	}
	return windows
}

func TestEachDetectorFires(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(at float64, w *window)
		broken string // the promise, empty = none
	}{
		{"level", func(float64, *window) {}, ""},
		{"goroutines", func(at float64, w *window) { w.goroutines += 20 * at }, "goroutines do not grow"},
		{"descriptors", func(at float64, w *window) { w.strayFDs += 10 * at }, "file descriptors beyond the pools' sessions do not grow"},
		{"sessions", func(at float64, w *window) { w.strays += 6 * at }, "server sessions unknown to the pools do not grow"},
		{"heap", func(at float64, w *window) { w.heap += 4 * at }, "MB of heap do not grow"},
		{"latency", func(at float64, w *window) {
			for range 3 {
				w.lat.add(time.Duration(2*math.Pow(64, at)) * time.Millisecond)
			}
		}, "p99 in quiet windows"},
		{"latency twice as long", func(at float64, w *window) {
			for range 3 {
				w.lat.add(time.Duration(2+2*at) * time.Millisecond)
			}
		}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			windows := windowsOf(test.change)
			res := &result{}
			fillTrends(windows, quiet(windows, nil, 0), func(what string, holds bool, format string, args ...any) {
				res.Promises = append(res.Promises, promise{What: what, Holds: holds})
			})
			for _, p := range res.Promises {
				if want := test.broken == "" || !strings.HasPrefix(p.What, test.broken); p.Holds != want {
					t.Errorf("%s: holds = %v, want %v", p.What, p.Holds, want)
				}
			}
			if len(res.Promises) != 5 {
				t.Errorf("%d promises", len(res.Promises))
			}
		})
	}
}

func TestWindowsWithAFaultAreNotQuiet(t *testing.T) {
	t.Parallel()
	windows := windowsOf(func(float64, *window) {})[:4] // 0-5, 5-10, 10-15, 15-20 s
	log := []made{{from: 6 * time.Second, to: 8 * time.Second}}
	for i, want := range []bool{true, false, false, true} {
		if got := quiet(windows, log, 3*time.Second)[i]; got != want {
			t.Errorf("window %d: quiet = %v", i, got)
		}
	}
	log = []made{{from: 6 * time.Second}} // it lasts
	for i, want := range []bool{true, false, false, false} {
		if got := quiet(windows, log, 0)[i]; got != want {
			t.Errorf("a fault that lasts, window %d: quiet = %v", i, got)
		}
	}
}

func TestHistKeepsATenth(t *testing.T) {
	t.Parallel()
	var h hist
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Millisecond)
	}
	for q, want := range map[float64]float64{0.5: 500, 0.99: 990, 1: 1000} {
		if got := inMS(h.quantile(q)); math.Abs(got-want) > want/10 {
			t.Errorf("quantile %v: %.1f ms, want about %.0f", q, got, want)
		}
	}
	if new(hist).quantile(0.5) != 0 {
		t.Error("nothing counted, and not 0")
	}
}

func TestLimitCheck(t *testing.T) {
	t.Parallel()
	var l limitCheck
	l.note(10, 10, false)
	l.note(12, 10, true)
	if l.Over != 0 || l.Hidden != 1 || l.WorstBelow != 2 || l.Counts != 2 {
		t.Errorf("%+v", l)
	}
	l.note(11, 10, false)
	if l.Over != 1 || l.WorstOver != 1 || l.Most != 12 {
		t.Errorf("%+v", l)
	}
}
