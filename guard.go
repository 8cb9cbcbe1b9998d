package pgpooled

import (
	"context"
	"sync"
	"time"
)

// guard watches over the context of the one call that a session has. When the
// context ends, lib/pq sends a cancel request; when that has not ended the call
// after the grace, the socket's deadline does.
type guard struct {
	mu    sync.Mutex  // guards the fields below
	turn  uint64      // counts the calls, so that a late timer meets only its own
	armed bool        // a call is under way
	timer *time.Timer // between the context's end and the cut
	watch *watch      // what has lib/pq send a cancel request; nil = it watches each call's context

	stop    func() bool        // of the running call only
	unmerge context.CancelFunc // of the running call only
}

// merge derives a context that ends with either.
func (g *guard) merge(a, b context.Context) context.Context {
	ctx, cancel := context.WithCancel(a)
	stop := context.AfterFunc(b, cancel)
	g.unmerge = func() { stop(); cancel() }
	return ctx
}

func (g *guard) begin(ctx context.Context, s *session, grace time.Duration) {
	if ctx.Done() == nil || s.wire == nil {
		return
	}
	g.mu.Lock()
	g.turn++
	g.armed = true
	turn := g.turn
	g.mu.Unlock()
	g.stop = context.AfterFunc(ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if !g.armed || g.turn != turn {
			return
		}
		s.cancel()
		g.watch.end()
		g.timer = time.AfterFunc(grace, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.armed && g.turn == turn {
				s.wire.cut()
			}
		})
	})
}

// end stops the watch. Whoever holds the mutex is done or will find that the
// call is over: nothing reaches the next one.
func (g *guard) end() {
	if g.stop != nil {
		g.stop()
		g.stop = nil
		g.mu.Lock()
		g.armed = false
		if g.timer != nil {
			g.timer.Stop()
			g.timer = nil
		}
		g.mu.Unlock()
	}
	if g.unmerge != nil { // last: it ends the context that was watched
		g.unmerge()
		g.unmerge = nil
	}
}
