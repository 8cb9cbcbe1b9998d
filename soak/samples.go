package main

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/pgpooled/pgpooled"
)

// window is a stretch of time and what was seen in it.
type window struct {
	from, to time.Duration // since the start

	calls, failed int
	lat           hist // of calls that are one short statement

	goroutines, fds, sessions float64 // medians; fds -1 = not counted
	strayFDs, strays          float64 // medians of what the pools' own counts do not explain
	mostSessions              int     // of both pools, by the server's count
	heap                      float64 // MB, after a collection
	pools                     totals  // since the pools were opened
}

// totals are two pools' statistics added up.
type totals struct {
	Waits, Opens, OpenErrors, PoolTimeouts, Replays, Unknown int64
	LostCommitted, LostAborted                               int64 // COMMITs whose fate commit_check found
	WaitTime                                                 time.Duration
	Peak                                                     int // the larger one
}

// samples watches the run. All windows are there from the start: what the
// harness keeps must not look like a leak.
type samples struct {
	r *run

	mu      sync.Mutex // guards the following
	windows []window
	n       int // those that are complete
	cur     *window
	limits  limitCheck
	ticks   [5][]float64 // of the window under way: goroutines, fds, sessions, and the strays among both
	stacks  []runtime.StackRecord
	hung    string // a call that did not return
}

// limitCheck is the server's count against the pools' limits.
type limitCheck struct {
	Counts     int // looks that the server answered, of each pool
	Over       int // of these above the limit, without an excuse
	WorstOver  int // how far
	Hidden     int // above the limit while the proxy hid the server from the pool
	WorstBelow int // how far then
	Most       int // the most of one pool
}

func newSamples(r *run) *samples {
	n := int(r.cfg.Duration/r.scale.window) + 2
	s := &samples{r: r, windows: make([]window, n)}
	s.cur = &s.windows[0]
	return s
}

// note counts a call.
func (s *samples) note(took time.Duration, unit, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cur.calls++
	if failed {
		s.cur.failed++
	}
	if unit && !failed {
		s.cur.lat.add(took)
	}
}

// hangLimit is far beyond every time limit of the calls and of the faults.
const hangLimit = time.Minute

// work samples until ctx ends. The last window is dropped: it is not full.
func (s *samples) work(ctx context.Context) {
	tick := time.NewTicker(s.r.scale.tick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.look(ctx)
		s.mu.Lock()
		full := s.r.since()-s.cur.from >= s.r.scale.window && s.n+1 < len(s.windows)
		s.mu.Unlock()
		if full {
			s.next()
		}
	}
}

// look takes one sample of what moves quickly.
func (s *samples) look(ctx context.Context) {
	n, buf := goroutines(s.stacks)
	s.stacks = buf
	fds, err := openFDs(s.r.proxyPorts(), s.r.server.Port())
	if err != nil {
		fds = -1
	}
	open := float64(s.r.open())
	sessions, known := s.sessions(ctx)
	hung := ""
	for _, c := range s.r.callers {
		since := c.since.Load()
		if since != 0 && time.Since(time.Unix(0, since)) > hangLimit {
			hung = *c.op.Load()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ticks[0] = append(s.ticks[0], float64(n))
	s.ticks[1] = append(s.ticks[1], float64(fds))
	s.ticks[3] = append(s.ticks[3], float64(fds)-open)
	if known {
		s.ticks[2] = append(s.ticks[2], float64(sessions))
		s.ticks[4] = append(s.ticks[4], float64(sessions)-open)
		s.cur.mostSessions = max(s.cur.mostSessions, sessions)
	}
	if hung != "" && s.hung == "" {
		s.hung = hung
	}
}

// sessions asks the server, which may be away.
func (s *samples) sessions(ctx context.Context) (sum int, known bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	known = true
	for _, p := range s.r.pools {
		allowed, hidden := p.allowed(int64(s.r.cfg.Limit))
		n, err := s.r.server.CountSessions(ctx, p.app)
		if err != nil {
			known = false
			continue
		}
		// A limit that was raised, or a fault that began, while the server counted.
		allowed2, hidden2 := p.allowed(int64(s.r.cfg.Limit))
		allowed, hidden = max(allowed, allowed2), hidden || hidden2
		sum += n
		s.mu.Lock()
		s.limits.note(n, int(allowed), hidden)
		s.mu.Unlock()
	}
	return sum, known
}

// allowed is how many sessions the server may count now. hidden: the pool
// cannot know that one it has given up is still there.
func (p *pool) allowed(full int64) (n int64, hidden bool) {
	now := time.Now().UnixNano()
	n = p.limit.Load()
	if now < p.over.Load() {
		n = full
	}
	return n, now < p.excuse.Load()
}

func (l *limitCheck) note(n, allowed int, hidden bool) {
	l.Counts++
	l.Most = max(l.Most, n)
	switch {
	case n <= allowed:
	case hidden:
		l.Hidden++
		l.WorstBelow = max(l.WorstBelow, n-allowed)
	default:
		l.Over++
		l.WorstOver = max(l.WorstOver, n-allowed)
	}
}

// next ends a window and begins another.
func (s *samples) next() {
	heap, sum := heapMB(), s.r.totals()
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.cur
	w.to = s.r.since()
	w.goroutines, w.fds, w.sessions = median(s.ticks[0]), median(s.ticks[1]), median(s.ticks[2])
	w.strayFDs, w.strays = median(s.ticks[3]), median(s.ticks[4])
	w.heap, w.pools = heap, sum
	for i := range s.ticks {
		s.ticks[i] = s.ticks[i][:0]
	}
	s.n++
	s.cur = &s.windows[s.n]
	s.cur.from = w.to
}

func (s *samples) complete() ([]window, limitCheck, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.windows[:s.n], s.limits, s.hung
}

// open is how many sessions the pools have, by their own count.
func (r *run) open() (n int) {
	for _, p := range r.pools {
		n += p.conn.Stats().Open
	}
	return n
}

func (r *run) totals() totals {
	t := totals{}
	for _, p := range r.pools {
		st := p.conn.Stats()
		t.Waits += st.Waits
		t.WaitTime += st.WaitTime
		t.Opens += st.Opens
		t.OpenErrors += st.OpenErrors
		t.PoolTimeouts += st.PoolTimeouts
		t.Replays += st.Replays
		t.Unknown += st.OutcomesUnknown
		t.LostCommitted += st.LostCommitted
		t.LostAborted += st.LostAborted
		t.Peak = max(t.Peak, st.PeakInUse)
	}
	return t
}

// closedBy says why sessions were closed, over both pools.
func (r *run) closedBy() map[string]int64 {
	sum := make(map[string]int64)
	for _, p := range r.pools {
		st := p.conn.Stats()
		for why, n := range reasons(st) {
			sum[why] += n
		}
	}
	return sum
}

func reasons(st pgpooled.Stats) map[string]int64 {
	return map[string]int64{
		"connection failed": st.ClosedBroken, "found dead": st.ClosedDead, "context ended": st.ClosedCancelled,
		"in a transaction or with rows open": st.ClosedInTx, "max_idle_conns": st.ClosedMaxIdle,
		"conn_max_idle_time": st.ClosedMaxIdleTime, "conn_max_lifetime": st.ClosedMaxLifetime,
		"limit lowered": st.ClosedLimit, "Refresh": st.ClosedRefresh, "served a repeated read": st.ClosedReplay,
	}
}
