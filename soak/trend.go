package main

import (
	"math"
	"slices"
)

// point is a sample: seconds since the start, and a value.
type point struct{ at, value float64 }

// rise is how far a series goes up from one end to the other. It is the
// smaller of two figures: Theil and Sen's slope (the median of the slopes
// between all pairs of points) times the length, and the step from the median
// of the first quarter to that of the last, over the three quarters between
// their middles. A leak shows in both. A few wild samples move neither; a wave
// that happens to begin low or to end high moves the second, seldom the first.
func rise(points []point) float64 {
	if len(points) < 8 {
		return 0
	}
	span := points[len(points)-1].at - points[0].at
	if span <= 0 {
		return 0
	}
	slopes := make([]float64, 0, len(points)*(len(points)-1)/2)
	for i, p := range points {
		for _, q := range points[i+1:] {
			if q.at > p.at {
				slopes = append(slopes, (q.value-p.value)/(q.at-p.at))
			}
		}
	}
	first, last := quarters(points)
	return math.Min(median(slopes)*span, (median(last)-median(first))/0.75)
}

// quarters are the values of the first and of the last quarter of the time.
func quarters(points []point) (first, last []float64) {
	if len(points) == 0 {
		return nil, nil
	}
	from, to := points[0].at, points[len(points)-1].at
	for _, p := range points {
		switch at := (p.at - from) / (to - from); {
		case at <= 0.25:
			first = append(first, p.value)
		case at >= 0.75:
			last = append(last, p.value)
		}
	}
	return first, last
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// tolerance is what a series may rise: the larger of an amount and a part of
// where it began.
type tolerance struct{ amount, part float64 }

func (t tolerance) of(points []point) float64 {
	first, _ := quarters(points)
	return math.Max(t.amount, t.part*median(first))
}

// The tolerances. What is looked for is a leak per fault or per call: an hour
// has about 600 faults and half a million calls, so even one goroutine in
// thirty faults is twenty of them. What must not fail is chance.
var (
	// The median number of calls under way, each with a goroutine or two of
	// lib/pq, moves by a few with the machine's other work.
	goroutineTolerance = tolerance{10, 0.1}
	// How many sessions the pools keep, between none and the limits, depends on the
	// last faults and on the machine: a busy one has more calls under way. So only
	// what the pools do not count is judged. A leaked socket, or a session that the
	// server has and nobody knows, per fault would be hundreds.
	fdTolerance      = tolerance{5, 0.1}
	sessionTolerance = tolerance{3, 0.1}
	// MB in use after a collection, about 3: buffers of sessions and of the
	// proxies come and go with connections, 64 kB each. Leaking 5 bytes per call,
	// or 4 kB per fault, is 2.5 MB in an hour.
	heapTolerance = tolerance{2, 0.1}
)

// p99Factor is how much larger the p99 of the last quarter's quiet windows may be
// than the first's. The machine is not ours alone: a factor of two is an
// ordinary neighbour. A pool that decays (a longer line, a slower look-up per
// session ever opened) has no bound in an hour, so three is enough to see it.
const p99Factor = 3
