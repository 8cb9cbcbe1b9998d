package pgpooled

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// What the end of one call's context set off may be held up until the next call
// is under way. It must find that its turn is over.
func TestALateGuardMeetsOnlyItsOwnCall(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]func(g *guard, cancel func(), grace time.Duration){
		"the context's end": func(g *guard, cancel func(), _ time.Duration) {
			g.mu.Lock()
			cancel()
			g.turn++ // the next call's, which is armed like this one
			g.mu.Unlock()
		},
		"the end of the grace": func(g *guard, cancel func(), grace time.Duration) {
			cancel()
			synctest.Wait()
			g.mu.Lock()
			time.Sleep(grace)
			g.turn++
			g.mu.Unlock()
		},
		"its own": func(_ *guard, cancel func(), grace time.Duration) {
			cancel()
			time.Sleep(grace)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				here, there := net.Pipe()
				defer here.Close()
				defer there.Close()
				s := &session{wire: newWire(here)}
				s.intr = &interceptor{s: s, grace: time.Second}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				g := &s.intr.guard
				g.begin(ctx, s, s.intr.grace)
				late(g, cancel, s.intr.grace)
				synctest.Wait()
				g.end()
				if cancelled, want := s.cancelled.Load(), name != "the context's end"; cancelled != want {
					t.Errorf("doomed: %t", cancelled)
				}
				if cut, want := s.wire.fixed, name == "its own"; cut != want {
					t.Errorf("cut: %t", cut)
				}
			})
		})
	}
}
