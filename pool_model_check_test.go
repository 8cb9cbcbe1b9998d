package pgpooled

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lib/pq"
)

// settled checks what must be true whenever everything has come to rest.
func (m *model) settled() error {
	if err := audit(m.p, m.srv); err != nil {
		return fmt.Errorf("%s: %w", m.step, err)
	}
	inUse, waiting, served := 0, 0, int64(0)
	m.timeouts, m.cancels = 0, 0
	for _, c := range m.clients {
		switch {
		case !c.ended():
			waiting++
		case c.err != nil:
			if err := m.explained(c.err); err != nil {
				return fmt.Errorf("%s: caller %d: %w", m.step, c.order, err)
			}
		default:
			served++
			if !c.gone && c.l.state.Load() != leaseEmpty {
				inUse++
			}
		}
	}
	s := m.p.stats()
	switch {
	case s.InUse != inUse:
		return fmt.Errorf("%s: callers hold %d sessions, the pool says %d", m.step, inUse, s.InUse)
	case s.Waiting != waiting:
		return fmt.Errorf("%s: %d callers wait, the pool says %d", m.step, waiting, s.Waiting)
	case s.Acquires < served:
		return fmt.Errorf("%s: %d callers were served, %d sessions lent", m.step, served, s.Acquires)
	case s.PoolTimeouts != m.timeouts+m.others:
		return fmt.Errorf("%s: %d callers timed out, counted %d", m.step, m.timeouts, s.PoolTimeouts)
	case s.Cancelled < m.cancels:
		return fmt.Errorf("%s: %d callers gave up, counted %d", m.step, m.cancels, s.Cancelled)
	}
	return m.inOrder()
}

// explained: an error has one of the reasons that there can be.
func (m *model) explained(err error) error {
	var e *PoolTimeoutError
	if errors.As(err, &e) {
		switch {
		case e.Ctx == nil && (!errors.Is(err, ErrPoolTimeout) || e.Waited < e.Timeout && e.OutageFor <= e.Timeout):
			return fmt.Errorf("no timeout: %w", err)
		case e.Ctx != nil && (errors.Is(err, ErrPoolTimeout) || !errors.Is(err, e.Ctx)):
			return fmt.Errorf("no end of a context: %w", err)
		case e.Ctx == nil:
			m.timeouts++
		default:
			m.cancels++
		}
		return nil
	}
	answer, direct := err.(*pq.Error) // as callers do
	if direct && answer == errPassword || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	var many *AttemptsError
	if errors.Is(err, ErrClosed) && m.p.closed || errors.As(err, &many) && many.Attempts == 4 {
		return nil
	}
	return fmt.Errorf("unexplained: %T %w", err, err)
}

// inOrder: whoever was served in this step came before everybody who waits. A
// session that was dead when it was looked at may have let others pass.
func (m *model) inOrder() error {
	dead := false
	m.srv.set(func() { dead, m.srv.checked = m.srv.checked > 0, 0 })
	first := slices.IndexFunc(m.clients, waits)
	for _, c := range m.clients {
		if c.ended() && !c.seen {
			c.seen = true
			if c.err == nil && first >= 0 && c.order > first && !dead {
				return fmt.Errorf("%s: caller %d waits while caller %d is served", m.step, first, c.order)
			}
		}
	}
	return nil
}

// finish lets everything come back and asks for all slots, or closes the pool
// over what is out.
func (m *model) finish(t *testing.T, orderly bool) error {
	if orderly {
		m.script(0, 0)
		m.srv.set(func() { m.srv.closing, m.srv.limit = nil, 0 })
		for range 40 { // those who wait are served or time out
			for range m.clients {
				m.release(m.pick(0, holds))
			}
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
		}
		if err := m.settled(); err != nil {
			return err
		}
		if s := m.p.stats(); s.InUse != 0 || s.Waiting != 0 || s.Closing != 0 {
			return fmt.Errorf("after all came back: %+v", s)
		}
		m.p.setLimits(func(l *limits) { l.maxOpen, l.maxIdle, l.minIdle = 3, -1, 0 })
		start := time.Now()
		for i := range 3 {
			m.acquire(t, 0, false)
			synctest.Wait()
			if c := m.clients[len(m.clients)-1]; !c.ended() || c.err != nil || time.Since(start) > 0 {
				return fmt.Errorf("fresh acquire %d of 3 after all came back: ended %v, %w; %+v", i+1, c.ended(), c.err, m.p.stats())
			}
		}
		for range 3 {
			m.use(m.pick(0, func(c *client) bool { return holds(c) && !c.used }))
		}
	}
	m.srv.set(func() { m.srv.shut = true })
	start := time.Now()
	out := m.p.stats().InUse
	if err := m.p.close(time.Second); err != nil && out == 0 {
		return fmt.Errorf("close: %w", err)
	}
	synctest.Wait()
	if d := time.Since(start); d > 2*time.Second {
		return fmt.Errorf("close took %s", d)
	}
	for _, c := range m.clients {
		if !c.ended() {
			return fmt.Errorf("caller %d waits on a closed pool", c.order)
		}
		if c.err != nil {
			if err := m.explained(c.err); err != nil {
				return err
			}
		}
		m.release(c)
	}
	s := m.p.stats()
	m.srv.mu.Lock()
	left := m.srv.exist
	m.srv.mu.Unlock()
	if s.Open != 0 || s.Waiting != 0 || left != 0 {
		return fmt.Errorf("after close the server has %d sessions: %+v", left, s)
	}
	if _, err := m.p.newLease(t.Context()); err != ErrClosed { // the very one
		return fmt.Errorf("after close: %w", err)
	}
	return audit(m.p, m.srv)
}
