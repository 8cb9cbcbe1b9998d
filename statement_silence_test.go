package pgpooled_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// The network falls silent while a session is proven direct, while a text is
// prepared, and while another is closed to make room for it: the context's end
// still ends the call, and what was not sent is not in doubt.
func TestTheCacheKeepsTheDeadlineOnASilentNetwork(t *testing.T) {
	t.Parallel()
	for _, step := range []struct {
		name   string
		before int  // calls with the text
		evicts bool // another text is kept by then
		quiet  bool // nothing of the statement itself has left at the first silent byte
	}{
		{name: "the text is seen", before: 0},
		{name: "the text comes again", before: 1},
		{name: "proof and preparation", before: 2, quiet: true},
		{name: "kept", before: 3},
		{name: "eviction and preparation", before: 1, evicts: true, quiet: true},
	} {
		for _, dir := range []faultnet.Direction{faultnet.ToServer, faultnet.ToClient} {
			for _, after := range []int{0, 1, 20} {
				t.Run(fmt.Sprintf("%s/%s/%d", step.name, dir, after), func(t *testing.T) {
					t.Parallel()
					table := looseTable(t)
					name := app()
					kv := []string{"application_name", name, "cancel_grace", grace.String(), "max_open_conns", "1", "sslmode", "disable"}
					if step.evicts {
						kv = append(kv, "statement_cache_capacity", "1") // without a proof
					}
					db, proxy := through(t, server, kv...)
					insert := "insert into " + table + " values ($1)"
					if step.evicts {
						for range 3 {
							askFor(t, db, "select $1::int", 7)
						}
						mustExec(t, db, outdates)
					}
					for range step.before {
						mustExec(t, db, insert, warmer)
					}
					must(t, db.Ping())
					ctx, cancel := context.WithTimeout(context.Background(), deadline)
					defer cancel()
					t.Cleanup(proxy.Thaw)
					fired := proxy.Fired()
					proxy.Arm(dir, after, faultnet.Stall)
					err := intime(t, step.name, func() error {
						_, err := db.ExecContext(ctx, insert, 2)
						return err
					})
					if proxy.Fired() == fired {
						t.Fatalf("the network was not silent: %v", err)
					}
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("%T %v", err, err)
					}
					var unknown *pgpooled.OutcomeUnknownError
					if doubt := errors.As(err, &unknown); step.quiet && doubt {
						t.Errorf("in doubt: %v", err)
					}
					proxy.Thaw()
					mustExec(t, db, insert, 3)
					must(t, db.Close())
					must(t, server.AwaitSessions(testContext(t), name, 0))
					n := queryInt(t, server.Admin(), "select count(*) from "+table+" where id = 2")
					if n > 1 || n == 1 && unknown == nil {
						t.Errorf("%d rows after %v", n, err)
					}
				})
			}
		}
	}
}
