package pgpooled

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// ContextDialer makes network connections: *net.Dialer, and what Cloud SQL
// connectors and tunnels offer.
type ContextDialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// sslRequestLen is the length of SSLRequest; every other first message is longer.
const sslRequestLen = 8

var errSessionClosed = fmt.Errorf("pgpooled: session is closed: %w", net.ErrClosed)

// dialer makes the sockets of one session: while it is being opened those of
// the attempt, afterwards those of lib/pq's cancel requests. lib/pq calls it
// from the opening goroutine and later from those that watch a context.
type dialer struct {
	o    *opener
	s    *session
	ctx  context.Context // of the attempt
	stop func() bool     // ends the watch over ctx

	prefers bool             // sslmode=prefer
	posing  map[string]error // hosts known to be standbys whatever they report, or not to answer

	mu         sync.Mutex
	hosts      int                      // guarded by mu: how many the attempt can still come to
	host       string                   // guarded by mu: the one being tried
	last       string                   // guarded by mu: the one dialled last
	until      time.Time                // guarded by mu: how long it may take
	wires      []*wire                  // guarded by mu: the attempt's sockets, nil for a failed dial; the last one counts
	opened     bool                     // guarded by mu: the attempt is over
	turnedAway bool                     // guarded by mu: a server answered the first message with an error
	closed     bool                     // guarded by mu: the session is closed, no more cancel requests
	cancel     map[*cancelConn]struct{} // guarded by mu: sockets of cancel requests
	through    chan struct{}            // guarded by mu: closed when the last of them is gone; nil = nobody waits
}

func newDialer(ctx context.Context, o *opener, s *session, hosts int) *dialer {
	d := &dialer{o: o, s: s, ctx: ctx, hosts: hosts}
	// lib/pq's startup ignores the context; the socket does not.
	d.stop = context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, w := range d.wires {
			if w != nil {
				w.cut()
			}
		}
	})
	return d
}

// Dial and DialTimeout complete pq.Dialer; lib/pq uses DialContext where it is.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialTimeout is Dial with a timeout.
func (d *dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// DialContext makes a socket of the attempt or of a cancel request.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	opened := d.opened
	d.mu.Unlock()
	if opened {
		return d.dialCancel(ctx, network, address)
	}
	if d.downgrades(network + " " + address) {
		return nil, errNoDowngrade
	}
	deadline, bounded := d.share(network + " " + address)
	if bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	var c net.Conn
	err := d.posing[network+" "+address]
	if err == nil {
		c, err = d.dial(ctx, network, address)
	}
	if err != nil {
		d.mu.Lock()
		d.wires = append(d.wires, nil)
		d.mu.Unlock()
		return nil, err
	}
	w := newWire(c)
	if bounded {
		err = w.SetDeadline(deadline)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wires = append(d.wires, w)
	if err == nil {
		err = d.ctx.Err()
	}
	if err != nil {
		_ = w.Close()
		return nil, err
	}
	return w, nil
}

// downgrades says whether lib/pq dials the host again to do without TLS, with
// sslmode=prefer, although the server has not said that it has none: it closed,
// or answered with an error, because it starts up or shuts down.
func (d *dialer) downgrades(host string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	again := host == d.last
	d.last = host
	if !d.prefers || !again || len(d.wires) == 0 {
		return false
	}
	w := d.wires[len(d.wires)-1]
	if w == nil || w.sent.Load() > sslRequestLen || w.first.Load() == 'N'+1 || w.first.Load() == 'S'+1 {
		return false
	}
	d.wires = append(d.wires, nil)
	return true
}

// reached is the host of the socket that lib/pq kept.
func (d *dialer) reached() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

// share is until when a host may take: an equal part of what is left, so that
// one that does not answer leaves the others theirs. lib/pq dials a host twice
// with sslmode=prefer and allow; that is one part.
func (d *dialer) share(host string) (time.Time, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	end, bounded := d.ctx.Deadline()
	if !bounded || host == d.host {
		return d.until, bounded
	}
	d.host, d.until = host, end
	if left := d.hosts; left > 1 {
		d.until = time.Now().Add(time.Until(end) / time.Duration(left))
	}
	d.hosts--
	return d.until, true
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	via := d.o.opts.dialer
	if via == nil {
		via = &net.Dialer{KeepAlive: -1}
	}
	c, err := via.DialContext(ctx, network, address)
	if err == nil {
		d.tune(c)
	}
	return c, err
}

// tune sets keepalives and TCP_USER_TIMEOUT. A socket that has neither still
// works, so what the system refuses is not an error.
func (d *dialer) tune(c net.Conn) {
	tcp, ok := innermost(c).(*net.TCPConn)
	if !ok {
		return
	}
	cfg := d.o.cfg
	keep := net.KeepAliveConfig{
		Enable: cfg.Keepalives, Idle: cfg.KeepalivesIdle, Interval: cfg.KeepalivesInterval, Count: cfg.KeepalivesCount,
	}
	// Zero is the system's value here; to package net it is a default of its own.
	if keep.Idle == 0 {
		keep.Idle = -1
	}
	if keep.Interval == 0 {
		keep.Interval = -1
	}
	if keep.Count == 0 {
		keep.Count = -1
	}
	_ = tcp.SetKeepAliveConfig(keep)
	if raw, err := tcp.SyscallConn(); err == nil && cfg.TCPUserTimeout > 0 {
		_ = setUserTimeout(raw, cfg.TCPUserTimeout)
	}
}

// settle ends the attempt: it closes the sockets that lib/pq gave up and
// returns the one that it kept.
func (d *dialer) settle(ok bool) *wire {
	d.stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened = true
	var kept *wire
	if n := len(d.wires); ok && n > 0 {
		kept = d.wires[n-1]
		d.wires = d.wires[:n-1]
	}
	for _, w := range d.wires {
		if w != nil {
			d.turnedAway = d.turnedAway || w.first.Load() == 'E'+1
			_ = w.Close()
		}
	}
	d.wires = nil
	return kept
}

// dialCancel makes the socket of a cancel request. lib/pq reads from it without
// a limit, so the limit is set here. From now on the session is doomed: a
// cancel that arrives late would hit whoever has the session then.
func (d *dialer) dialCancel(ctx context.Context, network, address string) (net.Conn, error) {
	d.s.cancel()
	deadline := time.Now().Add(d.s.intr.grace)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	cc := &cancelConn{d: d, stop: cancel}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil, errSessionClosed
	}
	if d.cancel == nil {
		d.cancel = make(map[*cancelConn]struct{})
	}
	d.cancel[cc] = struct{}{}
	d.mu.Unlock()

	c, err := d.dial(ctx, network, address)
	if err == nil {
		err = c.SetDeadline(deadline)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil && d.closed {
		err = errSessionClosed
	}
	if err != nil {
		d.forgetLocked(cc)
		if c != nil {
			_ = c.Close()
		}
		return nil, err
	}
	cc.Conn = c
	return cc, nil
}

// drain allows no more cancel requests and waits until those that were sent have
// been answered, at most until the deadline. A pooler that is hung up on before
// it has passed one on may take its next client for it: PgBouncer 1.18 hangs up
// on that one, or crashes.
func (d *dialer) drain(until time.Time) {
	d.mu.Lock()
	d.closed = true
	for cc := range d.cancel {
		if cc.Conn == nil { // nothing was sent
			cc.stop()
		}
	}
	if len(d.cancel) == 0 {
		d.mu.Unlock()
		return
	}
	d.through = make(chan struct{})
	through := d.through
	d.mu.Unlock()
	limit := time.NewTimer(time.Until(until))
	defer limit.Stop()
	select {
	case <-through:
	case <-limit.C:
	}
}

// forgetLocked takes a cancel request's socket off the list.
func (d *dialer) forgetLocked(cc *cancelConn) {
	delete(d.cancel, cc)
	if len(d.cancel) == 0 && d.through != nil {
		close(d.through)
		d.through = nil
	}
}

// close ends cancel requests that are still under way and allows no more.
func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for cc := range d.cancel {
		if cc.Conn == nil {
			cc.stop()
		} else {
			_ = cc.Conn.Close()
		}
	}
}

// cancelConn is the socket of a cancel request.
type cancelConn struct {
	net.Conn // nil until dialled; guarded by d.mu until lib/pq has it
	d        *dialer
	stop     context.CancelFunc // ends the dial
}

func (c *cancelConn) Close() error {
	err := c.Conn.Close()
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	c.d.forgetLocked(c)
	return err
}
