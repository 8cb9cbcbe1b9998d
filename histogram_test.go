package pgpooled

import (
	"testing"
	"time"
)

func TestAHistogramCountsEachDurationUpToItsBound(t *testing.T) {
	t.Parallel()
	bounds := HistogramBounds()
	var h Histogram
	var sum time.Duration
	for i, b := range bounds {
		if i > 0 && b <= bounds[i-1] {
			t.Fatalf("bounds are not in order: %v", bounds)
		}
		h.add(b)     // the bound itself is inside
		h.add(b + 1) // in the next one
		sum += 2*b + 1
	}
	h.add(-time.Second) // a clock that went back
	for i, n := range h.Counts {
		if want := int64(2); i == len(bounds) && n != 1 || i < len(bounds) && n != want {
			t.Errorf("class %d has %d: %v", i, n, h.Counts)
		}
	}
	if h.Count() != int64(2*len(bounds)+1) || h.Sum != sum {
		t.Errorf("%d durations of %v, want %d of %v", h.Count(), h.Sum, 2*len(bounds)+1, sum)
	}
	bounds[0] = 0
	if HistogramBounds()[0] == 0 {
		t.Error("the bounds can be changed from outside")
	}
}
