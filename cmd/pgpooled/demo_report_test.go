package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

// good are figures that meet every criterion.
func good() *figures {
	return &figures{
		limit: 10, users: 50, length: 20 * time.Second, calls: 1000,
		failures: []failure{{
			failureKind{op: "insert", what: "outcome unknown", inOutage: true},
			failureCount{n: 7, interruption: true, example: "as it is"},
		}},
		coldStart: 5 * time.Millisecond,
		sessions:  sessionFigures{most: 10, samples: 400, away: 3},
		health:    healthFigures{healthy: 99, checked: 99, inOutage: 2},
		restart:   &restartFigures{mode: "fast", away: time.Second, recovered: true, firstAfter: time.Millisecond},
		leak:      leakFigures{before: 6, after: 6},
		truth: truth{
			increments: book{confirmed: 300, maybe: 2, found: 301, maybeDone: 1},
			tokens:     book{confirmed: 200, maybe: 5, found: 204, maybeDone: 4},
			refused:    3,
		},
	}
}

// failing lists the first words of the verdicts that are not met.
func failing(f *figures) []string {
	var names []string
	for _, v := range f.verdicts() {
		if !v.met {
			names = append(names, v.name)
		}
	}
	return names
}

func TestGoodFiguresMeetEveryCriterion(t *testing.T) {
	t.Parallel()
	if names := failing(good()); names != nil {
		t.Errorf("not met: %q", names)
	}
	var out bytes.Buffer
	if !reportVerdicts(&screen{w: &out}, good()) || strings.Contains(out.String(), "FAIL") {
		t.Errorf("the report says otherwise:\n%s", &out)
	}
}

func TestWhatWasNotMeasuredIsNotMet(t *testing.T) {
	t.Parallel()
	f := &figures{restart: &restartFigures{}}
	if met, all := len(f.verdicts())-len(failing(f)), len(f.verdicts()); met != 0 || all != 8 {
		t.Errorf("%d of %d criteria met, without a figure; not met: %q", met, all, failing(f))
	}
}

func TestEachViolationFailsItsCriterion(t *testing.T) {
	t.Parallel()
	add := func(x failureCount, inOutage bool) func(*figures) {
		x.n = 1
		return func(f *figures) { f.failures = append(f.failures, failure{failureKind{inOutage: inOutage}, x}) }
	}
	tests := []struct {
		name   string
		spoil  func(*figures)
		fails  string // the start of the criterion's name
		others int    // further criteria that fail with it
	}{
		{"a call timed out", add(failureCount{timeout: true}, false), "1", 0},
		{"a call timed out in the restart", add(failureCount{timeout: true}, true), "1", 0},
		{"a call timed out after it was sent", add(failureCount{timeout: true, interruption: true}, true), "1", 0},
		{"no calls", func(f *figures) { f.calls = 0 }, "1", 1},
		{"a session too many", func(f *figures) { f.sessions.most = 11 }, "2", 0},
		{"sessions never counted", func(f *figures) { f.sessions = sessionFigures{failed: 400} }, "2", 0},
		{"sessions that the server does not see", func(f *figures) { f.sessions.most = 0 }, "2", 0},
		{"one unhealthy answer", func(f *figures) { f.health.checked++; f.health.lastError = io.EOF }, "3", 0},
		{"health checks in the outage only", func(f *figures) { f.health.healthy, f.health.checked = 0, 0 }, "3", 0},
		{"a slow cold start", func(f *figures) { f.coldStart = 2 * time.Second }, "4", 0},
		{"a session is left", func(f *figures) { f.leak.sessions = 1 }, "5", 0},
		{"a goroutine is left", func(f *figures) { f.leak.after = 7 }, "5", 0},
		{"sessions cut at close", func(f *figures) { f.leak.closeErr = io.EOF }, "5", 0},
		{"sessions not counted after close", func(f *figures) { f.leak.countErr = io.EOF }, "5", 0},
		{"an increment lost", func(f *figures) { f.truth.increments.lost = 1 }, "* no write", 0},
		{"an increment too many", func(f *figures) { f.truth.increments.extra = 1 }, "* no write", 0},
		{"a row lost", func(f *figures) { f.truth.lostTokens = 1 }, "* no write", 0},
		{"a row twice", func(f *figures) { f.truth.twice = 1 }, "* no write", 0},
		{"a row that nobody wrote", func(f *figures) { f.truth.tokens.extra = 1 }, "* no write", 0},
		{"a row reported as not done", func(f *figures) { f.truth.refusedDone = 1 }, "* no write", 0},
		{"a wrong answer", func(f *figures) { f.truth.wrong = 1 }, "* no write", 0},
		{"the restart failed", func(f *figures) { f.restart.err = io.EOF }, "* recovery", 0},
		{"no success after the restart", func(f *figures) { f.restart.recovered = false }, "* recovery", 0},
		{"a connection lost without a restart", add(failureCount{interruption: true}, false), "* no other", 0},
		{"another failure in the restart", add(failureCount{}, true), "* no other", 0},
	}
	covered := map[string]bool{}
	for _, tt := range tests {
		f := good()
		tt.spoil(f)
		names := failing(f)
		if len(names) != 1+tt.others || !strings.HasPrefix(names[0], tt.fails) {
			t.Errorf("%s: not met: %q, want the one that starts with %q and %d more", tt.name, names, tt.fails, tt.others)
		}
		for _, n := range names {
			covered[n] = true
		}
		var out bytes.Buffer
		if reportVerdicts(&screen{w: &out}, f) || !strings.Contains(out.String(), "FAIL  "+tt.fails) {
			t.Errorf("%s: the report says otherwise:\n%s", tt.name, &out)
		}
	}
	for _, v := range good().verdicts() {
		if !covered[v.name] {
			t.Errorf("nothing here violates %q", v.name)
		}
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	tests := []struct {
		err                   error
		what                  string
		timeout, interruption bool
	}{
		{&pgpooled.PoolTimeoutError{Connect: dial}, "pool timeout", true, false},
		{&pgpooled.PoolTimeoutError{Ctx: context.DeadlineExceeded}, "deadline over while waiting for a session", true, false},
		{&pgpooled.OutcomeUnknownError{Op: "exec"}, "outcome unknown", false, true},
		{&pgpooled.OutcomeUnknownError{Op: "exec", Ctx: context.DeadlineExceeded}, "outcome unknown", true, true},
		{&pgpooled.ConnLostError{Op: "exec", InTx: true}, "transaction gone, nothing done", false, true},
		{&pgpooled.ConnLostError{Op: "begin"}, "connection lost, nothing done", false, true},
		{context.DeadlineExceeded, "deadline over", true, false},
		{fmt.Errorf("wrapped: %w", dial), "connect error", true, false},
		{&pq.Error{Code: "53300"}, "the server says 53300", true, false},
		{&pq.Error{Code: "57P03"}, "the server says 57P03", true, false},
		{&pq.Error{Code: "08006"}, "the server says 08006", true, false},
		{&pq.Error{Code: "57P01"}, "the server says 57P01", false, true},
		{&pq.Error{Code: "42P01"}, "the server says 42P01", false, false},
		{errors.New("anything"), "other", false, false},
	}
	for _, tt := range tests {
		what, timeout, interruption := classify(tt.err)
		if what != tt.what || timeout != tt.timeout || interruption != tt.interruption {
			t.Errorf("%v: %q, timeout %v, interruption %v; want %q, %v, %v", tt.err, what, timeout, interruption, tt.what, tt.timeout, tt.interruption)
		}
	}
}

func TestOutageIsFromTheOrderToTheFirstSuccessOnTheNewServer(t *testing.T) {
	t.Parallel()
	o := outage{over: make(chan struct{})}
	at := time.Now()
	if o.touches(at, at.Add(time.Hour)) {
		t.Error("a call touches an outage that did not begin")
	}
	down := o.begin()
	o.success(time.Now()) // an answer of the old server
	if !o.end().IsZero() || !o.touches(down.Add(-1), time.Now()) || o.touches(at.Add(-2), at.Add(-1)) {
		t.Error("the outage is not what it should be while the server is away")
	}
	up := o.serverUp()
	first := up.Add(time.Millisecond)
	o.success(first)
	o.success(first.Add(time.Second))
	if _, open := <-o.over; open || !o.end().Equal(first) {
		t.Errorf("ended at %v, want %v", o.end(), first)
	}
	if !o.outlasted(down, first) || o.outlasted(down, up) || o.outlasted(first, first.Add(1)) {
		t.Error("a call outlasts the outage if it began before the server was up and ended after that")
	}
	if o.touches(first, first.Add(1)) || !o.touches(first.Add(-1), first.Add(time.Hour)) {
		t.Error("a call touches the outage if it began before its end, and only then")
	}
}

func TestQuantilesAreExactToOnePerMille(t *testing.T) {
	t.Parallel()
	var l latencies
	if got := quantile(l.take(), 0.99); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	for i := range 10_000 {
		d := time.Duration(rnd.ExpFloat64()*float64(5*time.Millisecond)).Truncate(time.Microsecond) + time.Microsecond
		all = append(all, d)
		l.add(d)
		if i == 4000 && l.take().TotalCount() != 4001 {
			t.Error("take has not what came so far")
		}
	}
	if n := l.take().TotalCount(); n != 5999 {
		t.Errorf("the second take has %d, want what came since the first", n)
	}
	l.add(5 * time.Hour)
	all = append(all, time.Hour)
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.99, 1} {
		exact, got := all[int(math.Round(q*float64(len(all))))-1], quantile(l.total(), q)
		if diff := float64(got - exact); diff < -0.001*float64(exact) || diff > 0.01*float64(exact) {
			t.Errorf("quantile %v: %v, exactly %v", q, got, exact)
		}
	}
}

func TestNumbersForPeople(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -100: "-100"} {
		if got := grouped(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 123456: "123µs", 5123456: "5.12ms", 312 * time.Millisecond: "312ms",
		1234 * time.Millisecond: "1.23s", 20400 * time.Millisecond: "20.4s", 3 * time.Hour: "3h0m0s",
	} {
		if got := short(d); got != want {
			t.Errorf("%d: %q, want %q", d, got, want)
		}
	}
}
