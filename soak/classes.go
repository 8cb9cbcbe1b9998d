package main

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

// errWrong is an answer that is not what was asked for.
type errWrong struct{ what string }

func (e *errWrong) Error() string { return "wrong answer: " + e.what }

// classify names an error. expected says whether the faults explain it.
func classify(ctx context.Context, err error) (class string, expected bool) {
	var (
		wrong     *errWrong
		unknown   *pgpooled.OutcomeUnknownError
		noSession *pgpooled.PoolTimeoutError
		lost      *pgpooled.ConnLostError
		answer    *pq.Error
	)
	ended := ctx.Err() != nil
	if d, ok := ctx.Deadline(); ok && !ended {
		ended = !time.Now().Before(d) // its timer is late, the pool's clock was not
	}
	switch {
	case errors.As(err, &wrong):
		return "wrong answer", false
	case errors.As(err, &unknown):
		return "outcome unknown (" + unknown.Op + ")", true
	case errors.Is(err, pgpooled.ErrPoolTimeout):
		return "pool timeout", true
	case errors.As(err, &noSession):
		return "context ended while waiting for a session", ended
	case errors.As(err, &lost) && lost.InTx:
		return "transaction gone", true
	case errors.As(err, &lost):
		return "connection lost, no harm done (" + lost.Op + ")", true
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "context ended", ended
	case errors.Is(err, sql.ErrTxDone):
		return "transaction rolled back at its context's end", ended
	case errors.As(err, &answer):
		// lib/pq passes on what ends a session during COPY, as the answer that it is.
		ends := answer.Code == "57P01" || answer.Code == "57P02" || answer.Code == "57P03"
		return "the server says " + string(answer.Code), ends
	}
	return "other", false
}

const fateOpen = "fate of a COMMIT not found out"

// fateUnknown says whether a COMMIT's fate stayed open though commit_check is on
// and the other session that it asks could be had: an outage that outlasts the
// call's budget is no fault of the check. With ids a crash ends all knowledge.
func fateUnknown(err error, check string) bool {
	var (
		unknown   *pgpooled.OutcomeUnknownError
		noSession *pgpooled.PoolTimeoutError
		lost      *pgpooled.ConnLostError
	)
	if check == "off" || !errors.As(err, &unknown) || unknown.Op != "commit" {
		return false
	}
	why := unknown.Check
	switch {
	case why == nil:
		return true
	case check != "ledger", errors.As(why, &noSession), errors.As(why, &lost),
		errors.Is(why, context.DeadlineExceeded), errors.Is(why, context.Canceled):
		return false
	}
	return true
}

// classes counts the errors that callers saw.
type classes struct {
	mu   sync.Mutex // guards the following
	byID map[string]*class
}

type class struct {
	Op, What   string
	N          int
	Unexpected int // of N
	Example    string
}

func (c *classes) note(op string, what string, expected bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := op + "\x00" + what
	if c.byID == nil {
		c.byID = make(map[string]*class)
	}
	k := c.byID[id]
	if k == nil {
		k = &class{Op: op, What: what}
		c.byID[id] = k
	}
	if k.N == 0 || !expected && k.Unexpected == 0 {
		k.Example = err.Error()
	}
	if k.N++; !expected {
		k.Unexpected++
	}
}

func (c *classes) list() []class {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []class
	for _, k := range c.byID {
		out = append(out, *k)
	}
	return out
}
