package faultnet

import (
	"context"
	"fmt"
	"net"
)

// Conns is the number of live connections: accepted, not cut, not yet ended
// from both sides.
func (p *Proxy) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.liveLocked()
}

func (p *Proxy) liveLocked() int {
	n := 0
	for c := range p.conns {
		if !c.over {
			n++
		}
	}
	return n
}

// Dials is the number of connections accepted so far.
func (p *Proxy) Dials() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dials
}

// Fired is the number of faults that happened so far, of scripts and of Arm: a
// test that cuts at byte after byte is through when it stops growing.
func (p *Proxy) Fired() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fired
}

// Bytes is the number of bytes forwarded so far, over all connections.
func (p *Proxy) Bytes(dir Direction) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes[dir]
}

// AwaitBytes waits until Bytes(dir) is at least n.
func (p *Proxy) AwaitBytes(ctx context.Context, dir Direction, n int) error {
	return p.await(ctx, func() bool { return p.bytes[dir] >= n })
}

// AwaitDials waits until Dials is at least n.
func (p *Proxy) AwaitDials(ctx context.Context, n int) error {
	return p.await(ctx, func() bool { return p.dials >= n })
}

// AwaitFired waits until Fired is at least n.
func (p *Proxy) AwaitFired(ctx context.Context, n int) error {
	return p.await(ctx, func() bool { return p.fired >= n })
}

// AwaitConns waits until Conns is exactly n.
func (p *Proxy) AwaitConns(ctx context.Context, n int) error {
	return p.await(ctx, func() bool { return p.liveLocked() == n })
}

// await waits until ready, which is called with mu held, says so.
func (p *Proxy) await(ctx context.Context, ready func() bool) error {
	for {
		p.mu.Lock()
		ok, ch := ready(), p.changed
		p.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return fmt.Errorf("faultnet: %w", ctx.Err())
		case <-p.ctx.Done():
			return fmt.Errorf("faultnet: %w", net.ErrClosed)
		}
	}
}
