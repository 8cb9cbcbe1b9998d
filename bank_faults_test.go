package pgpooled_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/pgpooled/pgpooled/internal/cutmatrix"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// bankTrouble is what happens to the server and the network beside the cuts.
var bankTrouble = append([]string{"pg_terminate_backend", "network silent"}, cutmatrix.RestartModes...)

var bankCuts = []faultnet.Action{faultnet.CutBoth, faultnet.ResetBoth, faultnet.CutClient, faultnet.ResetClient}

// drawCut is one at any of the next bytes, in either direction.
func drawCut(r *rand.Rand, most int) faultnet.Fault {
	return faultnet.Fault{Dir: faultnet.Direction(r.IntN(2)), After: r.IntN(most), Do: bankCuts[r.IntN(len(bankCuts))]}
}

func pauseFor(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// cut ends the connections of a pool at random bytes and at random moments, and
// some of the new ones in the middle of their handshake.
func (b *bank) cut(ctx context.Context, p *bankPool, r *rand.Rand) {
	young := make([]faultnet.Script, 1000)
	for i := range young {
		if r.IntN(6) == 0 {
			young[i] = faultnet.Script{drawCut(r, 3000)}
		}
	}
	p.proxy.SetScript(func(i int) faultnet.Script { return young[i%len(young)] })
	for ctx.Err() == nil {
		if f := drawCut(r, 1500); r.IntN(2) == 0 { // now, whatever is under way
			p.cutNow.Add(int64(p.proxy.Conns()))
			p.proxy.Cut(f.Do)
		} else {
			fired := p.proxy.Fired()
			p.proxy.Arm(f.Dir, f.After, f.Do)
			wait, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			_ = p.proxy.AwaitFired(wait, fired+1)
			cancel()
			p.proxy.Disarm()
		}
		pauseFor(ctx, time.Duration(20+r.IntN(80))*time.Millisecond)
	}
}

// trouble makes every kind in turn, in another order each time, until there was
// enough of everything.
func (b *bank) trouble(ctx context.Context, r *rand.Rand) {
	want, rounds := 60, 1
	if long {
		want, rounds = 2000, 20
	}
	for round := 1; ctx.Err() == nil; round++ {
		for _, i := range r.Perm(len(bankTrouble)) {
			pauseFor(ctx, time.Duration(200+r.IntN(400))*time.Millisecond)
			p := b.pools[r.IntN(len(b.pools))]
			d := time.Duration(100+r.IntN(900)) * time.Millisecond
			n, err := b.strike(ctx, bankTrouble[i], p, d)
			if err != nil && ctx.Err() == nil {
				b.t.Errorf("%s: %v", bankTrouble[i], err)
			}
			b.mu.Lock()
			b.struck[bankTrouble[i]] += n
			b.mu.Unlock()
		}
		if round >= rounds && b.total() >= want && b.sawBoth() {
			return
		}
	}
}

// strike makes one fault and returns how often it struck.
func (b *bank) strike(ctx context.Context, kind string, p *bankPool, d time.Duration) (int, error) {
	switch kind {
	case "network silent":
		n := min(p.proxy.Conns(), 1)
		p.proxy.Freeze()
		pauseFor(ctx, d)
		p.proxy.Thaw()
		return n, nil
	case "pg_terminate_backend":
		var n int
		err := b.s.Admin().QueryRowContext(ctx, `select count(*) filter (where pg_terminate_backend(pid)) from
			(select pid from pg_stat_activity where application_name = $1 order by random() limit 2) s`, p.app).Scan(&n)
		return n, err
	}
	b.lives.Add(1)
	defer b.lives.Add(1)
	return 1, cutmatrix.Restart(ctx, b.s, kind)
}

// sawBoth: in each mode COMMITs without an answer were found out to be both,
// made and not. A run without them has proven little.
func (b *bank) sawBoth() bool {
	var committed, aborted [2]int64
	for i, p := range b.pools {
		s := stats(b.t, p.db)
		committed[i/2] += s.LostCommitted
		aborted[i/2] += s.LostAborted
	}
	return min(committed[0], committed[1], aborted[0], aborted[1]) > 0
}

func (b *bank) total() int {
	n := b.cuts()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.struck {
		n += c
	}
	return n
}

func (b *bank) cuts() int {
	n := 0
	for _, p := range b.pools {
		n += p.proxy.Fired() + int(p.cutNow.Load())
	}
	return n
}

func (b *bank) faults() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d: connections cut %d", b.total(), b.cuts())
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, kind := range slices.Sorted(maps.Keys(b.struck)) {
		fmt.Fprintf(&s, ", %s %d", kind, b.struck[kind])
	}
	return s.String()
}

// close ends all sessions, and waits until the server has none: what is not
// there now will never be.
func (b *bank) close() {
	b.t.Helper()
	for _, p := range b.pools {
		if err := p.db.Close(); err != nil {
			b.t.Errorf("close: %v", err)
		}
		p.proxy.Close()
		if err := b.s.AwaitSessions(testContext(b.t), p.app, 0); err != nil {
			b.t.Error(err)
		}
	}
}
