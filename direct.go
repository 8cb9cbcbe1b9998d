package pgpooled

import (
	"encoding/binary"
	"log/slog"
	"net"
	"strconv"
	"strings"
)

// maxStartup bounds what is kept of a server's greeting.
const maxStartup = 16 << 10

// record keeps the server's greeting, to find out who greets. Under TLS it
// cannot be read.
func (w *wire) record(b []byte) {
	if w.startup == nil && len(b) > 0 && b[0] == 'S' || len(w.startup) > maxStartup {
		w.settled = true // TLS, or not a greeting
		return
	}
	w.startup = append(w.startup, b...)
}

// greeted notes who has greeted; the greeting is over.
func (w *wire) greeted() {
	w.greeter, w.named = backendPID(w.startup)
	w.startup, w.settled = nil, true
}

// backendPID finds the process in a greeting: what BackendKeyData says.
func backendPID(greeting []byte) (pid int32, ok bool) {
	if len(greeting) > 0 && greeting[0] == 'N' { // the answer to a request for TLS
		greeting = greeting[1:]
	}
	for len(greeting) >= 5 {
		kind, n := greeting[0], int(binary.BigEndian.Uint32(greeting[1:5]))
		if n < 4 || n >= len(greeting) {
			break
		}
		if kind == 'K' && n >= 8 {
			return int32(binary.BigEndian.Uint32(greeting[5:9])), true
		}
		greeting = greeting[1+n:]
	}
	return 0, false
}

const (
	askPID   = "SELECT pg_catalog.pg_backend_pid()::text"
	askPeers = "SELECT concat_ws(' ', pg_catalog.inet_client_port(), pg_catalog.inet_server_port(), " +
		"pg_catalog.host(pg_catalog.inet_client_addr()), pg_catalog.host(pg_catalog.inet_server_addr()))"
)

// prove finds out, with one round trip, whether this connection ends at the
// server process that runs its statements. It is asked outside transactions
// only: a refusal would end one.
func (i *interceptor) prove() error {
	k, w := i.cache, i.s.wire
	k.wanted, k.direct = false, notDirect
	if w == nil {
		return nil
	}
	question := askPeers
	if w.named {
		question = askPID
	}
	answer, err := i.guard.watchFrom(i.s.base, question)
	switch {
	case err != nil && i.connectionFailed(err):
		return err
	case err != nil:
	case w.named && answer == strconv.Itoa(int(w.greeter)), !w.named && samePeers(answer, w.LocalAddr(), w.RemoteAddr()):
		k.direct = isDirect
	case w.named && i.s.pool != nil:
		i.s.pool.notePooler()
	}
	return nil
}

// notePooler says once that somebody stands before the server. If it pools
// transactions, lib/pq's two messages for a call with arguments can meet two
// server processes, and another client's statement.
func (p *pool) notePooler() {
	p.pooler.Do(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.logLocked(slog.LevelWarn, "pgpooled: the server process at the other end is not the one that answers: there is a pooler; "+
			"if it pools transactions, set pgbouncer=true, or clients get each other's answers")
	})
}

// samePeers compares the ends of the server's connection with those of ours. A
// pooler has a port of its own towards the server, or an address; address
// translation may change one of the addresses.
func samePeers(answer string, local, remote net.Addr) bool {
	f := strings.Fields(answer)
	l, ok1 := local.(*net.TCPAddr)
	r, ok2 := remote.(*net.TCPAddr)
	return ok1 && ok2 && len(f) == 4 && f[0] == strconv.Itoa(l.Port) && f[1] == strconv.Itoa(r.Port) &&
		(l.IP.Equal(net.ParseIP(f[2])) || r.IP.Equal(net.ParseIP(f[3])))
}
