package pgpooled

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
)

// gate is a handler that lets nothing through until it is opened.
type gate struct {
	open  chan struct{}
	texts map[string]int
	lost  int64
}

func (g *gate) Enabled(context.Context, slog.Level) bool { return true }
func (g *gate) WithAttrs([]slog.Attr) slog.Handler       { return g }
func (g *gate) WithGroup(string) slog.Handler            { return g }
func (g *gate) Handle(_ context.Context, r slog.Record) error {
	<-g.open
	g.texts[r.Message]++
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "events" {
			g.lost += a.Value.Int64()
		}
		return true
	})
	return nil
}

// What a slow handler has not taken does not grow for ever, and what was left out
// is told, once.
func TestASlowLogHandlerIsToldHowMuchItMissed(t *testing.T) {
	t.Parallel()
	bubble(t, lim(1), func(t *testing.T, p *pool, srv *fakeServer) {
		g := &gate{open: make(chan struct{}), texts: map[string]int{}}
		p.log = slog.New(g)
		logged := func(n int) {
			p.mu.Lock()
			for range n {
				p.logLocked(slog.LevelWarn, "something happened")
			}
			p.mu.Unlock()
			synctest.Wait()
		}
		logged(1) // it is being handled from now on
		logged(mostEvents + 500)
		close(g.open)
		synctest.Wait()
		logged(1)
		if n := g.texts["something happened"]; n != 1+mostEvents+1 {
			t.Errorf("%d events logged", n)
		}
		if n := g.texts["pgpooled: events were not logged: the log's handler is too slow"]; n != 1 || g.lost != 500 {
			t.Errorf("%d lines say that %d are missing", n, g.lost)
		}
	})
}
