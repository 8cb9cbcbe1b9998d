package main

import (
	"sync"
	"sync/atomic"
	"time"
)

// tally counts what callers met. Any goroutine may add.
type tally struct {
	outage outage

	calls  atomic.Int64
	failed atomic.Int64
	waited atomic.Int64 // succeeded after waiting for the new server
	spent  latencies    // of calls that succeeded

	mu       sync.Mutex // guards failures
	failures map[failureKind]*failureCount
}

func newTally() *tally {
	t := &tally{failures: map[failureKind]*failureCount{}}
	t.outage.over = make(chan struct{})
	return t
}

// add notes a call. wanted is when it should have begun: earlier than it did if
// callers were late.
func (t *tally) add(op string, wanted, began, ended time.Time, err error) {
	t.calls.Add(1)
	if err != nil {
		t.failed.Add(1)
		t.note(op, err, t.outage.touches(began, ended))
		return
	}
	t.spent.add(ended.Sub(wanted))
	t.outage.success(ended)
	if t.outage.outlasted(began, ended) {
		t.waited.Add(1)
	}
}

// outage is the time from telling the server to stop until the first call that
// succeeds on the new one. over is closed at its end.
type outage struct {
	over chan struct{}

	mu             sync.Mutex // guards the rest
	down, up, done time.Time  // zero = not yet
	last           time.Time  // success
	gap            time.Duration
}

func (o *outage) begin() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.down = time.Now()
	return o.down
}

func (o *outage) serverUp() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.up = time.Now()
	return o.up
}

// success notes a call that succeeded. One that ended before the server was up
// had its answer from the old one.
func (o *outage) success(at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.down.IsZero() && o.done.IsZero() && !o.last.IsZero() {
		o.gap = max(o.gap, at.Sub(o.last))
	}
	if at.After(o.last) {
		o.last = at
	}
	if !o.up.IsZero() && o.done.IsZero() && at.After(o.up) {
		o.done = at
		close(o.over)
	}
}

func (o *outage) end() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.done
}

// longestGap is the longest time in the outage without a call that succeeded.
func (o *outage) longestGap() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.gap
}

// touches says whether a call was under way during the outage.
func (o *outage) touches(began, ended time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.down.IsZero() && ended.After(o.down) && (o.done.IsZero() || began.Before(o.done))
}

// outlasted says whether a call that succeeded began before the new server was
// up: it waited for it, without knowing.
func (o *outage) outlasted(began, ended time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.up.IsZero() && began.Before(o.up) && ended.After(o.up)
}
