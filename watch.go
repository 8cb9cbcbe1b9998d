package pgpooled

import (
	"context"
	"database/sql/driver"
	"sync/atomic"
)

// watch is a context that lib/pq watches for as long as a session lives.
//
// lib/pq sends a cancel request when the context of a call ends, and offers no
// other way to send one. It watches each call's context in a goroutine that it
// starts and ends with the call, which costs more than all else that a context
// does there. What ends it are rows that are closed. Those of a query of our own,
// read to their end, stay open, and so does the watch over its context: this one.
// The calls that follow need none.
type watch struct {
	context.Context // without an end
	done            chan struct{}
	ended           atomic.Bool
}

// Done is closed by end.
func (w *watch) Done() <-chan struct{} { return w.done }

// Err is what lib/pq then calls the connection.
func (w *watch) Err() error {
	if w.ended.Load() {
		return driver.ErrBadConn
	}
	return nil
}

// end has lib/pq send a cancel request, in the goroutine that has watched.
func (w *watch) end() {
	if w != nil && !w.ended.Swap(true) {
		close(w.done)
	}
}

// watchFrom asks a question, as ask does, and keeps the watch over it.
func (g *guard) watchFrom(conn driver.Conn, question string) (answer string, err error) {
	w := &watch{Context: context.Background(), done: make(chan struct{})}
	rows, err := conn.(driver.QueryerContext).QueryContext(w, question, nil)
	if err != nil {
		return "", err
	}
	if answer, err = onlyValue(rows); err != nil {
		_ = rows.Close()
		return "", err
	}
	g.mu.Lock()
	g.watch = w
	g.mu.Unlock()
	return answer, nil
}

// watched returns the context that lib/pq shall watch for a call.
func (g *guard) watched(ctx context.Context) context.Context {
	if g.watch != nil && ctx.Done() != nil {
		return context.Background()
	}
	return ctx
}

// unwatch ends the watch of a session that is closed: the cancel request that
// lib/pq would send is not let through any more.
func (g *guard) unwatch() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watch.end()
}
