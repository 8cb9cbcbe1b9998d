package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"time"
)

// profile writes a CPU and an allocation profile of each wanted rival in each
// wanted work; of pgpooled alone if no rival was named. The two are taken one
// after the other: recording every allocation takes its time.
func (b *bench) profile(ctx context.Context, dir string) error {
	if len(b.cfg.rivals) == 0 {
		b.cfg.rivals = []string{ours}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, w := range works(b.cfg.callers, b.cfg.conns) {
		if !b.cfg.wants(w.name) {
			continue
		}
		for _, r := range b.cfg.entered() {
			if err := b.profileOne(ctx, dir, w, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) profileOne(ctx context.Context, dir string, w work, r rival) error {
	name := filepath.Join(dir, w.name+"-"+strings.NewReplacer("/", "", " ", "-").Replace(r.name))
	cpu, err := os.Create(name + ".cpu.out")
	if err != nil {
		return err
	}
	timed := func(before, after func() error) (f float64, err error) {
		p, do, err := b.ready(ctx, w, r)
		if err != nil {
			return 0, err
		}
		defer p.close()
		c := newCrew(w, do, math.MaxInt64, 0)
		if err := before(); err != nil {
			return 0, err
		}
		c.run(ctx, max(b.cfg.time, 10*time.Millisecond), secondPhase)
		err = after()
		return float64(c.lat.used.Load()), errors.Join(err, c.failure())
	}
	cpuCalls, err := timed(func() error { return pprof.StartCPUProfile(cpu) }, func() error {
		pprof.StopCPUProfile()
		return cpu.Close()
	})
	if err != nil {
		return err
	}
	allocs, err := timed(func() error {
		if err := writeAllocs(name + ".allocs-before.out"); err != nil {
			return err
		}
		runtime.MemProfileRate = 1
		return nil
	}, func() error {
		runtime.MemProfileRate = 0
		return writeAllocs(name + ".allocs.out")
	})
	if err != nil {
		return err
	}
	fmt.Printf("%s, %s: %.0f calls in %s.cpu.out, %.0f calls in %s.allocs.out\n", w.name, r.name, cpuCalls, name, allocs, name)
	fmt.Printf("  go tool pprof -top %[1]s.cpu.out\n  go tool pprof -sample_index=alloc_objects -base %[1]s.allocs-before.out -top %[1]s.allocs.out\n", name)
	return nil
}

func writeAllocs(file string) error {
	runtime.GC() // a profile is as of the last collection
	runtime.GC()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup("allocs").WriteTo(f, 0), f.Close())
}
