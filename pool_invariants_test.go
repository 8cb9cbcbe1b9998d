package pgpooled

import "fmt"

// checkLocked asserts the invariants at the top of pool.go.
func (p *pool) checkLocked() error {
	n := 0
	for s := p.leased.first; s != nil; s = s.next {
		n++
		if !s.inUse || s.lease == nil || (s.next == nil) != (s == p.leased.last) {
			return fmt.Errorf("leased session %d is not marked so, or the list is broken", n)
		}
	}
	if n != p.leased.n {
		return fmt.Errorf("%d sessions in the list of leased ones, counted %d", n, p.leased.n)
	}
	for i, s := range p.idle {
		if s == nil || s.inUse {
			return fmt.Errorf("idle session %d is nil or in use", i)
		}
	}
	n = 0
	for w := p.waiters.first; w != nil; w = w.next {
		n++
		if !w.queued || len(w.ch) != 0 {
			return fmt.Errorf("waiter %d is not marked so, or already served", n)
		}
		if w.next != nil && w.since.After(w.next.since) {
			return fmt.Errorf("waiter %d is in front of an older one", n)
		}
	}
	free := !p.overLimitLocked()
	c := &p.counts
	switch {
	case c.acquires != int64(p.leased.n)+c.useTimes.Count():
		return fmt.Errorf("handed out %d times, of which %d are in use and %d came back", c.acquires, p.leased.n, c.useTimes.Count())
	case c.waitTimes.Count() > c.acquires:
		return fmt.Errorf("handed out %d times, after %d waits", c.acquires, c.waitTimes.Count())
	case c.openTimes.Count() != c.opens:
		return fmt.Errorf("%d opened, which took %d times", c.opens, c.openTimes.Count())
	case n != p.waiters.n:
		return fmt.Errorf("%d waiters in line, counted %d", n, p.waiters.n)
	case p.opening < 0 || p.closing < 0:
		return fmt.Errorf("negative count: opening %d, closing %d", p.opening, p.closing)
	case n > 0 && len(p.idle) > 0:
		return fmt.Errorf("%d wait while %d sessions are idle", n, len(p.idle))
	case n > p.opening && free && p.outage.probe == nil && !p.closed:
		return fmt.Errorf("%d wait, %d are being opened, a slot is free and no probe is under way", n, p.opening)
	case p.closed && (n > 0 || len(p.idle) > 0):
		return fmt.Errorf("closed, but %d wait and %d are idle", n, len(p.idle))
	}
	return nil
}
