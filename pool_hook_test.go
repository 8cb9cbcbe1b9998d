package pgpooled

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// A hook that ends the goroutine it runs in, as testing's FailNow does, fails the
// callers in line with that; the next one dials again, also in an outage.
func TestAHookThatEndsItsGoroutine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := &fakeServer{}
		srv.refuse(errRefused)
		var calls, from, to int // guarded by the bubble: one dial at a time
		open := func(ctx context.Context) (*session, error) {
			if calls++; calls > from && calls <= to {
				runtime.Goexit()
			}
			return srv.open(ctx)
		}
		l := lim(1)
		p := newPool("test", l, slog.New(slog.DiscardHandler), open)
		defer p.close(0)
		for _, tt := range []struct{ from, to int }{{3, 4}, {0, 1}} { // the probe, and the first dial
			calls, from, to = 0, tt.from, tt.to
			if o := <-line(t.Context(), p, srv, 1); !errors.Is(o.err, errHookEnded) || o.waited > 9*time.Second {
				t.Errorf("%v after %s", o.err, o.waited)
			}
			if s := p.stats(); s.Opening != 0 || s.Waiting != 0 {
				t.Errorf("%+v", s)
			}
		}
		srv.refuse(nil)
		l2 := take(t, p)
		if err := srv.work(t.Context(), l2); err != nil {
			t.Error(err)
		}
		srv.give(l2)
	})
}
