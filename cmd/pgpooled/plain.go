package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"net"
	"sync"
	"time"

	"github.com/lib/pq"
)

// plainPatience is how long an answer to plain lib/pq may take: lib/pq itself
// waits for ever, whatever the context says.
const plainPatience = callLimit

// openPlain opens a database with plain lib/pq, which judges pgpooled and must
// not hang where pgpooled does not. connectTimeout is for one connection, 0 = no
// limit.
func openPlain(dsn string, connectTimeout time.Duration) (*sql.DB, error) {
	if _, err := pq.NewConnector(dsn); err != nil {
		return nil, err
	}
	return sql.OpenDB(plainConnector{dsn, connectTimeout}), nil
}

type plainConnector struct {
	dsn     string
	timeout time.Duration
}

func (plainConnector) Driver() driver.Driver { return &pq.Driver{} }

// Connect gives up with its context: lib/pq looks at that no longer once it has
// dialled.
func (p plainConnector) Connect(ctx context.Context) (driver.Conn, error) {
	if p.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.timeout)
		defer cancel()
	}
	c, err := pq.NewConnector(p.dsn)
	if err != nil {
		return nil, err
	}
	d := &plainDialer{}
	c.Dialer(d)
	stop := context.AfterFunc(ctx, d.end)
	conn, err := c.Connect(ctx)
	if !stop() {
		if err == nil {
			_ = conn.Close()
		}
		return nil, ctx.Err()
	}
	d.settle()
	return conn, err
}

// plainDialer dials for one connection of lib/pq, and for the requests to cancel
// that follow.
type plainDialer struct {
	mu    sync.Mutex // guards the rest
	conns []net.Conn
	ended bool
	// settled: the connection stands, what is dialled now is to cancel.
	settled bool
}

func (d *plainDialer) settle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settled, d.conns = true, nil
}

// end breaks what was dialled.
func (d *plainDialer) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	for _, c := range d.conns {
		_ = c.Close()
	}
}

func (d *plainDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: plainPatience}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	if !d.settled {
		d.conns = append(d.conns, c)
	}
	return &patientConn{c}, nil
}

func (d *plainDialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d *plainDialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// patientConn bounds each read and write by plainPatience.
type patientConn struct{ net.Conn }

func (c *patientConn) Read(b []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(plainPatience))
	return c.Conn.Read(b)
}

func (c *patientConn) Write(b []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(plainPatience))
	return c.Conn.Write(b)
}
