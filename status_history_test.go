package pgpooled

import (
	"testing"
	"testing/synctest"
	"time"
)

func samples(p *pool) []sample {
	synctest.Wait() // upkeep wakes up at the same moment
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.history == nil {
		return nil
	}
	return append([]sample(nil), p.history.samples...)
}

func TestTheHistoryIsTenMinutesOfEvenSamples(t *testing.T) {
	t.Parallel()
	bubble(t, lim(3), func(t *testing.T, p *pool, srv *fakeServer) {
		for range 3 { // as often as somebody mounts the page
			p.keepHistory()
		}
		if n := len(samples(p)); n != 1 {
			t.Errorf("%d samples at once, want 1", n)
		}
		ls := leases(t, p, srv, 2)
		time.Sleep(time.Minute)
		if got := samples(p); len(got) != 31 || got[30].InUse != 2 || got[30].Acquires != 2 || got[0].Acquires != 0 {
			t.Errorf("after a minute %d: %+v", len(got), got[len(got)-1])
		}
		srv.give(ls[0])
		srv.give(ls[1])
		time.Sleep(time.Hour)
		got := samples(p)
		if most := int(historyOf/sampleEvery) + 1; len(got) != most {
			t.Errorf("%d samples, want %d", len(got), most)
		}
		for i := range got[1:] {
			if d := got[i+1].Time.Sub(got[i].Time); d != sampleEvery {
				t.Fatalf("sample %d is %s after the one before", i+1, d)
			}
		}
		if last := got[len(got)-1]; last.Idle != 2 || last.InUse != 0 || time.Since(last.Time) >= sampleEvery {
			t.Errorf("the last one, %s ago: %+v", time.Since(last.Time), last)
		}
	})
}

// The clock of a bubble moves when everything sleeps: an hour passes at once, and
// upkeep must not have looked.
func TestAPoolWithoutAStatusPageTakesNoSamples(t *testing.T) {
	t.Parallel()
	bubble(t, lim(3), func(t *testing.T, p *pool, srv *fakeServer) {
		srv.give(leases(t, p, srv, 1)[0])
		time.Sleep(time.Hour)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.history != nil || !p.next.IsZero() {
			t.Errorf("somebody takes samples (%v), or upkeep is to look at %s", p.history != nil, p.next)
		}
	})
}

func TestClosingThePoolEndsTheSamples(t *testing.T) {
	t.Parallel()
	bubble(t, lim(3), func(t *testing.T, p *pool, srv *fakeServer) {
		p.keepHistory()
		time.Sleep(10 * time.Second)
		if err := p.close(0); err != nil {
			t.Fatal(err)
		}
		n := len(samples(p))
		p.keepHistory() // too late
		time.Sleep(time.Minute)
		if now := len(samples(p)); now != n || n == 0 {
			t.Errorf("%d samples when it was closed, %d a minute later", n, now)
		}
	})
}
