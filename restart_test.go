package pgpooled_test

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/cutmatrix"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// Twenty callers on ten connections read and write without a pause while the
// server is restarted in every way there is: once each, three times for good
// measure, ten times with PGPOOLED_TEST_LONG=1.
func TestRestartsUnderTwentyCallersLoseNothingAndDoNothingTwice(t *testing.T) {
	t.Parallel()
	rounds := 3
	if long {
		rounds = 10
	}
	for _, tls := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "TLS"}[tls], func(t *testing.T) {
			t.Parallel()
			s := pgtest.StartT(t, pgtest.Options{TLS: true})
			for round := range rounds {
				r, err := cutmatrix.Restarts(testContext(t), s, pooled, tls, cutmatrix.RestartModes)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range r.Faults {
					t.Error(f)
				}
				if r.ReadsFailed+r.ReadsShort+r.Lost+r.Doubled+r.Lied+r.FailedDone > 0 {
					t.Errorf("round %d: %+v", round, r)
				}
				if most := r.Restarts * cutmatrix.Connections; r.Unknown > most {
					t.Errorf("round %d: %d unknown outcomes, more than one per connection and restart (%d)", round, r.Unknown, most)
				}
				// An INSERT is either not sent, and repeated, or unknown.
				if r.WritesFailed > 0 {
					t.Errorf("round %d: %d writes failed that could have been repeated", round, r.WritesFailed)
				}
				t.Logf("round %d: %d restarts, %d reads (%d broke off half way), %d writes (%d unknown)",
					round, r.Restarts, r.Reads, r.ReadsPartial, r.Writes, r.Unknown)
			}
		})
	}
}

// dying is a server whose postmaster was killed while it waited for the client's
// first message: it answers with an error where the answer to SSLRequest (S or
// N) should be. lib/pq takes any byte but S for "SSL is not enabled".
type dying struct {
	left   atomic.Int64
	silent bool // it closes without an answer
}

func (d *dying) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil || d.left.Add(-1) < 0 {
		return c, err
	}
	if d.silent {
		return &dyingConn{Conn: c}, nil
	}
	return &dyingConn{Conn: c, answer: "E\x00\x00\x00\x1aSFATAL\x00C57P01\x00Mbye\x00\x00"}, nil
}

type dyingConn struct {
	net.Conn
	answer string
}

func (c *dyingConn) Read(p []byte) (int, error) {
	if c.answer == "" {
		return 0, io.EOF
	}
	n := copy(p, c.answer)
	c.answer = c.answer[n:]
	return n, nil
}

func TestRestartsThatMeetSSLRequestWithAnErrorArePassing(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"require", "prefer"} {
		for _, silent := range []bool{false, true} {
			d, name := &dying{silent: silent}, app()
			d.left.Store(1)
			db, err := pgpooled.Open(server.DSN("application_name", name, "sslmode", mode, "pool_timeout", "10s"), quiet, pgpooled.WithDialer(d))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closeAndCount(t, server, db, name) })
			// lib/pq by itself takes "prefer" for leave to go on in the clear.
			if n := queryInt(t, db, "select ssl::int from pg_stat_ssl where pid = pg_backend_pid()"); n != 1 {
				t.Errorf("%s, silent %t: without TLS", mode, silent)
			}
		}
	}
}
