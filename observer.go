package pgpooled

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// CallEventKind says what happened to a call.
type CallEventKind string

// What a function of [WithCallObserver] hears of.
const (
	CallReadAgain      CallEventKind = "read_again"        // a read whose answer was lost runs again; counted in Stats.Replays
	CallRunAgain       CallEventKind = "run_again"         // another statement runs again; counted in Stats.Reruns
	CallOutcomeUnknown CallEventKind = "outcome_unknown"   // counted in Stats.OutcomesUnknown
	CallCommitResolved CallEventKind = "commit_resolved"   // commit_check found out; counted in Stats.LostCommitted or LostAborted
	CallTxAgain        CallEventKind = "transaction_again" // RunTx begins once more; counted in Stats.TxRepeated
	CallWaitedOutage   CallEventKind = "outage"            // it waited, or was refused, while the server was away
)

// CallEvent is something out of the ordinary that happened to one call.
type CallEvent struct {
	Kind      CallEventKind
	Op        string        // "exec", "query", "commit" …; empty for outage and transaction_again
	Waited    time.Duration // outage: for a session, so far; transaction_again: the pause that follows
	Committed bool          // commit_resolved: what became of the transaction
	Err       error         // the cause; nil if there is none any more, as when the server came back
}

// WithCallObserver sets a function that hears of what happens to calls out of
// the ordinary, with the call's own context: for events of a tracing span, and
// for log lines that carry a request's id. pgpooledotel.SpanEvents is one. A call
// that nothing happens to costs nothing.
//
// The function runs on the goroutine of that call, before it returns or goes on,
// and with no lock held: if it is slow then that call is late, which may hold a
// session meanwhile, and nobody else's. It is called from several goroutines at
// once. It must not use the database. If it panics, that is logged, the call goes
// on, and the function is not called again.
func WithCallObserver(f func(context.Context, CallEvent)) Option {
	return func(o *options) { o.observer = f }
}

func (p *pool) observe(ctx context.Context, e CallEvent) {
	if p.observer == nil || p.deaf.Load() {
		return
	}
	defer func() {
		r := recover()
		if r == nil || p.deaf.Swap(true) {
			return
		}
		what := fmt.Sprint(r) // runs code of the caller's, which may ask for Stats
		p.mu.Lock()
		defer p.mu.Unlock()
		p.logLocked(slog.LevelError, "pgpooled: the function of WithCallObserver panicked and is not called again", slog.String("panic", what))
	}()
	p.observer(ctx, e)
}
