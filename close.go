package pgpooled

import (
	"fmt"
	"log/slog"
	"time"
)

func (p *pool) drainedLocked() {
	if p.closed && p.leased.n == 0 && p.drained != nil {
		close(p.drained)
		p.drained = nil
	}
}

// close refuses everybody from now on, closes what is idle, grants leased
// sessions the given time, cuts the rest, and returns when nothing is left.
func (p *pool) close(grant time.Duration) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		<-p.done
		return nil
	}
	p.closed = true
	p.failAllLocked(ErrClosed)
	p.endOutageLocked("pgpooled: closed while the server cannot be reached", time.Now()) // or it would grow older for ever
	for len(p.idle) > 0 {
		p.retireIdleLocked(0, closedPool)
	}
	for s := p.leased.first; s != nil; {
		next := s.next
		if s.lease.state.CompareAndSwap(leaseFresh, leaseEmpty) {
			p.returnLocked(s, time.Now())
			p.retireLocked(s, closedPool)
		}
		s = next
	}
	drained := p.drained
	p.drainedLocked()
	p.mu.Unlock()
	p.cancel()

	err := p.awaitLeases(drained, grant)
	p.wg.Wait()
	p.mu.Lock()
	p.logLocked(slog.LevelInfo, "pgpooled: pool closed")
	p.mu.Unlock()
	p.flushLogs()
	close(p.done)
	return err
}

func (p *pool) awaitLeases(drained <-chan struct{}, grant time.Duration) error {
	timer := time.NewTimer(grant)
	defer timer.Stop()
	select {
	case <-drained:
		return nil
	case <-timer.C:
	}
	p.mu.Lock()
	n := p.leased.n
	var cut []*session
	for s := p.leased.first; s != nil; s = p.leased.first {
		p.returnLocked(s, time.Now())
		p.counts.closed[closedPool]++
		cut = append(cut, s)
	}
	p.drainedLocked()
	p.mu.Unlock()
	for _, s := range cut {
		s.doomed.Store(true)
		s.abort()
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("pgpooled: close: sessions still in use after close_timeout (%[2]s) were cut: %[1]d", n, grant)
}
