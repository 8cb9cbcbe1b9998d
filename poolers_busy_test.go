package pgpooled_test

import (
	"strconv"
	"testing"
	"time"

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
