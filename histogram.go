package pgpooled

import "time"

// histogramBounds are upper ends of a histogram's classes: from a fast answer on
// the same network to a call that somebody has forgotten.
var histogramBounds = [...]time.Duration{
	100 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond,
	5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second,
	2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second,
}

// Histogram counts durations by their length. All its figures only grow.
type Histogram struct {
	Sum    time.Duration                   // all durations together
	Counts [len(histogramBounds) + 1]int64 // each up to its bound of [HistogramBounds], and above the one before; the last has no bound
}

// HistogramBounds returns the upper bounds, inclusive, of a [Histogram]'s counts
// but the last. They are the same for all and may change with a new version.
func HistogramBounds() []time.Duration { return append([]time.Duration(nil), histogramBounds[:]...) }

// Count is how many durations there were.
func (h *Histogram) Count() int64 {
	var n int64
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// add counts one more duration. Most are short, so it looks from below.
func (h *Histogram) add(d time.Duration) {
	d = max(d, 0)
	i := 0
	for i < len(histogramBounds) && d > histogramBounds[i] {
		i++
	}
	h.Sum += d
	h.Counts[i]++
}
