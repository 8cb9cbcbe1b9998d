package faultnet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"time"
)

const (
	// linger bounds how long a side that was cut with FIN is read to its end:
	// closing a socket with unread input would turn the FIN into an RST.
	linger = 30 * time.Second

	// brief is the same for a server that lost its client (CutBoth). After it
	// the server's answers are met with RST, as by a client that is gone.
	brief = 100 * time.Millisecond

	dialLimit = 10 * time.Second
)

// conn is a client's connection and, once dialled, the server's that belongs
// to it. In each direction one goroutine reads and one writes; the queue
// between them is what makes a delay without a lower throughput.
type conn struct {
	p      *Proxy
	index  int
	client *net.TCPConn
	halt   chan struct{} // closed when over: nothing more is forwarded

	// guarded by p.mu
	server  *net.TCPConn // nil until dialled
	over    bool
	why     Action // what ended it, 0 if no action did
	stalled bool
	faults  []Fault // After counts from the connection's first byte
	sent    [2]int
	ended   [2]bool // the end of the stream was forwarded
}

// item is a piece of a stream, or its end.
type item struct {
	data []byte
	err  error
	due  time.Time
}

func newConn(p *Proxy, index int, client *net.TCPConn) *conn {
	return &conn{p: p, index: index, client: client, halt: make(chan struct{})}
}

// run forwards until both directions are through and returns with both
// sockets closed.
func (c *conn) run() {
	defer c.client.Close()
	queue := make(chan item, 256)
	upDone := make(chan struct{})
	go func() {
		defer close(upDone)
		c.read(c.client, queue)
	}()
	defer func() {
		for range queue { // lets the reader go on to the end
		}
		<-upDone
	}()

	if !c.pass(func() {}) {
		return
	}
	dialer := net.Dialer{Timeout: dialLimit}
	c.p.mu.Lock()
	target := c.p.target
	c.p.mu.Unlock()
	nc, err := dialer.DialContext(c.p.ctx, "tcp", target)
	if err != nil {
		c.p.mu.Lock()
		c.overLocked()
		c.p.mu.Unlock()
		reset(c.client)
		return
	}
	server := nc.(*net.TCPConn)
	defer server.Close()
	c.p.mu.Lock()
	over, why := c.over, c.why
	c.server = server
	c.p.mu.Unlock()
	if over { // during the dial
		c.act(why)
		return
	}

	down := make(chan item, 256)
	done := make(chan struct{}, 3)
	go func() { c.read(server, down); done <- struct{}{} }()
	go func() { c.write(ToServer, queue, c.client, server); done <- struct{}{} }()
	go func() { c.write(ToClient, down, server, c.client); done <- struct{}{} }()
	for range 3 {
		<-done
	}
}

// read queues what comes until the end. When the connection is over it reads
// on and throws away.
func (c *conn) read(src *net.TCPConn, queue chan<- item) {
	defer close(queue)
	push := func(it item) {
		it.due = time.Now().Add(time.Duration(c.p.latency.Load()))
		select {
		case queue <- it:
		case <-c.halt:
		}
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			push(item{data: bytes.Clone(buf[:n])})
		}
		if err != nil {
			push(item{err: err})
			select {
			case <-c.halt:
				_ = src.Close()
			default:
			}
			return
		}
	}
}

// write forwards what is queued and does the faults of its direction.
func (c *conn) write(dir Direction, queue <-chan item, src, dst *net.TCPConn) {
	defer func() {
		for range queue { // lets the reader go on to the end
		}
	}()
	for it := range queue {
		if !c.until(it.due) {
			return
		}
		if it.err != nil {
			c.forwardEnd(dir, it.err, src, dst)
			return
		}
		for len(it.data) > 0 {
			n, action, ok := c.enter(dir, len(it.data))
			if !ok {
				return
			}
			var err error
			if n > 0 {
				_, err = dst.Write(it.data[:n])
				it.data = it.data[n:]
			}
			c.leave(dir, n, action)
			c.act(action)
			if err != nil {
				c.writeFailed(dir, src)
				return
			}
			if action != 0 && action != Stall {
				return
			}
		}
	}
}

// until waits for the time at which a piece is due; false if over before.
func (c *conn) until(due time.Time) bool {
	d := time.Until(due)
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.halt:
		return false
	}
}

// pass waits until forwarding is allowed and calls then with p.mu held; false
// if the connection is over.
func (c *conn) pass(then func()) bool {
	for {
		c.p.mu.Lock()
		if c.over {
			c.p.mu.Unlock()
			return false
		}
		if !c.p.frozen && !c.stalled {
			then()
			c.p.mu.Unlock()
			return true
		}
		ch := c.p.changed
		c.p.mu.Unlock()
		select {
		case <-ch:
		case <-c.halt:
		}
	}
}

// enter says how many of the next most bytes may be forwarded, and what happens
// after them. Its mark is made before they are written: the answer to the last
// of them must not slip through. leave has to follow.
func (c *conn) enter(dir Direction, most int) (n int, action Action, ok bool) {
	ok = c.pass(func() {
		c.p.writing++
		n = most
		hit := -1
		for i, f := range c.faults {
			if left := f.After - c.sent[dir]; f.Dir == dir && left <= n && (hit < 0 || left < n) {
				hit, n = i, left
			}
		}
		c.sent[dir] += n
		if hit < 0 {
			return
		}
		action = c.faults[hit].Do
		c.faults = slices.Delete(c.faults, hit, hit+1)
		c.markLocked(action)
	})
	return n, action, ok
}

// leave counts what enter allowed, before the peers can see a cut: so that who
// saw it finds it counted.
func (c *conn) leave(dir Direction, n int, action Action) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.p.writing--
	c.p.bytes[dir] += n
	if action != 0 {
		c.p.fired++
	}
	c.p.changedLocked()
}

// forwardEnd passes FIN on as FIN, and a reset as a reset.
func (c *conn) forwardEnd(dir Direction, err error, src, dst *net.TCPConn) {
	fin := errors.Is(err, io.EOF)
	ok := c.pass(func() {
		c.ended[dir] = true
		if !fin {
			c.overLocked()
		}
	})
	switch {
	case !ok:
	case fin:
		_ = dst.CloseWrite()
	default:
		reset(dst)
		_ = src.Close()
	}
}

// writeFailed is called when the peer that dir leads to is gone. If it said so
// before, the sender now gets the reset that it would have got from the peer;
// else the other direction's reader finds out and tells.
func (c *conn) writeFailed(dir Direction, src *net.TCPConn) {
	c.p.mu.Lock()
	told := c.ended[1-dir] && !c.over
	if told {
		c.overLocked()
	}
	c.p.mu.Unlock()
	if told {
		reset(src)
	}
}

// markLocked makes action bind the forwarding; act follows.
func (c *conn) markLocked(action Action) {
	if action == Stall {
		c.stalled = true
		return
	}
	c.why = action
	c.overLocked()
}

func (c *conn) overLocked() {
	if !c.over {
		c.over = true
		close(c.halt)
		c.p.changedLocked()
	}
}

// do is an action that does not wait for a byte.
func (c *conn) do(action Action) {
	c.p.mu.Lock()
	if c.over {
		c.p.mu.Unlock()
		return
	}
	c.markLocked(action)
	c.p.mu.Unlock()
	c.act(action)
}

// act does to the sockets what action says, if anything. The connection is
// marked already.
func (c *conn) act(action Action) {
	c.p.mu.Lock()
	server := c.server
	c.p.mu.Unlock()
	switch action {
	case CutBoth:
		finish(c.client, linger)
		finish(server, brief)
	case ResetBoth:
		reset(c.client)
		reset(server)
	case CutClient:
		finish(c.client, linger)
		finish(server, linger)
	case ResetClient:
		reset(c.client)
		finish(server, linger)
	case CutServer:
		finish(server, brief)
	case ResetServer:
		reset(server)
	}
}

// finish sends FIN; the reader reads on until the peer closes too, or for at
// most d.
func finish(c *net.TCPConn, d time.Duration) {
	if c != nil {
		_ = c.CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(d))
	}
}

// reset closes with RST.
func reset(c *net.TCPConn) {
	if c != nil {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}

// end closes both sockets: the proxy is closing.
func (c *conn) end() {
	c.p.mu.Lock()
	c.overLocked()
	server := c.server
	c.p.mu.Unlock()
	_ = c.client.Close()
	if server != nil {
		_ = server.Close()
	}
}

// arm adds a fault, counted from now; false if the connection is over.
func (c *conn) arm(f Fault) bool {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.over {
		return false
	}
	f.After = max(f.After, 0) + c.sent[f.Dir]
	c.faults = append(c.faults, f)
	return true
}

func (c *conn) disarm() {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.faults = nil
}
