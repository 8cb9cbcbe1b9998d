package pgpooledotel_test

import (
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/pgpooledotel"
)

// What happens to a call is an event of the span that the call was made in.
func TestWhatHappensToACallIsAnEventOfItsSpan(t *testing.T) {
	t.Parallel()
	proxy, err := faultnet.New(server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	db, err := pgpooled.Open(server.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port())),
		pgpooled.WithLogger(slog.New(slog.DiscardHandler)), pgpooled.WithCallObserver(pgpooledotel.SpanEvents))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	tracer := provider.Tracer("test")
	inSpan := func(query string) error {
		ctx, span := tracer.Start(t.Context(), query)
		defer span.End()
		if err := db.PingContext(t.Context()); err != nil {
			return err
		}
		proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
		_, err := db.ExecContext(ctx, query)
		return err
	}
	if err := inSpan("select 1"); err != nil {
		t.Error(err)
	}
	var unknown *pgpooled.OutcomeUnknownError
	if err := inSpan("do $$ begin end $$"); !errors.As(err, &unknown) {
		t.Errorf("got %T %v", err, err)
	}
	_, span := tracer.Start(t.Context(), "quiet") // nothing happens in it
	if _, err := db.Exec("select 1"); err != nil {
		t.Error(err)
	}
	span.End()
	want := map[string]string{"select 1": "pgpooled.read_again", "do $$ begin end $$": "pgpooled.outcome_unknown", "quiet": ""}
	for _, s := range spans.Ended() {
		name, ok := want[s.Name()]
		delete(want, s.Name())
		events := s.Events()
		if !ok || len(events) > 1 || (len(events) == 1) != (name != "") {
			t.Errorf("%s: %+v", s.Name(), events)
			continue
		}
		if name == "" {
			continue
		}
		attrs := attribute.NewSet(events[0].Attributes...)
		op, _ := attrs.Value("pgpooled.op")
		cause, _ := attrs.Value("pgpooled.cause")
		if events[0].Name != name || op.AsString() != "exec" || cause.AsString() == "" {
			t.Errorf("%s: %+v", s.Name(), events[0])
		}
	}
	if len(want) != 0 {
		t.Errorf("no spans %v", want)
	}
}

// The other events, and a context without a span.
func TestEachKindOfCallEventIsNamed(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	for _, e := range []pgpooled.CallEvent{
		{Kind: pgpooled.CallCommitResolved, Op: "commit", Committed: true},
		{Kind: pgpooled.CallCommitResolved, Op: "commit"},
		{Kind: pgpooled.CallWaitedOutage, Waited: 2e9, Err: sql.ErrConnDone},
		{Kind: pgpooled.CallTxAgain, Waited: 1e9, Err: sql.ErrTxDone},
		{Kind: pgpooled.CallRunAgain, Op: "exec"},
	} {
		pgpooledotel.SpanEvents(t.Context(), e)
		ctx, span := tracer.Start(t.Context(), "call")
		pgpooledotel.SpanEvents(ctx, e)
		span.End()
	}
	var got []string
	for _, s := range spans.Ended() {
		for _, e := range s.Events() {
			attrs := attribute.NewSet(e.Attributes...)
			got = append(got, e.Name+" "+attrs.Encoded(attribute.DefaultEncoder()))
		}
	}
	want := []string{
		"pgpooled.commit_resolved pgpooled.commit.fate=committed,pgpooled.op=commit",
		"pgpooled.commit_resolved pgpooled.commit.fate=aborted,pgpooled.op=commit",
		"pgpooled.outage pgpooled.cause=sql: connection is already closed,pgpooled.waited=2",
		"pgpooled.transaction_again pgpooled.cause=sql: transaction has already been committed or rolled back,pgpooled.waited=1",
		"pgpooled.run_again pgpooled.op=exec",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
