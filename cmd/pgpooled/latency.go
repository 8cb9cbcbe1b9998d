package main

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// subBits gives each power of two 32 buckets, so that a quantile is at most 3 %
// too high.
const subBits = 5

// latencies counts durations in buckets of growing width. Any number of
// goroutines may add.
type latencies struct {
	buckets [(64 - subBits) << subBits]atomic.Int64
}

// bucketCounts is what latencies held at one moment.
type bucketCounts [(64 - subBits) << subBits]int64

func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0)) //nolint:gosec // not negative
	shift := max(bits.Len64(v)-1-subBits, 0)
	return shift<<subBits + int(v>>shift) //nolint:gosec // below 64 << subBits
}

// bucketTop is the longest duration of a bucket.
func bucketTop(i int) time.Duration {
	shift := max(i>>subBits-1, 0)
	return time.Duration((i-shift<<subBits+1)<<shift - 1)
}

func (l *latencies) add(d time.Duration) { l.buckets[bucketOf(d)].Add(1) }

func (l *latencies) counts() *bucketCounts {
	c := new(bucketCounts)
	for i := range l.buckets {
		c[i] = l.buckets[i].Load()
	}
	return c
}

// since is what came after an earlier moment.
func (c *bucketCounts) since(earlier *bucketCounts) *bucketCounts {
	d := new(bucketCounts)
	for i := range c {
		d[i] = c[i] - earlier[i]
	}
	return d
}

// quantile is the duration that a share q of the calls did not exceed, 0 if
// there were none.
func (c *bucketCounts) quantile(q float64) time.Duration {
	total := int64(0)
	for _, n := range c {
		total += n
	}
	left := int64(q*float64(total-1)) + 1
	for i, n := range c {
		if left -= n; n > 0 && left <= 0 {
			return bucketTop(i)
		}
	}
	return 0
}
