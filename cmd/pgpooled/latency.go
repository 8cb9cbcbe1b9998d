package main

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// latencies counts durations in microseconds, up to an hour, to three digits. Any
// number of goroutines may add.
type latencies struct {
	mu     sync.Mutex // guards the rest
	lately *hdrhistogram.Histogram
	before *hdrhistogram.Histogram
}

const longestLatency = time.Hour

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, longestLatency.Microseconds(), 3)
}

func (l *latencies) add(d time.Duration) {
	d = min(max(d, time.Microsecond), longestLatency)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lately == nil {
		l.lately = newHistogram()
	}
	_ = l.lately.RecordValue(d.Microseconds()) // in range
}

// take is what came since the last take.
func (l *latencies) take() *hdrhistogram.Histogram {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.lately
	if h == nil {
		return newHistogram()
	}
	if l.before == nil {
		l.before = newHistogram()
	}
	l.before.Merge(h)
	l.lately = nil
	return h
}

// total is all of them.
func (l *latencies) total() *hdrhistogram.Histogram {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := newHistogram()
	for _, part := range []*hdrhistogram.Histogram{l.before, l.lately} {
		if part != nil {
			h.Merge(part)
		}
	}
	return h
}

// quantile is the duration that a share q of them did not exceed, 0 if there are
// none.
func quantile(h *hdrhistogram.Histogram, q float64) time.Duration {
	return time.Duration(h.ValueAtQuantile(100*q)) * time.Microsecond
}
