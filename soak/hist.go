package main

import (
	"math"
	"time"
)

// hist counts latencies in steps of a tenth, from 50 µs to about 50 s. Its size
// is fixed: what the harness keeps must not look like a leak.
type hist [histSteps]uint32

const (
	histSteps = 146
	histFirst = 50 * time.Microsecond
	histRatio = 1.1
)

func (h *hist) add(d time.Duration) {
	i := 0
	if d > histFirst {
		i = int(math.Ceil(math.Log(float64(d)/float64(histFirst)) / math.Log(histRatio)))
	}
	h[min(i, histSteps-1)]++
}

func (h *hist) merge(o *hist) {
	for i, n := range o {
		h[i] += n
	}
}

func (h *hist) count() (n int) {
	for _, c := range h {
		n += int(c)
	}
	return n
}

// quantile is the upper end of the step that holds it, 0 if nothing was counted.
func (h *hist) quantile(q float64) time.Duration {
	total := h.count()
	if total == 0 {
		return 0
	}
	want, sum := int(math.Ceil(q*float64(total))), 0
	for i, c := range h {
		if sum += int(c); sum >= max(want, 1) {
			return time.Duration(float64(histFirst) * math.Pow(histRatio, float64(i)))
		}
	}
	return 0
}
