package main

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// pool is one pool under test, behind a proxy of its own.
type pool struct {
	name  string // plain, TLS
	app   string // its application_name
	db    *sql.DB
	conn  *pgpooled.Connector
	proxy *faultnet.Proxy

	limit  atomic.Int64 // max_open_conns in force
	excuse atomic.Int64 // until when the server may count more: see faults.go
	over   atomic.Int64 // until when a higher limit was in force
}

// caller makes one call after the other, with a pause before each.
type caller struct {
	r     *run
	id    int
	rng   *rand.Rand
	stmts map[*pool]*sql.Stmt // prepared once, used to the end

	since atomic.Int64 // when the call under way began, 0 = none
	op    atomic.Pointer[string]

	learning time.Duration // of the call under way, spent in learn
}

func (c *caller) work() {
	defer func() {
		for _, st := range c.stmts {
			_ = st.Close()
		}
	}()
	for c.r.loading.Err() == nil {
		if !c.r.rushing.Load() {
			pause := time.Duration(c.rng.ExpFloat64() * float64(c.r.cfg.Think))
			select {
			case <-c.r.loading.Done():
				return
			case <-time.After(min(pause, 10*c.r.cfg.Think)):
			}
		}
		c.call(c.r.pools[c.rng.IntN(len(c.r.pools))])
	}
}

// call makes one call. It is not ended by the end of the run: what it was told
// has to be judged.
func (c *caller) call(p *pool) {
	o := pick(c.rng)
	ctx, cancel := c.deadline(o)
	defer cancel()
	begin := time.Now()
	c.op.Store(&o.name)
	c.since.Store(begin.UnixNano())
	c.learning = 0
	err := o.do(c, ctx, p)
	c.since.Store(0)
	took := time.Since(begin)
	if end, ok := ctx.Deadline(); ok {
		c.r.noteLate(o.name, time.Since(end)-c.learning)
	}
	if err != nil {
		what, expected := classify(ctx, err)
		if fateUnknown(err, c.r.cfg.CommitCheck) {
			what, expected = fateOpen, false
		}
		c.r.classes.note(o.name, what, expected, err)
	}
	c.r.samples.note(took, o.unit, err != nil)
}

// deadline: a third of the calls have none, those that are meant to end early a
// very short one, the others a comfortable one.
func (c *caller) deadline(o op) (context.Context, context.CancelFunc) {
	switch {
	case o.early:
		return context.WithTimeout(context.Background(), time.Duration(1+c.rng.IntN(40))*time.Millisecond)
	case c.rng.IntN(3) == 0:
		return context.WithCancel(context.Background())
	}
	return context.WithTimeout(context.Background(), 5*time.Second)
}

var errRolledBack = errors.New("rolled back, as meant")

// write gives do a token and notes what its caller was told.
func (c *caller) write(do func(token int64) error) error {
	token := c.r.book.token()
	err := do(token)
	c.r.book.tell(token, c.learn(err), err)
	if err == errRolledBack {
		return nil
	}
	return err
}

// learn is what the caller of a write knows in the end: where Commit could not
// find out, it asks once more.
func (c *caller) learn(err error) told {
	t := toldBy(err, false)
	var unknown *pgpooled.OutcomeUnknownError
	if t != toldUnknown || c.r.cfg.CommitCheck == "off" || !errors.As(err, &unknown) || unknown.Op != "commit" {
		return t
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	begin := time.Now()
	committed, rerr := unknown.Resolve(ctx)
	c.learning = time.Since(begin)
	switch {
	case rerr != nil:
		return t
	case committed:
		c.r.resolved.Add(1)
		return toldDone
	}
	c.r.resolved.Add(1)
	return toldFailed
}
