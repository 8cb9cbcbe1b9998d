package main

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

// step is one step of connecting.
type step struct {
	Name   string  `json:"name"` // dns, tcp, tls, authentication, first answer
	OK     bool    `json:"ok"`
	Millis float64 `json:"ms"`
	Detail string  `json:"detail,omitempty"`
}

// openForCheck opens the database as the DSN says, except that nothing is
// repeated or kept in the background: the first failure is the answer.
func openForCheck(cfg *pgpooled.Config, t *tracer) (*sql.DB, error) {
	c := cfg.Clone()
	c.RetryMode, c.CommitCheck = pgpooled.RetryOff, pgpooled.CommitCheckOff
	c.MinIdleConns, c.StatementCacheCapacity, c.PoolName, c.LeakDetectionThreshold = 0, 0, "", 0
	c.CloseTimeout = 0
	c.PoolTimeout = 0 // --timeout ends it
	if c.PQ.ApplicationName == "" {
		c.PQ.ApplicationName = "pgpooled_check"
	}
	opts := []pgpooled.Option{pgpooled.WithLogger(slog.New(slog.DiscardHandler))}
	if t != nil {
		opts = append(opts, pgpooled.WithDialer(t))
	}
	connector, err := pgpooled.NewConnectorConfig(c, opts...)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// tracer dials and notes when each step was through. The last dial is the one
// that lib/pq goes on with.
type tracer struct {
	mu    sync.Mutex // guards dials
	dials []*dialTrace
}

type dialTrace struct {
	network, address string
	host             string
	ips              []string
	dns, tcp         time.Duration
	err              error
	dnsFailed        bool
	conn             *tracedConn // nil if the dial failed
}

func (t *tracer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d := &dialTrace{network: network, address: address}
	t.mu.Lock()
	t.dials = append(t.dials, d)
	t.mu.Unlock()
	c, err := d.dial(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if d.err = err; err != nil {
		return nil, err
	}
	d.conn = &tracedConn{Conn: c}
	return d.conn, nil
}

// dial resolves the name by itself, to time that, and tries the addresses in
// order.
func (d *dialTrace) dial(ctx context.Context) (net.Conn, error) {
	dialer := &net.Dialer{KeepAlive: -1} // pgpooled sets keepalives
	began := time.Now()
	host, port, err := net.SplitHostPort(d.address)
	if strings.HasPrefix(d.network, "unix") || err != nil {
		c, err := dialer.DialContext(ctx, d.network, d.address)
		d.tcp = time.Since(began)
		return c, err
	}
	d.host, d.ips = host, []string{host}
	if net.ParseIP(host) == nil {
		d.ips, err = net.DefaultResolver.LookupHost(ctx, host)
		d.dns = time.Since(began)
		if err != nil {
			d.dnsFailed = true
			return nil, err
		}
	}
	began = time.Now()
	for _, ip := range d.ips {
		var c net.Conn
		if c, err = dialer.DialContext(ctx, d.network, net.JoinHostPort(ip, port)); err == nil {
			d.tcp, d.address = time.Since(began), net.JoinHostPort(ip, port)
			return c, nil
		}
	}
	d.tcp = time.Since(began)
	return nil, err
}

// tracedConn notes when TLS begins and when authentication does.
type tracedConn struct {
	net.Conn

	mu      sync.Mutex // guards the rest
	tls     time.Time  // SSLRequest, or the ClientHello, was sent
	refused bool       // the server has no TLS
	asked   bool       // the next byte is the answer to SSLRequest
	startup time.Time  // the startup packet was sent, in the clear or inside TLS
}

// NetConn lets pgpooled reach the socket.
func (c *tracedConn) NetConn() net.Conn { return c.Conn }

const (
	sslRequestCode    = 80877103 // libpq's NEGOTIATE_SSL_CODE
	recordHandshake   = 22       // types of TLS records
	recordApplication = 23
)

// Write looks at how a write begins: in TLS the client's last words of a handshake
// leave as a handshake or change-cipher-spec record, in TLS 1.3 too, and what
// follows as application data.
func (c *tracedConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.startup.IsZero() && len(b) > 0 {
		encrypted := !c.tls.IsZero() && !c.refused
		switch {
		case len(b) == 8 && binary.BigEndian.Uint32(b[4:]) == sslRequestCode:
			c.tls, c.asked = time.Now(), true
		case c.tls.IsZero() && b[0] == recordHandshake: // sslnegotiation=direct
			c.tls = time.Now()
		case !encrypted || b[0] == recordApplication:
			c.startup = time.Now()
		}
	}
	c.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *tracedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	if c.asked && n > 0 {
		c.asked, c.refused = false, b[0] != 'S'
	}
	c.mu.Unlock()
	return n, err
}

func (c *tracedConn) marks() (tls, startup time.Time, refused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tls, c.startup, c.refused
}

func (t *tracer) last() *dialTrace {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.dials) == 0 {
		return nil
	}
	return t.dials[len(t.dials)-1]
}

// encrypted says whether the last connection came to TLS.
func (t *tracer) encrypted() bool {
	d := t.last()
	if d == nil || d.conn == nil {
		return false
	}
	tls, _, refused := d.conn.marks()
	return !tls.IsZero() && !refused
}

// steps tells how far connecting came. failure belongs to the last step.
func (t *tracer) steps(began, connected, answered time.Time, failure error) []step {
	steps := []step{}
	add := func(name string, took time.Duration, detail string) {
		steps = append(steps, step{name, true, milliseconds(took), detail})
	}
	defer func() {
		if n := len(steps); failure != nil && n > 0 {
			steps[n-1].OK = false
		}
	}()
	t.mu.Lock()
	for _, d := range t.dials[:max(len(t.dials)-1, 0)] {
		if d.err != nil {
			steps = append(steps, step{"other host", false, milliseconds(d.dns + d.tcp), printable(d.address) + ": " + pgpooled.HealthReason(d.err)})
		}
	}
	t.mu.Unlock()
	d := t.last()
	if d == nil { // something before the network, a file for instance
		add("set-up", connected.Sub(began), "")
		return steps
	}
	if d.dns > 0 || d.dnsFailed {
		add("dns", d.dns, printable(d.host)+" is "+strings.Join(d.ips, ", "))
		if d.dnsFailed {
			steps[len(steps)-1].Detail = printable(d.host)
			return steps
		}
	}
	name := "tcp"
	if strings.HasPrefix(d.network, "unix") {
		name = "socket"
	}
	add(name, d.tcp, printable(d.address))
	if d.conn == nil {
		return steps
	}
	tls, startup, refused := d.conn.marks()
	end := connected
	if startup.IsZero() {
		startup = end
	}
	if !tls.IsZero() && !refused {
		add("tls", startup.Sub(tls), "")
	} else if refused {
		add("tls", 0, "the server has none")
	}
	if startup.Equal(end) || failure != nil && pgpooled.HealthReason(failure) == "tls" {
		return steps // an alert inside TLS is all that was sent
	}
	add("authentication", end.Sub(startup), "")
	if answered.After(connected) {
		add("first answer", answered.Sub(connected), "")
	}
	return steps
}

func failedStep(steps []step) string {
	for _, s := range steps {
		if !s.OK && s.Name != "other host" {
			return s.Name
		}
	}
	return "set-up"
}

// explainFailure says what to do about a connection that failed.
func explainFailure(err error, at string, cfg *pgpooled.Config) *connectFail {
	f := &connectFail{Step: at, Reason: pgpooled.HealthReason(err), Message: printable(err.Error())}
	var answer *pq.Error
	code := ""
	if errors.As(err, &answer) {
		code = string(answer.Code)
	}
	where := net.JoinHostPort(cfg.PQ.Host, fmt.Sprint(cfg.PQ.Port))
	switch {
	case code == "28P01":
		f.Remedy = "The password or the role is wrong. In a URL the password has to be percent-encoded; PGPASSWORD takes it as it is."
	case code == "28000":
		f.Remedy = "pg_hba.conf has no entry for this role, database, address and sslmode, or the role may not log in."
	case code == "3D000":
		f.Remedy = "There is no such database on this server: check dbname, the path of the URL."
	case code == "42501":
		f.Remedy = "The role lacks CONNECT on the database: GRANT CONNECT ON DATABASE ... TO ..."
	case f.Reason == "full":
		f.Remedy = "All connections of the server, the role or the database are taken: see who has them with a reserved (superuser's) connection, lower max_open_conns of the programs, or put a pooler before the server."
	case f.Reason == "starting_up":
		f.Remedy = "The server starts up, shuts down or recovers: try again in a moment."
	case f.Reason == "refused":
		f.Remedy = "Nobody listens at " + printable(where) + ": is the server started, and is the port right? PostgreSQL has 5432, poolers often 6432 or 6543."
	case f.Reason == "dns":
		f.Remedy = "The host's name is not known here: check the spelling, and that this machine may resolve it."
	case errors.Is(err, pq.ErrSSLNotSupported):
		f.Remedy = "The server has no TLS. Switch it on there, or say sslmode=disable if nobody can listen on the way."
	case f.Reason == "tls":
		f.Remedy = "TLS failed: the certificate must be valid, and with sslmode=verify-full name the host and be signed by a CA of sslrootcert (or by one of the system's with sslrootcert=system). A server without TLS needs sslmode=disable."
	case f.Reason == "timeout" && at == "tcp":
		f.Remedy = "No answer: a firewall or security group drops the packets, the address is wrong, or a database that sleeps takes longer to wake than connect_timeout (" + brief(cfg.ConnectTimeout) + ")."
	case f.Reason == "timeout":
		f.Remedy = "Something accepts the connection but does not answer in time: a hung server, a pooler whose server is away, or not PostgreSQL. connect_timeout is " + brief(cfg.ConnectTimeout) + "."
	case f.Reason == "lost":
		f.Remedy = "The other end closed the connection: not PostgreSQL at this port, a proxy without a server behind it, or sslnegotiation=direct against a server before 17."
	default:
		f.Remedy = "The message above is the server's or the system's own."
	}
	return f
}
