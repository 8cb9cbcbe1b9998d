package pgpooled_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// A busy PgBouncer answers in its turn. That is no outage: a new session that is
// asked for an answer, after a loss, has longer each time. The latency stands for
// the line; it is more than the second of the first question, which cancel_grace
// keeps at that.
func TestAPoolerThatAnswersInItsTurnIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := pgtest.BouncerT(t, server, pgtest.BouncerOptions{Mode: "transaction"})
	line := newProxy(t, b.Addr())
	db, _ := behind(t, b, "transaction", "port", strconv.Itoa(line.Port()), "sslmode", "disable",
		"cancel_grace", "500ms", "connect_timeout", "50s", "pool_timeout", "50s")
	tx := begun(t, testContext(t), db)
	line.SetLatency(600 * time.Millisecond)
	line.CutAll(true)
	_, err := tx.ExecContext(testContext(t), "select 1")
	asLost(t, err)
	_ = tx.Rollback()
	mustExec(t, db, "select 1")
	if s := stats(t, db); s.OpenErrors == 0 {
		t.Errorf("the first question was answered: %+v", s)
	}
}

// PgBouncer's query_timeout hangs up on a statement that takes too long, and the
// server may go on with it: again would add to the load. Nor is it repeated where
// the caller said that once more does no harm.
func TestWhatPgBouncersQueryTimeoutEndsIsNotRepeated(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	mustExec(t, s.Admin(), "create table held (id int)")
	for mode := range poolerModes {
		b := pgtest.BouncerT(t, s, pgtest.BouncerOptions{Mode: mode, Size: 3, Params: map[string]string{"query_timeout": "1"}})
		db, name := behind(t, b, mode, "pool_timeout", "50s", "sslmode", "disable")
		for text, ctx := range map[string]context.Context{
			"select * from held":          testContext(t),
			"insert into held values (1)": pgpooled.WithIdempotent(testContext(t)),
		} {
			release := locked(t, s, "held")
			_, err := db.ExecContext(ctx, text)
			release()
			var lost *pgpooled.ConnLostError
			var unknown *pgpooled.OutcomeUnknownError
			if !errors.As(err, &lost) && !errors.As(err, &unknown) || !strings.Contains(err.Error(), "query timeout") {
				t.Errorf("%s, %s: %v", mode, text, err)
			}
			must(t, s.AwaitSessions(testContext(t), name, 0)) // else one may run it late
		}
		if n := strings.Count(b.Log(), "pooler error: query timeout"); n != 2 {
			t.Errorf("%s: %d statements were ended, want 2", mode, n)
		}
	}
}
