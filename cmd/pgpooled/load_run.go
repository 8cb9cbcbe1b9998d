package main

import (
	"context"
	"database/sql"
	"sync"
	"sync/atomic"
	"time"
)

// runner runs the users and everything that watches them.
type runner struct {
	f      loadFlags
	sc     *screen
	target *target
	db     *sql.DB
	work   work
	tally  *tally

	began      time.Time
	next       atomic.Int64 // open loop: the next call's number
	restarting atomic.Bool  // the users go on until it is over
}

// interruptGrace is what calls under way get after Ctrl-C.
const interruptGrace = 2 * time.Second

func (r *runner) run(ctx context.Context, fig *figures) {
	loop := "closed loop"
	if r.f.rate > 0 {
		loop = "open loop, " + grouped(int64(r.f.rate)) + " calls/s"
	}
	r.sc.printf("load        %s, %d users, %s, %s\n", r.work, r.f.users, loop, brief(r.f.duration))

	watched, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	w := &watch{sc: r.sc, target: r.target, db: r.db, tally: r.tally, length: r.f.duration}
	endView := func() {}
	if v := startView(r, loop); v != nil {
		w.live, endView = v.show, v.end
	}
	r.sc.begin()
	r.began = time.Now()
	endWatch := w.start(watched)

	restarted := make(chan struct{})
	if r.f.restart != "" {
		r.restarting.Store(true)
		go func() {
			defer close(restarted)
			defer r.restarting.Store(false)
			if sleep(ctx, r.f.duration/2) {
				fig.restart = r.restartServer(ctx)
			}
		}()
	} else {
		close(restarted)
	}

	// Calls under way at the end are waited for, after Ctrl-C not for long.
	calls, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	stopCut := context.AfterFunc(ctx, func() {
		sleep(calls, interruptGrace)
		cut()
	})
	defer stopCut()
	var users sync.WaitGroup
	for user := range r.f.users {
		users.Go(func() {
			if r.f.rate > 0 {
				r.onSchedule(ctx, calls, user)
			} else {
				r.oneAfterTheOther(ctx, calls, user)
			}
		})
	}
	users.Wait()
	fig.length = time.Since(r.began)
	if r.f.rate > 0 {
		scheduled := fig.length
		if r.f.restart == "" {
			scheduled = min(scheduled, r.f.duration)
		}
		fig.late = max(0, r.due(scheduled)-r.next.Load())
	}
	<-restarted
	stop()
	endWatch()
	endView()
	w.figures(fig)
}

// over says whether the users are to stop.
func (r *runner) over(ctx context.Context) bool {
	return ctx.Err() != nil || time.Since(r.began) >= r.f.duration && !r.restarting.Load()
}

func (r *runner) oneAfterTheOther(ctx, calls context.Context, user int) {
	for !r.over(ctx) {
		if err := r.call(calls, user, time.Now()); err != nil {
			sleep(ctx, 20*time.Millisecond)
		}
	}
}

// onSchedule takes the next call of the schedule that nobody has, waits for its
// time, and makes it, late or not: its latency counts from that time.
func (r *runner) onSchedule(ctx, calls context.Context, user int) {
	for !r.over(ctx) {
		n := r.next.Add(1) - 1
		wanted := r.began.Add(time.Duration(float64(n) / r.f.rate * float64(time.Second)))
		if wanted.Sub(r.began) >= r.f.duration && !r.restarting.Load() || !sleep(ctx, time.Until(wanted)) {
			r.next.Add(-1)
			return
		}
		_ = r.call(calls, user, wanted)
	}
}

// due is how many calls the schedule had until then.
func (r *runner) due(at time.Duration) int64 { return int64(at.Seconds() * r.f.rate) }

func (r *runner) call(ctx context.Context, user int, wanted time.Time) error {
	limited, cancel := context.WithTimeout(ctx, r.f.timeout)
	defer cancel()
	began := time.Now()
	op, err := r.work.call(limited, r.db, user)
	if ctx.Err() != nil {
		return ctx.Err() // cut after Ctrl-C
	}
	r.tally.add(op, wanted, began, time.Now(), err)
	return err
}
