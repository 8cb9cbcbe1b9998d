package pgpooledtest

import (
	"strconv"

	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// Proxy is a network in front of a server that breaks when it is told to:
//
//	p := s.Proxy(t)
//	db, err := sql.Open("pgpooled", s.Database(t, p.Via()...))
//
// Its methods may be called at any time from any goroutine. What they do happens
// to connections, not to calls: open one first, with db.Ping.
type Proxy struct {
	p *faultnet.Proxy
}

// Proxy puts a proxy on a free port of 127.0.0.1 in front of the server. It is
// closed, with its connections, at the end of the test.
func (s *Server) Proxy(t TB) *Proxy {
	t.Helper()
	p, err := faultnet.New(s.s.Addr())
	if err != nil {
		t.Fatalf("pgpooledtest: proxy: %v", err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return &Proxy{p: p}
}

// Via is the proxy's host and port as pairs for DSN, URL and Database, with kv
// after them.
func (p *Proxy) Via(kv ...string) []string {
	return append([]string{"host", p.p.Host(), "port", strconv.Itoa(p.p.Port())}, kv...)
}

// Addr is host:port.
func (p *Proxy) Addr() string { return p.p.Addr() }

// Cut ends every open connection, on both sides. New ones are accepted.
func (p *Proxy) Cut() { p.p.CutAll(false) }

// LoseMessage ends each open connection, on both sides, when something is sent on
// it, which does not arrive: the server does nothing.
func (p *Proxy) LoseMessage() { p.p.Arm(faultnet.ToServer, 0, faultnet.CutBoth) }

// LoseAnswer lets what is sent next on each open connection arrive. The server does
// it; instead of its answer the client sees the end of the connection.
func (p *Proxy) LoseAnswer() { p.p.Arm(faultnet.ToClient, 0, faultnet.CutClient) }

// Silence stops forwarding without a sign of it, as a cable that is pulled: new
// connections are accepted and stay silent too.
func (p *Proxy) Silence() { p.p.Freeze() }

// Restore ends Silence, forwards what was held back, and takes back LoseMessage
// and LoseAnswer where they have not happened.
func (p *Proxy) Restore() {
	p.p.Disarm()
	p.p.Thaw()
}
