package main

import (
	"slices"
	"time"
)

// row is a number of windows taken together.
type row struct {
	From, To     float64 // seconds
	Faults       int
	Calls        int
	Failed       int
	P50, P99     float64 // ms
	Max          float64 // ms
	Goroutines   float64 // medians
	FDs          float64
	HeapMB       float64
	Sessions     float64
	MostSessions int // of both pools together
	Waits        int64
	WaitMS       float64 // mean of those that waited
	Peak         int     // most leased of one pool at a time, since the start
	Opens        int64
}

// together takes windows together to at most n rows.
func together(windows []window, log []made, n int) []row {
	var out []row
	per := (len(windows) + n - 1) / n
	var before totals
	for from := 0; from < len(windows); from += per {
		part := windows[from:min(from+per, len(windows))]
		last := part[len(part)-1]
		r := row{From: part[0].from.Seconds(), To: last.to.Seconds(), Peak: last.pools.Peak}
		var lat hist
		for i := range part {
			w := &part[i]
			lat.merge(&w.lat)
			r.Calls += w.calls
			r.Failed += w.failed
			r.MostSessions = max(r.MostSessions, w.mostSessions)
		}
		for _, f := range log {
			if f.from >= part[0].from && f.from < last.to {
				r.Faults++
			}
		}
		r.P50, r.P99, r.Max = inMS(lat.quantile(0.5)), inMS(lat.quantile(0.99)), inMS(lat.quantile(1))
		of := func(value func(window) float64) float64 {
			var v []float64
			for _, w := range part {
				v = append(v, value(w))
			}
			return median(v)
		}
		r.Goroutines = of(func(w window) float64 { return w.goroutines })
		r.FDs = of(func(w window) float64 { return w.fds })
		r.HeapMB = of(func(w window) float64 { return w.heap })
		r.Sessions = of(func(w window) float64 { return w.sessions })
		r.Waits, r.Opens = last.pools.Waits-before.Waits, last.pools.Opens-before.Opens
		if r.Waits > 0 {
			r.WaitMS = inMS(last.pools.WaitTime-before.WaitTime) / float64(r.Waits)
		}
		before = last.pools
		out = append(out, r)
	}
	return slices.Clip(out)
}

func inMS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
