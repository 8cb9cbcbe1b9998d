package main

import (
	"context"
	"database/sql"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// turns counts how often the direction of the bytes on a connection turned from
// the client's to the server's: each is a round trip.
type turns struct {
	n atomic.Int64
}

func (t *turns) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return t.wrap(c)
}

// wrap puts a relay on the way that sees both directions.
func (t *turns) wrap(server net.Conn) (net.Conn, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	client, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		return nil, err
	}
	relay, err := l.Accept()
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	asking := false // the last bytes were the client's
	pass := func(dst, src net.Conn, fromServer bool) {
		defer dst.Close()
		_, _ = io.Copy(dst, reader(func(p []byte) (int, error) {
			n, err := src.Read(p)
			mu.Lock()
			if n > 0 {
				if fromServer && asking {
					t.n.Add(1)
				}
				asking = !fromServer
			}
			mu.Unlock()
			return n, err
		}))
	}
	go pass(server, relay, false)
	go pass(relay, server, true)
	return client, nil
}

type reader func([]byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

// Dial and DialTimeout make it lib/pq's dialer too.
func (t *turns) Dial(network, address string) (net.Conn, error) {
	return t.DialContext(context.Background(), network, address)
}

func (t *turns) DialTimeout(network, address string, d time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return t.DialContext(ctx, network, address)
}

// roundTrips is the number per transaction, over a thousand on one connection
// that has seen some already.
func roundTrips(ctx context.Context, s *pgtest.Server, way string) (float64, error) {
	var (
		t   turns
		db  *sql.DB
		err error
	)
	if way == "lib/pq" {
		c, cerr := pq.NewConnector(s.DSN())
		if cerr != nil {
			return 0, cerr
		}
		c.Dialer(&t)
		db = sql.OpenDB(c)
		db.SetMaxOpenConns(1)
	} else {
		db, err = pgpooled.Open(s.DSN("commit_check", way, "max_open_conns", "1"), pgpooled.WithDialer(&t),
			pgpooled.WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			return 0, err
		}
	}
	defer db.Close()
	const warm, counted = 10, 1000
	for i := range warm + counted {
		if i == warm {
			t.n.Store(0)
		}
		if err := order(ctx, db); err != nil {
			return 0, err
		}
	}
	return float64(t.n.Load()) / counted, nil
}
