package pgpooled

import (
	"slices"
	"time"
)

const (
	sampleEvery = 2 * time.Second
	historyOf   = 10 * time.Minute
)

// sample is the pool at one moment. Its fields are those of Stats: counts of the
// moment first, then totals, whose differences are what happened in between.
type sample struct {
	Time time.Time `json:"time"`

	MaxOpenConns, InUse, Idle, Opening, Closing, Waiting int

	Acquires, Waits         int64
	WaitTime                time.Duration
	PoolTimeouts, Cancelled int64
	Opens, OpenErrors       int64
	ClosedBroken            int64
	OutcomesUnknown         int64
}

// timeline are samples, the oldest one first. A pool has one from the moment
// when somebody mounts its status page; upkeep fills it.
type timeline struct {
	samples []sample
	due     time.Time // of the next one
}

func (s *Stats) sample(now time.Time) sample {
	return sample{
		Time:         now,
		MaxOpenConns: s.MaxOpenConns, InUse: s.InUse, Idle: s.Idle, Opening: s.Opening, Closing: s.Closing, Waiting: s.Waiting,
		Acquires: s.Acquires, Waits: s.Waits, WaitTime: s.WaitTime, PoolTimeouts: s.PoolTimeouts, Cancelled: s.Cancelled,
		Opens: s.Opens, OpenErrors: s.OpenErrors, ClosedBroken: s.ClosedBroken, OutcomesUnknown: s.OutcomesUnknown,
	}
}

// keepHistory has upkeep take samples from now on, until close.
func (p *pool) keepHistory() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.history == nil && !p.closed {
		p.history = &timeline{}
		p.sampleLocked(time.Now())
	}
}

// sampleLocked takes a sample, if somebody wants any and it is time.
func (p *pool) sampleLocked(now time.Time) {
	h := p.history
	if h == nil {
		return
	}
	if !now.Before(h.due) {
		s := p.statsLocked()
		h.add(s.sample(now))
		h.due = now.Add(sampleEvery)
	}
	p.wakeByLocked(h.due)
}

func (h *timeline) add(s sample) {
	old := 0
	for old < len(h.samples) && s.Time.Sub(h.samples[old].Time) > historyOf {
		old++
	}
	h.samples = append(slices.Delete(h.samples, 0, old), s)
}
