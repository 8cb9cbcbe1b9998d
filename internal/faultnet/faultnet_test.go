//go:build linux || darwin || freebsd

package faultnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// rig is a server that the test plays itself, and a proxy in front of it.
type rig struct {
	t *testing.T
	l net.Listener
	p *Proxy
}

func newRig(t *testing.T) *rig {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p, err := New(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return &rig{t: t, l: l, p: p}
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r.t.Cleanup(cancel)
	return ctx
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) dial() net.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp4", r.p.Addr())
	r.must(err)
	r.t.Cleanup(func() { c.Close() })
	r.must(c.SetDeadline(time.Now().Add(patience)))
	return c
}

func (r *rig) accept() net.Conn {
	r.t.Helper()
	c, err := r.l.Accept()
	r.must(err)
	r.t.Cleanup(func() { c.Close() })
	r.must(c.SetDeadline(time.Now().Add(patience)))
	return c
}

func (r *rig) pair() (client, server net.Conn) {
	r.t.Helper()
	client = r.dial()
	return client, r.accept()
}

func (r *rig) send(c net.Conn, s string) {
	r.t.Helper()
	_, err := c.Write([]byte(s))
	r.must(err)
}

func (r *rig) expect(c net.Conn, want string) {
	r.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if err != nil || string(got) != want {
		r.t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

// expectEnd reads want and then the end: FIN if end is nil.
func (r *rig) expectEnd(c net.Conn, want string, end error) {
	r.t.Helper()
	got, err := io.ReadAll(c)
	if string(got) != want || !errors.Is(err, end) {
		r.t.Fatalf("read %q, %v; want %q, %v", got, err, want, end)
	}
}

// expectSilence is the one place that waits in vain.
func (r *rig) expectSilence(c net.Conn) {
	r.t.Helper()
	r.must(c.SetReadDeadline(time.Now().Add(30 * time.Millisecond)))
	n, err := c.Read(make([]byte, 1))
	if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		r.t.Fatalf("not silent: %d bytes, %v", n, err)
	}
	r.must(c.SetReadDeadline(time.Now().Add(patience)))
}

func TestForwardsBothWaysAndPassesEndsOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, s := r.pair()
	big := bytes.Repeat([]byte("0123456789"), 200_000)
	go c.Write(big)
	got := make([]byte, len(big))
	if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, big) {
		t.Fatal("bytes were lost", err)
	}
	r.must(c.(*net.TCPConn).CloseWrite())
	r.expectEnd(s, "", nil)
	r.send(s, "bye")
	r.must(s.Close())
	r.expectEnd(c, "bye", nil)
	r.must(r.p.AwaitConns(r.ctx(), 0))
	if up, down := r.p.Bytes(ToServer), r.p.Bytes(ToClient); up != len(big) || down != 3 || r.p.Dials() != 1 {
		t.Fatalf("counted %d up, %d down, %d dials", up, down, r.p.Dials())
	}
}

func TestCutHappensAtExactlyThatByte(t *testing.T) {
	t.Parallel()
	const up, down = "statement", "answer"
	for _, action := range []Action{CutBoth, ResetBoth, CutClient, ResetClient} {
		for n := 0; n <= len(down); n++ {
			t.Run(fmt.Sprintf("action %d to client at %d", action, n), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				c, s := r.pair()
				r.send(c, "before")
				r.expect(s, "before")
				r.send(s, "hello")
				r.expect(c, "hello")
				if armed := r.p.Arm(ToClient, n, action); armed != 1 {
					t.Fatalf("armed %d", armed)
				}
				r.send(c, up)
				r.expect(s, up)
				r.send(s, down)
				if action == CutBoth || action == CutClient {
					r.expectEnd(c, down[:n], nil)
				} else {
					r.expectEnd(c, down[:n], syscall.ECONNRESET)
				}
				if action == ResetBoth {
					r.expectEnd(s, "", syscall.ECONNRESET)
				} else {
					r.expectEnd(s, "", nil)
				}
				r.must(r.p.AwaitFired(r.ctx(), 1))
				if r.p.Conns() != 0 {
					t.Fatal("still live")
				}
			})
		}
		for n := 0; n <= len(up); n++ {
			t.Run(fmt.Sprintf("action %d to server at %d", action, n), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				r.p.SetScript(func(i int) Script { return Script{{Dir: ToServer, After: n, Do: action}} })
				c, s := r.pair()
				r.send(c, up)
				switch action {
				case CutBoth, CutClient:
					r.expectEnd(s, up[:n], nil)
					r.expectEnd(c, "", nil)
				case ResetClient:
					r.expectEnd(s, up[:n], nil)
					r.expectEnd(c, "", syscall.ECONNRESET)
				default:
					r.expectEnd(s, up[:n], syscall.ECONNRESET)
					r.expectEnd(c, "", syscall.ECONNRESET)
				}
			})
		}
	}
}

func TestCutClientLetsTheServerFinish(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, s := r.pair()
	r.p.Arm(ToServer, 9, CutClient)
	r.send(c, "statement")
	r.expectEnd(c, "", nil)
	r.expectEnd(s, "statement", nil)
	for range 100 { // the answer is taken, though nobody reads it
		r.send(s, string(make([]byte, 64<<10)))
	}
	r.must(s.Close())
	if got := r.p.Bytes(ToClient); got != 0 {
		t.Fatalf("%d bytes reached the client", got)
	}
}

func TestAnswerNeverSlipsThroughACutAfterTheStatement(t *testing.T) {
	t.Parallel()
	for range 200 {
		r := newRig(t)
		c, s := r.pair()
		echoed := make(chan struct{})
		go func() { defer close(echoed); _, _ = io.Copy(s, s) }()
		r.p.Arm(ToServer, 4, CutClient)
		r.send(c, "stmt")
		r.expectEnd(c, "", nil)
		<-echoed
		r.must(s.Close())
		r.must(r.p.Close())
	}
}

func TestCutServerLeavesTheClientInSilence(t *testing.T) {
	t.Parallel()
	for action, end := range map[Action]error{CutServer: nil, ResetServer: syscall.ECONNRESET} {
		r := newRig(t)
		c, s := r.pair()
		r.p.Cut(action)
		r.expectEnd(s, "", end)
		r.send(c, "anybody?")
		r.expectSilence(c)
	}
}

func TestCutAllEndsIdleAndFrozenConnections(t *testing.T) {
	t.Parallel()
	for rst, end := range map[bool]error{false: nil, true: syscall.ECONNRESET} {
		for _, frozen := range []bool{false, true} {
			r := newRig(t)
			c1, s1 := r.pair()
			c2, s2 := r.pair()
			if r.p.Conns() != 2 {
				t.Fatalf("%d connections", r.p.Conns())
			}
			if frozen {
				r.p.Freeze()
				r.send(c1, "held back")
			}
			r.p.CutAll(rst)
			if r.p.Conns() != 0 {
				t.Fatalf("%d connections after the cut", r.p.Conns())
			}
			for _, c := range []net.Conn{c1, s1, c2, s2} {
				r.expectEnd(c, "", end)
			}
			r.p.Thaw()
			c3, s3 := r.pair()
			r.send(c3, "new")
			r.expect(s3, "new")
		}
	}
}
