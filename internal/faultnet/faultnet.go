// Package faultnet is a TCP proxy that breaks connections on purpose: it cuts
// them at a given byte with FIN or RST, falls silent, refuses, and delays.
//
//	p, err := faultnet.New(server.Addr())
//	defer p.Close()
//	// dial p.Addr(); then, with the connection idle:
//	p.Arm(faultnet.ToServer, 120, faultnet.CutClient)
//
// It listens on 127.0.0.1 only. All methods may be called at any time from any
// goroutine.
package faultnet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Direction is the way that bytes go.
type Direction uint8

// The two directions.
const (
	ToServer Direction = iota // what the client sends
	ToClient                  // what the server sends
)

func (d Direction) String() string { return [...]string{"to server", "to client"}[d] }

// Action is what happens to one connection. After any of them but Stall
// nothing more is forwarded either way.
type Action uint8

// The actions. "Cut" ends with FIN, "reset" with RST.
const (
	CutBoth   Action = iota + 1 // both sides see the end of the stream
	ResetBoth                   // both sides see a reset
	// CutClient ends the client's side only. The server keeps what was
	// forwarded until then, sees the end of its input, and may finish what it
	// is doing; its answer is thrown away.
	CutClient
	ResetClient // CutClient with RST
	// CutServer ends the server's side only; the client hears nothing more,
	// not even that.
	CutServer
	ResetServer // CutServer with RST
	Stall       // silence in both directions, until Thaw
)

// Fault is something that happens to a connection at a given byte.
type Fault struct {
	Dir Direction
	// After is the number of bytes that are still forwarded in Dir. At zero
	// the fault happens when the next byte comes, before it is forwarded.
	After int
	Do    Action
}

// Script is what happens to one connection, counted from its first byte.
type Script []Fault

// Proxy stands between clients and one server.
type Proxy struct {
	addr   *net.TCPAddr
	ctx    context.Context // ended by Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	latency atomic.Int64 // nanoseconds

	mu       sync.Mutex // guards the following; never held over I/O
	target   string
	listener net.Listener // nil while refusing
	closed   bool
	conns    map[*conn]struct{}
	script   func(int) Script
	frozen   bool
	dials    int
	fired    int
	bytes    [2]int
	writing  int           // writes under way
	changed  chan struct{} // closed and replaced when anything above changes
}

// New listens on a free port of 127.0.0.1 and forwards to target (host:port).
func New(target string) (*Proxy, error) {
	p := &Proxy{target: target, conns: make(map[*conn]struct{}), changed: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	l, err := listen()
	if err != nil {
		return nil, fmt.Errorf("faultnet: %w", err)
	}
	p.addr = l.Addr().(*net.TCPAddr)
	p.serve(l)
	return p, nil
}

// listen prefers ports that are not given to outgoing connections: Refuse has
// to get its port back.
func listen() (net.Listener, error) {
	for range 50 {
		l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(15000+rand.IntN(17000)))
		if err == nil {
			return l, nil
		}
	}
	return net.Listen("tcp4", "127.0.0.1:0")
}

// serve accepts on l until it is closed.
func (p *Proxy) serve(l net.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = l.Close()
		return
	}
	p.listener = l
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				if p.listening(l) {
					time.Sleep(time.Millisecond) // out of file descriptors, say
					continue
				}
				return
			}
			p.accepted(c.(*net.TCPConn))
		}
	}()
}

func (p *Proxy) listening(l net.Listener) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.listener == l
}

func (p *Proxy) accepted(client *net.TCPConn) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		_ = client.Close()
		return
	}
	c := newConn(p, p.dials, client)
	p.dials++
	p.conns[c] = struct{}{}
	script := p.script
	p.wg.Add(1)
	p.changedLocked()
	p.mu.Unlock()
	go func() {
		defer p.wg.Done()
		if script != nil {
			for _, f := range script(c.index) {
				c.arm(f)
			}
		}
		c.run()
		p.mu.Lock()
		delete(p.conns, c)
		p.changedLocked()
		p.mu.Unlock()
	}()
}

func (p *Proxy) changedLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Addr is the address to dial, 127.0.0.1:port.
func (p *Proxy) Addr() string { return p.addr.String() }

// Host is the host of Addr.
func (p *Proxy) Host() string { return p.addr.IP.String() }

// Port is the port of Addr.
func (p *Proxy) Port() int { return p.addr.Port }

// Close ends the proxy and every connection, and waits for its goroutines. It
// may be called again.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	l := p.listener
	p.listener = nil
	p.mu.Unlock()
	p.cancel()
	var err error
	if l != nil {
		err = l.Close()
	}
	for _, c := range p.all() {
		c.end()
	}
	p.wg.Wait()
	return err
}

func (p *Proxy) all() []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*conn, 0, len(p.conns))
	for c := range p.conns {
		out = append(out, c)
	}
	return out
}

// SetTarget makes later connections go to another server.
func (p *Proxy) SetTarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// SetScript gives each later connection its faults. The index counts accepted
// connections from 0. nil ends it.
func (p *Proxy) SetScript(script func(connIndex int) Script) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script = script
}

// Arm adds a fault to every connection that is live now, counting its bytes
// from now, and returns how many those are.
func (p *Proxy) Arm(dir Direction, after int, action Action) int {
	n := 0
	for _, c := range p.all() {
		if c.arm(Fault{Dir: dir, After: after, Do: action}) {
			n++
		}
	}
	return n
}

// Disarm takes back every fault that has not happened yet.
func (p *Proxy) Disarm() {
	for _, c := range p.all() {
		c.disarm()
	}
}

// Cut does action to every live connection now.
func (p *Proxy) Cut(action Action) {
	for _, c := range p.all() {
		c.do(action)
	}
}

// CutAll ends every live connection now, on both sides, with RST or with FIN.
func (p *Proxy) CutAll(rst bool) {
	if rst {
		p.Cut(ResetBoth)
	} else {
		p.Cut(CutBoth)
	}
}

// Freeze stops forwarding in both directions without a sign of it: the ends of
// streams are kept back as well, and new connections are accepted and stay
// silent. When it returns nothing more is forwarded, save by a write that was
// already stuck because its peer does not read.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	p.frozen = true
	p.changedLocked()
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.ctx, 200*time.Millisecond)
	defer cancel()
	_ = p.await(ctx, func() bool { return p.writing == 0 })
}

// Thaw ends Freeze and Stall: what was held back is forwarded.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = false
	for c := range p.conns {
		c.stalled = false
	}
	p.changedLocked()
}

// Refuse closes the listener, so that dialling is refused, or opens it again
// on the same port. Live connections are left alone.
func (p *Proxy) Refuse(refuse bool) error {
	p.mu.Lock()
	l, closed := p.listener, p.closed
	if refuse {
		p.listener = nil
	}
	p.mu.Unlock()
	switch {
	case closed:
		return fmt.Errorf("faultnet: %w", net.ErrClosed)
	case refuse && l != nil:
		return l.Close()
	case !refuse && l == nil:
		l, err := net.Listen("tcp4", p.Addr())
		if err != nil {
			return fmt.Errorf("faultnet: %w", err)
		}
		p.serve(l)
	}
	return nil
}

// SetLatency delays what is read from now on, in each direction. The order of
// the bytes stays, and delays overlap, as on a long wire.
func (p *Proxy) SetLatency(d time.Duration) {
	p.latency.Store(int64(d))
}
