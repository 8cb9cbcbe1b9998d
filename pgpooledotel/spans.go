package pgpooledotel

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/pgpooled/pgpooled"
)

// SpanEvents adds what happens to a call to the span in its context: an event
// pgpooled.read_again, pgpooled.run_again, pgpooled.outcome_unknown,
// pgpooled.commit_resolved, pgpooled.transaction_again or pgpooled.outage. It is
// for [pgpooled.WithCallObserver]. The event's attribute pgpooled.cause is the
// text of an error; it may quote what the server said, and it has no secrets.
func SpanEvents(ctx context.Context, e pgpooled.CallEvent) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	var attrs []attribute.KeyValue
	if e.Op != "" {
		attrs = append(attrs, attribute.String("pgpooled.op", e.Op))
	}
	if e.Err != nil {
		attrs = append(attrs, attribute.String("pgpooled.cause", e.Err.Error()))
	}
	switch e.Kind {
	case pgpooled.CallCommitResolved:
		fate := "aborted"
		if e.Committed {
			fate = "committed"
		}
		attrs = append(attrs, attribute.String("pgpooled.commit.fate", fate))
	case pgpooled.CallWaitedOutage, pgpooled.CallTxAgain:
		attrs = append(attrs, attribute.Float64("pgpooled.waited", e.Waited.Seconds()))
	}
	span.AddEvent("pgpooled."+string(e.Kind), trace.WithAttributes(attrs...))
}
