package pgpooled_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// stickyPooler does to a failover what a pooler does, PgBouncer for instance: a
// client's connection outlives its server's. When the pooler is turned to another
// server, each client gets a session there before its next message, and a new
// client is greeted with what the first server had said of itself.
type stickyPooler struct {
	l       net.Listener
	backend atomic.Pointer[pgtest.Server]
	wg      sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	greeting []byte     // from AuthenticationOk to ReadyForQuery
	open     map[net.Conn]struct{}
	closed   bool
}

func newStickyPooler(t *testing.T, s *pgtest.Server) *stickyPooler {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &stickyPooler{l: l, open: make(map[net.Conn]struct{})}
	p.backend.Store(s)
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(p.close)
	return p
}

func (p *stickyPooler) port() int { return p.l.Addr().(*net.TCPAddr).Port }

func (p *stickyPooler) close() {
	_ = p.l.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.open {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// keep has close end a connection; the function it returns does so earlier.
func (p *stickyPooler) keep(c net.Conn) (drop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[c] = struct{}{}
	if p.closed {
		_ = c.Close()
	}
	return func() {
		_ = c.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, c)
	}
}

// serve reads the client's messages; each server connection has a goroutine that
// copies the answers.
func (p *stickyPooler) serve(client net.Conn) {
	defer p.keep(client)()
	in := bufio.NewReader(client)
	startup, err := message(in, 0)
	if err != nil {
		return
	}
	var (
		on     *pgtest.Server
		server net.Conn
		drop   = func() {}
	)
	defer func() { drop() }()
	for first := true; ; first = false {
		var msg []byte
		if !first {
			if msg, err = message(in, 1); err != nil {
				return
			}
		}
		if to := p.backend.Load(); to != on {
			drop()
			if server, err = net.Dial("tcp", to.Addr()); err != nil {
				return
			}
			on, drop = to, p.keep(server)
			answers := bufio.NewReader(server)
			greeting, err := greet(server, answers, startup)
			if err != nil {
				return
			}
			if first {
				_, _ = client.Write(p.firstGreeting(greeting))
			}
			p.wg.Go(func() { _, _ = io.Copy(client, answers) })
		}
		if _, err := server.Write(msg); err != nil {
			return
		}
	}
}

func (p *stickyPooler) firstGreeting(own []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.greeting == nil {
		p.greeting = own
	}
	return p.greeting
}

func greet(server net.Conn, answers *bufio.Reader, startup []byte) (all []byte, err error) {
	if _, err := server.Write(startup); err != nil {
		return nil, err
	}
	for {
		m, err := message(answers, 1)
		if err != nil {
			return nil, err
		}
		if all = append(all, m...); m[0] == 'Z' {
			return all, nil
		}
	}
}

// message reads one message; the first one of a connection has no type.
func message(r *bufio.Reader, typeLen int) ([]byte, error) {
	head := make([]byte, typeLen+4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[typeLen:])-4)
	_, err := io.ReadFull(r, body)
	return append(head, body...), err
}
