package pgpooled

import "time"

// limits are what can be changed while the pool runs.
type limits struct {
	maxOpen, maxIdle, minIdle int           // maxOpen 0 = no limit, maxIdle -1 = as maxOpen
	maxIdleTime, maxLifetime  time.Duration // 0 = no limit
	jitter                    time.Duration // on top of maxLifetime, -1 = a tenth of it
	timeout                   time.Duration // pool_timeout, 0 = no limit
	leakAfter                 time.Duration // 0 = off
	retry                     retryPolicy
}

// numOpenLocked counts the slots in use.
func (p *pool) numOpenLocked() int { return len(p.idle) + p.leased.n + p.opening + p.closing }

func (p *pool) overLimitLocked() bool {
	return p.limits.maxOpen > 0 && p.numOpenLocked() >= p.limits.maxOpen
}

// excessLocked says whether a session that is in nobody's hands is one too many.
// Those that are being closed already make room by themselves.
func (p *pool) excessLocked() bool {
	return p.limits.maxOpen > 0 && p.numOpenLocked()-p.closing >= p.limits.maxOpen
}

func (p *pool) maxIdleLocked() int {
	m, open := p.limits.maxIdle, p.limits.maxOpen
	if m < 0 || open > 0 && m > open {
		m = open
		if open == 0 {
			m = int(^uint(0) >> 1)
		}
	}
	return m
}

// setLimits changes the limits while the pool runs: a lower one takes effect on
// idle sessions now and on leased ones as they come back, a higher one at once.
func (p *pool) setLimits(change func(*limits)) {
	p.mu.Lock()
	change(&p.limits)
	for len(p.idle) > 0 && (len(p.idle) > p.maxIdleLocked() || p.limits.maxOpen > 0 && p.numOpenLocked()-p.closing > p.limits.maxOpen) {
		p.retireIdleLocked(0, closedLimit)
	}
	p.growLocked()
	p.mu.Unlock()
	p.poke()
}

// refresh lets go of the sessions that exist now: idle ones at once, leased ones
// as they come back.
func (p *pool) refresh() {
	p.mu.Lock()
	p.refreshLocked(closedRefresh)
	p.mu.Unlock()
}

func (p *pool) refreshLocked(why closeReason) {
	p.epoch++
	p.outdated = why
	for len(p.idle) > 0 {
		p.retireIdleLocked(0, why)
	}
	p.growLocked()
}

// retireIdleLocked closes the i-th idle session.
func (p *pool) retireIdleLocked(i int, why closeReason) {
	s := p.idle[i]
	copy(p.idle[i:], p.idle[i+1:])
	p.idle[len(p.idle)-1] = nil
	p.idle = p.idle[:len(p.idle)-1]
	p.retireLocked(s, why)
}
