package pgpooled

import (
	"log/slog"
	"slices"
	"time"
)

// upkeep is the pool's one background loop: it closes sessions that were idle
// or lived for too long, keeps warm ones, takes back parked ones while others
// wait, ends waits that take too long, reports leases held for too long, and
// takes the samples of the status page. It sleeps until the earliest of these is
// due, and runs from newPool until close.
func (p *pool) upkeep() {
	defer p.wg.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-p.wake:
		case <-p.ctx.Done():
			return
		}
		now := time.Now()
		p.checkWarm(now)
		p.mu.Lock()
		p.next, p.tending = time.Time{}, true
		p.expireLocked(now)
		p.growLocked()
		p.reclaimLocked(now)
		p.endWaitsLocked(now)
		p.leaksLocked(now)
		p.sampleLocked(now)
		if p.limits.minIdle > 0 {
			p.wakeByLocked(p.checked.Add(warmCheck))
		}
		p.tending = false
		next := p.next
		p.mu.Unlock()
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(0, next.Sub(now)))
		}
	}
}

// warmCheck is how often warm sessions are looked at, without a round trip: a
// dead one is not warm.
const warmCheck = time.Second

// checkWarm looks at each idle session, if some shall be warm and it is time.
func (p *pool) checkWarm(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limits.minIdle <= 0 || now.Sub(p.checked) < warmCheck {
		return
	}
	p.checked = now
	for range len(p.idle) {
		if len(p.idle) == 0 || p.closed {
			return
		}
		s := p.idle[0]
		p.idle = slices.Delete(p.idle, 0, 1)
		p.opening++ // in nobody's hands but ours
		p.mu.Unlock()
		err := s.check()
		p.mu.Lock()
		p.opening--
		switch {
		case p.closed:
			p.retireLocked(s, closedPool)
		case err != nil:
			p.retireLocked(s, closedDead)
		case s.epoch != p.epoch:
			p.retireLocked(s, p.outdated)
		case !p.deliverLocked(s, now):
			p.retireLocked(s, closedMaxIdle)
		}
	}
}

// poke makes upkeep look again.
func (p *pool) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// wakeByLocked makes upkeep look again at t at the latest; zero = no wish.
func (p *pool) wakeByLocked(t time.Time) {
	if t.IsZero() || !p.next.IsZero() && !t.Before(p.next) {
		return
	}
	p.next = t
	if !p.tending { // upkeep itself only has to note it
		p.poke()
	}
}

// idleUntilLocked is when an idle session has to go, zero = it may stay.
func (p *pool) idleUntilLocked(s *session) time.Time {
	until := p.expiryLocked(s)
	if d := p.limits.maxIdleTime; d > 0 {
		if t := s.idleSince.Add(d); until.IsZero() || t.Before(until) {
			until = t
		}
	}
	return until
}

// expiryLocked is when a session is too old, zero = never.
func (p *pool) expiryLocked(s *session) time.Time {
	life, jitter := p.limits.maxLifetime, p.limits.jitter
	if life <= 0 {
		return time.Time{}
	}
	if jitter < 0 {
		jitter = life / 10
	}
	return s.created.Add(life + time.Duration(s.jitter*float64(jitter)))
}

func (p *pool) expiredLocked(s *session, now time.Time) bool {
	t := p.expiryLocked(s)
	return !t.IsZero() && !now.Before(t)
}

// expireLocked closes idle sessions whose time is over. Those that min_idle_conns
// asks for stay however long they are idle.
func (p *pool) expireLocked(now time.Time) {
	for i := 0; i < len(p.idle); {
		s := p.idle[i]
		switch tooLong := p.limits.maxIdleTime > 0 && now.Sub(s.idleSince) >= p.limits.maxIdleTime; {
		case s.epoch != p.epoch:
			p.retireIdleLocked(i, p.outdated)
		case p.expiredLocked(s, now):
			p.retireIdleLocked(i, closedLifetime)
		case tooLong && len(p.idle) > p.limits.minIdle:
			p.retireIdleLocked(i, closedIdleTime)
		case tooLong:
			p.wakeByLocked(p.expiryLocked(s))
			i++
		default:
			p.wakeByLocked(p.idleUntilLocked(s))
			i++
		}
	}
}

// watchLocked has upkeep look after the waiters, unless it does already.
func (p *pool) watchLocked(now time.Time) {
	if !p.watched && p.leased.n > 0 {
		p.watched = true
		p.wakeByLocked(now.Add(parkedAfter))
	}
}

// reclaimLocked gives the sessions of leases on which nothing has run to those
// who wait: database/sql parks such leases where nobody sees them.
func (p *pool) reclaimLocked(now time.Time) {
	for s := p.leased.first; s != nil && p.waiters.n > 0 && now.Sub(s.taken) >= parkedAfter; {
		next := s.next
		if s.lease.state.CompareAndSwap(leaseFresh, leaseEmpty) {
			p.returnLocked(s, now)
			p.counts.reclaimed++
			if !p.deliverLocked(s, now) {
				p.retireLocked(s, closedMaxIdle)
			}
		}
		s = next
	}
	p.watched = p.waiters.n > 0 && p.leased.n > 0
	if p.watched {
		p.wakeByLocked(now.Add(parkedAfter))
	}
}

// leaksLocked reports leases that were held for too long, each once.
func (p *pool) leaksLocked(now time.Time) {
	limit := p.limits.leakAfter
	if limit <= 0 {
		return
	}
	for s := p.leased.first; s != nil; s = s.next {
		if s.lease.leaked {
			continue
		}
		held := now.Sub(s.taken)
		if held < limit {
			p.wakeByLocked(s.taken.Add(limit)) // all later ones were taken later
			return
		}
		s.lease.leaked = true
		p.counts.leaks++
		p.logLocked(slog.LevelWarn, "pgpooled: a session has been leased for longer than leak_detection_threshold; the stack shows who took it",
			slog.Duration("held", round(held)), slog.String("stack", frames(s.lease.stack)))
	}
}
