//go:build linux || darwin || freebsd

package faultnet

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

func TestFrozenProxyIsSilentAndThawForwardsWhatWasHeldBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, s := r.pair()
	r.p.Freeze()
	r.send(c, "up")
	r.send(s, "down")
	r.must(s.(*net.TCPConn).CloseWrite())
	late := r.dial()
	r.must(r.p.AwaitDials(r.ctx(), 2))
	r.send(late, "late")
	r.expectSilence(c)
	r.expectSilence(s)
	r.expectSilence(late)
	if r.p.Bytes(ToServer)+r.p.Bytes(ToClient) != 0 {
		t.Fatal("something was forwarded")
	}
	r.p.Thaw()
	r.expect(s, "up")
	r.expectEnd(c, "down", nil)
	r.expect(r.accept(), "late")
}

func TestStallHoldsOneConnectionAtThatByte(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, s := r.pair()
	r.p.Arm(ToServer, 3, Stall)
	other, otherServer := r.pair()
	r.send(c, "123456")
	r.expect(s, "123")
	r.must(r.p.AwaitFired(r.ctx(), 1))
	r.send(s, "x")
	r.expectSilence(s)
	r.expectSilence(c)
	r.send(other, "free")
	r.expect(otherServer, "free")
	r.p.Thaw()
	r.expect(s, "456")
	r.expect(c, "x")
}

func TestFaultsOfOneConnectionHappenInTheOrderOfTheirBytes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.p.SetScript(func(i int) Script {
		if i != 1 {
			return nil
		}
		return Script{{ToServer, 4, CutBoth}, {ToServer, 2, Stall}}
	})
	c, s := r.pair()
	r.send(c, "untouched")
	r.expect(s, "untouched")
	c, s = r.pair()
	r.send(c, "123456")
	r.expect(s, "12")
	r.must(r.p.AwaitFired(r.ctx(), 1))
	r.p.Thaw()
	r.expectEnd(s, "34", nil)
	r.expectEnd(c, "", nil)
	if r.p.Fired() != 2 {
		t.Fatalf("%d faults", r.p.Fired())
	}
}

func TestDisarmedFaultDoesNotHappen(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, s := r.pair()
	r.p.Arm(ToServer, 1, CutBoth)
	r.p.Disarm()
	r.send(c, "123")
	r.expect(s, "123")
}

func TestRefuseClosesAndReopensTheSamePort(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, s := r.pair()
	for range 3 {
		r.must(r.p.Refuse(true))
		r.must(r.p.Refuse(true))
		if _, err := net.Dial("tcp4", r.p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dial: %v", err)
		}
		r.send(c, "still here")
		r.expect(s, "still here")
		r.must(r.p.Refuse(false))
		r.must(r.p.Refuse(false))
		c2, s2 := r.pair()
		r.send(c2, "back")
		r.expect(s2, "back")
	}
	r.must(r.p.Close())
	if err := r.p.Refuse(false); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("after Close: %v", err)
	}
	if r.p.Addr() != net.JoinHostPort(r.p.Host(), strconv.Itoa(r.p.Port())) {
		t.Fatal(r.p.Addr())
	}
}

func TestDeadServerIsSeenAsAReset(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, s := r.pair()
	reset(s.(*net.TCPConn))
	r.expectEnd(c, "", syscall.ECONNRESET)

	// A server that closed: the client reads the end, and what it writes then
	// is answered by a reset.
	c, s = r.pair()
	r.must(s.Close())
	r.expectEnd(c, "", nil)
	deadline := time.Now().Add(patience)
	for {
		if _, err := c.Write([]byte("x")); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("writes to a dead server go on working")
		}
	}

	r.must(r.l.Close())
	late, err := net.Dial("tcp4", r.p.Addr())
	if err == nil { // else the reset was quicker than Dial
		defer late.Close()
		_, err = late.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("no server behind the proxy: %v", err)
	}
	r.must(r.p.AwaitConns(r.ctx(), 0))
}

func TestTargetCanBeChanged(t *testing.T) {
	t.Parallel()
	a, b := newRig(t), newRig(t)
	a.p.SetTarget(b.l.Addr().String())
	a.send(a.dial(), "moved")
	a.expect(b.accept(), "moved")
}

func TestLatencyDelaysEachWayWithoutHoldingBackTheNext(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, s := r.pair()
	const d = 40 * time.Millisecond
	r.p.SetLatency(d)
	start := time.Now()
	r.send(c, "ping")
	r.expect(s, "ping")
	r.send(s, "pong")
	r.expect(c, "pong")
	if took := time.Since(start); took < 2*d {
		t.Fatalf("a round trip took %s", took)
	}
	start = time.Now()
	const pieces = 200
	for range pieces {
		r.send(c, "x")
	}
	r.expect(s, strings.Repeat("x", pieces))
	if took := time.Since(start); took < d || took > pieces*d/2 {
		t.Fatalf("%d pieces took %s: they waited for each other", pieces, took)
	}
}

func TestAwaitEndsWithItsContextAndWithTheProxy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.p.AwaitBytes(ctx, ToServer, 1); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	r.must(r.p.Close())
	if err := r.p.AwaitBytes(context.Background(), ToServer, 1); !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
}

func TestPostgresFinishesAStatementWhoseClientWasCutOff(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx := r.ctx()
	s := pgtest.StartT(t, pgtest.Options{})
	r.p.SetTarget(s.Addr())
	_, err := s.Admin().ExecContext(ctx, "CREATE TABLE rows (n int)")
	r.must(err)
	db, err := sql.Open("postgres", s.DSN("port", strconv.Itoa(r.p.Port()), "application_name", "cut"))
	r.must(err)
	defer db.Close()
	for i, action := range []Action{CutClient, ResetClient, CutBoth} {
		conn, err := db.Conn(ctx)
		r.must(err)
		const insert = "INSERT INTO rows VALUES (1)"
		r.p.Arm(ToServer, 1+4+len(insert)+1, action) // one simple Query message
		if _, err := conn.ExecContext(ctx, insert); err == nil {
			t.Fatal("no error")
		}
		_ = conn.Close()
		r.must(s.AwaitSessions(ctx, "cut", 0))
		var n int
		r.must(s.Admin().QueryRowContext(ctx, "SELECT count(*) FROM rows").Scan(&n))
		if n != i+1 {
			t.Fatalf("%d rows after %d statements", n, i+1)
		}
	}
}
