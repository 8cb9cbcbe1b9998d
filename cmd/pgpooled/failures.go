package main

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

// failureKind is what failures are counted by.
type failureKind struct {
	op, what string
	inOutage bool // the call was under way during the restart
}

type failureCount struct {
	n                     int64
	timeout, interruption bool
	example               string
}

// failure is a kind of failed calls.
type failure struct {
	failureKind
	failureCount
}

func (t *tally) note(op string, err error, inOutage bool) {
	what, timeout, interruption := classify(err)
	k := failureKind{op, what, inOutage}
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.failures[k]
	if c == nil {
		c = &failureCount{timeout: timeout, interruption: interruption, example: err.Error()}
		t.failures[k] = c
	}
	c.n++
}

func (t *tally) failureList() []failure {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []failure
	for k, c := range t.failures {
		list = append(list, failure{k, *c})
	}
	slices.SortFunc(list, func(a, b failure) int {
		return cmp.Or(cmp.Compare(a.op, b.op), cmp.Compare(a.what, b.what), cmp.Compare(b.n, a.n))
	})
	return list
}

// classify says what a failed call met. timeout: it got no connection in time,
// or no answer. interruption: the server went away under it, which a restart
// explains.
func classify(err error) (what string, timeout, interruption bool) {
	var (
		noSession *pgpooled.PoolTimeoutError
		lost      *pgpooled.ConnLostError
		answer    *pq.Error
		dial      *net.OpError
	)
	late := errors.Is(err, context.DeadlineExceeded)
	switch {
	case errors.Is(err, pgpooled.ErrPoolTimeout):
		return "pool timeout", true, false
	case errors.As(err, &noSession):
		return "deadline over while waiting for a session", true, false
	case outcomeUnknown(err):
		return "outcome unknown", late, true
	case errors.As(err, &lost) && lost.InTx:
		return "transaction gone, nothing done", late, true
	case errors.As(err, &lost):
		return "connection lost, nothing done", late, true
	case late:
		return "deadline over", true, false
	case errors.As(err, &answer):
		code := string(answer.Code)
		refused := code == pqTooManyConnections || code == pqCannotConnectNow || code[:min(2, len(code))] == "08"
		return "the server says " + code, refused, code == pqAdminShutdown || code == pqCrashShutdown
	case errors.As(err, &dial) && dial.Op == "dial":
		return "connect error", true, false
	}
	return "other", false, false
}

// SQLSTATEs, PostgreSQL manual, appendix A.
const (
	pqTooManyConnections = "53300"
	pqAdminShutdown      = "57P01"
	pqCrashShutdown      = "57P02"
	pqCannotConnectNow   = "57P03"
)

func outcomeUnknown(err error) bool {
	var unknown *pgpooled.OutcomeUnknownError
	return errors.As(err, &unknown)
}
