package pgpooled

import (
	"errors"
	"log/slog"
	"time"

	"github.com/sethvargo/go-retry"
)

// interestLimit is how long a probe goes on after the last caller asked.
const interestLimit = time.Minute

// outage is what the pool knows of a server that it cannot reach. An outage
// begins when a dial fails for a reason that can pass and no session has
// answered since the dial began; it ends with the first answer.
type outage struct {
	since    time.Time     // zero = there is none
	last     error         // the last failed dial, nil after a success
	failed   int           // dials that failed in a row
	probe    *probe        // the one dial that may be under way, nil = any number may
	ended    time.Time     // when the last one ended
	answer   time.Time     // when a session last came back in good order
	interest time.Time     // when somebody last asked for a session
	cool     time.Time     // no dial for warm sessions before this
	refused  string        // the refusal that was logged last, empty after a success
	patience time.Duration // how long the last new session was asked, and silent; 0 = it was not
}

// probe is the right to dial while dials fail: one goroutine at a time has it.
type probe struct{ backoff retry.Backoff }

// answeredLocked notes that a session works. That ends an outage, unless the
// session was asked before the outage began: a server that shuts down still
// answers what is under way.
func (p *pool) answeredLocked(asked, now time.Time) {
	p.outage.answer = now
	if !p.outage.since.After(asked) {
		p.endOutageLocked("pgpooled: the server is back", now)
	}
}

// beginOutageLocked notes since when the server cannot be reached, once.
func (p *pool) beginOutageLocked(since time.Time, why string) {
	if p.outage.since.IsZero() {
		p.outage.since = since
		p.counts.outages++
		p.logLocked(slog.LevelWarn, "pgpooled: the server cannot be reached", slog.String("error", why))
	}
}

func (p *pool) endOutageLocked(how string, now time.Time) {
	if age := p.outage.age(now); age > 0 {
		p.logLocked(slog.LevelWarn, how, slog.Duration("outage", round(age)))
		p.outage.ended = now
	}
	p.outage.since = time.Time{}
}

// waitedInVainLocked takes a wait for the whole of pool_timeout for the outage
// that it is, if nobody has a session and none has answered: the first dial may
// take much longer to fail.
func (p *pool) waitedInVainLocked(start time.Time) {
	if p.leased.n == 0 && !p.outage.answer.After(start) {
		p.beginOutageLocked(start, "no answer within pool_timeout")
	}
}

// answeredSince says whether a session has come back in good order since t.
func (p *pool) answeredSince(t time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.outage.answer.After(t)
}

func (o *outage) age(now time.Time) time.Duration {
	if o.since.IsZero() {
		return 0
	}
	return now.Sub(o.since)
}

// during says whether there was an outage at any time since start.
func (o *outage) during(start time.Time) bool { return !o.since.IsZero() || o.ended.After(start) }

// hopelessLocked fails a caller at once when the server has been away for
// longer than the caller may wait. The probe goes on meanwhile, or there is no
// room to dial yet; else the caller's own dial finds out.
func (p *pool) hopelessLocked(now time.Time) error {
	limit := p.limits.timeout
	trying := p.outage.probe != nil || p.opening > 0 || p.closing > 0 && p.overLimitLocked()
	if limit <= 0 || !trying || p.outage.age(now) <= limit {
		return nil
	}
	p.counts.timeouts++
	p.waiters.n++ // the caller counts as one in line
	defer func() { p.waiters.n-- }()
	return p.timeoutLocked(now, nil)
}

// growLocked dials for those who wait and for sessions that shall be warm, as
// far as the limit allows. While dials fail it leaves that to the probe.
func (p *pool) growLocked() {
	if p.closed || p.outage.probe != nil {
		return
	}
	want := p.waiters.n + p.coldLocked()
	for p.opening < want && !p.overLimitLocked() {
		p.opening++
		p.wg.Add(1)
		go p.dial()
	}
}

// warmUp says that n sessions are asked for only to be idle afterwards.
func (p *pool) warmUp(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warming += n
}

// coldLocked is how many idle sessions are missing.
func (p *pool) coldLocked() int {
	missing := min(p.limits.minIdle, p.maxIdleLocked()) - len(p.idle) - p.warming
	if missing <= 0 {
		return 0
	}
	if cool := p.outage.cool; !cool.IsZero() && time.Now().Before(cool) {
		p.wakeByLocked(cool)
		return 0
	}
	return missing
}

// errHookEnded is why there is no session when a caller's hook ends the goroutine
// that runs it, as testing's FailNow does.
var errHookEnded = errors.New("pgpooled: connecting was cut short: a function that the program gave to the connector called runtime.Goexit")

// dial opens one session, whoever it is for: a caller that gives up does not
// waste it. While dials fail it goes on as the probe.
func (p *pool) dial() {
	defer p.wg.Done()
	var (
		busy  = true
		began time.Time
		mine  *probe
	)
	defer func() {
		if busy { // the caller's own hook ended the goroutine
			p.dialFailed(errHookEnded, nil, began, mine)
		}
	}()
	for {
		busy, began = true, time.Now()
		p.mu.Lock()
		epoch := p.epoch
		p.mu.Unlock()
		s, err := p.open(p.ctx)
		busy = false
		if err == nil {
			err = p.confirm(s)
		}
		if err == nil {
			s.epoch = epoch
			p.opened(s, began)
			return
		}
		var delay time.Duration
		if mine, delay = p.dialFailed(err, s, began, mine); mine == nil {
			return
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-p.ctx.Done():
			timer.Stop()
		}
		if !p.resume(mine) {
			return
		}
	}
}

// resume takes a slot for the probe, which has none while it sleeps, unless
// somebody else has reached the server meanwhile or the limit leaves no room:
// then there is somebody who will come back.
func (p *pool) resume(mine *probe) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.outage.probe != mine {
		return false
	}
	if p.overLimitLocked() {
		p.outage.probe = nil
		return false
	}
	p.opening++
	return true
}

// opened takes a new session into the pool. The first one after an outage lets
// everybody else dial as well.
func (p *pool) opened(s *session, began time.Time) {
	if s.base != nil {
		p.example.Store(&s.base)
	}
	now := time.Now()
	p.mu.Lock()
	p.opening--
	p.counts.opens++
	p.counts.openTimes.add(now.Sub(began))
	s.pool, s.idleSince = p, now
	p.answeredLocked(now, now)
	p.outage.probe, p.outage.last, p.outage.failed, p.outage.cool, p.outage.refused = nil, nil, 0, time.Time{}, ""
	switch {
	case p.closed:
		p.retireLocked(s, closedPool)
	case s.epoch != p.epoch:
		p.retireLocked(s, p.outdated)
	case p.excessLocked():
		p.retireLocked(s, closedLimit)
	case !p.deliverLocked(s, now):
		p.retireLocked(s, closedMaxIdle)
	}
	p.growLocked()
	p.mu.Unlock()
}

// dialFailed decides what a failed dial means for those who wait. It returns
// the probe and its next delay if the caller shall go on.
func (p *pool) dialFailed(err error, s *session, began time.Time, mine *probe) (*probe, time.Duration) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.openErrors++
	p.opening--
	if s != nil { // the server has accepted it: it keeps its slot until it is gone
		p.endLocked(s)
	}
	if p.closed {
		return nil, 0
	}
	p.outage.last = err
	policy := p.limits.retry
	// A name that cannot be resolved is a typing error, until it once could.
	if !policy.connect() || !passing(err, p.counts.opens > 0) {
		if p.outage.probe == mine {
			p.outage.probe = nil
		}
		p.endOutageLocked("pgpooled: the server is back, and refuses", now)
		if p.outage.refused != err.Error() { // once, however often it is tried
			p.outage.refused = err.Error()
			says := "pgpooled: connecting failed for a reason that does not pass"
			if !policy.connect() {
				says = "pgpooled: connecting failed, and retry_mode=off does not repeat it"
			}
			p.logLocked(slog.LevelWarn, says, slog.String("error", err.Error()))
		}
		p.outage.cool = now.Add(policy.maxDelay)
		p.refuseLocked(err)
		p.growLocked()
		return nil, 0
	}
	held := p.leased.n + len(p.idle)
	if !p.outage.answer.After(began) && (held == 0 || !isServerFull(err)) {
		p.beginOutageLocked(began, err.Error())
	}
	if other := p.outage.probe; other != nil && other != mine {
		p.counts.openRetries++ // by the other one
		return nil, 0
	}
	p.outage.failed++
	if n := policy.maxAttempts; n > 0 && p.outage.failed >= n && (held == 0 || !isServerFull(err)) {
		p.outage.failed = 0
		p.failAllLocked(&AttemptsError{Attempts: n, Err: err})
	}
	if p.waiters.n == 0 && p.coldLocked() == 0 && now.Sub(p.outage.interest) > interestLimit {
		p.outage.probe = nil
		p.endOutageLocked("pgpooled: the server is no longer asked for: nobody wants a session", now)
		return nil, 0
	}
	if mine == nil {
		mine = &probe{backoff: policy.backoff()}
	}
	p.outage.probe = mine
	delay, _ := mine.backoff.Next()
	p.counts.openRetries++
	p.logLocked(slog.LevelWarn, "pgpooled: connecting failed, trying again",
		slog.Int("attempt", p.outage.failed), slog.Duration("delay", round(delay)), slog.String("error", err.Error()))
	return mine, delay
}

// refuseLocked tells callers that a connection cannot be had: all of them, or,
// while a session in use may still serve them, the first in line. The next one
// gets a dial of its own.
func (p *pool) refuseLocked(err error) {
	if p.leased.n > 0 {
		if w := p.waiters.first; w != nil {
			p.answerLocked(w, delivery{err: err}, time.Now())
		}
		return
	}
	p.failAllLocked(err)
}
