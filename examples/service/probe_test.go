package main

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// prober asks the probes again and again, as a kubelet does, only faster.
type prober struct {
	alive  atomic.Int64 // answers of liveness
	ready  atomic.Int64 // the last status of readiness
	others sync.Map     // each status that readiness ever had
	dead   atomic.Bool  // liveness failed once

	stop chan struct{}
	wg   sync.WaitGroup
}

func probe(t *testing.T, url string) *prober {
	p := &prober{stop: make(chan struct{})}
	p.every(func() {
		if status, _ := get(url + "/healthz"); status == 200 {
			p.alive.Add(1)
		} else {
			p.dead.Store(true)
		}
	})
	p.every(func() {
		status, _ := get(url + "/readyz")
		p.ready.Store(int64(status))
		p.others.Store(status, true)
	})
	t.Cleanup(p.end)
	return p
}

func (p *prober) every(f func()) {
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		for {
			select {
			case <-p.stop:
				return
			case <-time.After(5 * time.Millisecond):
				f()
			}
		}
	}()
}

func (p *prober) end() {
	select {
	case <-p.stop:
	default:
		close(p.stop)
	}
	p.wg.Wait()
}
