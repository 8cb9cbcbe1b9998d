package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

// settings are the demo's flags.
type settings struct {
	users       int
	limit       int // 0 = as the DSN has it
	duration    time.Duration
	poolTimeout time.Duration // 0 = as the DSN has it
	restart     string        // how the server stops in the middle, "none" = not at all
	away        time.Duration // how long it stays away
	dsn         string        // of a server that is there, "" = start one
	report      string        // the HTML page, "" = a temporary file
}

const demoAbout = `Starts a throwaway PostgreSQL, opens it with sql.Open("pgpooled", dsn), lets many
users read and write at the same time, restarts the server in the middle, and
ends with a verdict on each success criterion and an HTML page with plots. Exit
status 1 if a criterion is not met.

With --dsn it uses a server that is there, which it does not restart, and creates
two tables for the time being. Connect directly, not through a pooler: the
sessions are counted in pg_stat_activity. PGPASSWORD keeps the password off the
command line.`

const demoExamples = `  pgpooled demo
  pgpooled demo --users 200 --limit 5 --restart kill
  pgpooled demo --dsn 'postgres://app@db/test' --duration 1h`

func newDemo() *cobra.Command {
	var s settings
	c := &cobra.Command{
		Use:     "demo",
		Short:   "see the pool work on a throwaway PostgreSQL, with a verdict at the end",
		Long:    demoAbout,
		Example: demoExamples,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if problem := s.problem(c.Flags().Changed("limit")); problem != "" {
				return usage(problem)
			}
			s.settle(c.Flags().Changed)
			return demo(c.Context(), s, c.OutOrStdout())
		},
	}
	fs := c.Flags()
	fs.IntVar(&s.users, "users", 50, "concurrent `users`")
	fs.IntVar(&s.limit, "limit", 10, "max_open_conns; with --dsn the DSN's own unless this is given")
	fs.DurationVar(&s.duration, "duration", 20*time.Second, "how long the users work")
	fs.DurationVar(&s.poolTimeout, "pool-timeout", 10*time.Second, "pool_timeout; with --dsn the DSN's own unless this is given")
	fs.StringVar(&s.restart, "restart", "fast", "how the server stops in the middle: fast, immediate, kill or none")
	fs.DurationVar(&s.away, "away", time.Second, "how long it stays away then")
	fs.StringVar(&s.dsn, "dsn", "", "use this server instead of a throwaway one")
	fs.StringVar(&s.report, "report", "", "write the HTML page to this `file` (default: a temporary one)")
	return c
}

// problem is what is wrong with the flags.
func (s *settings) problem(limitGiven bool) string {
	switch {
	case s.users < 1:
		return "--users must be at least 1"
	case s.limit < 1 && (s.dsn == "" || limitGiven):
		return "--limit must be at least 1: without a limit there is nothing to check"
	case s.duration < time.Second:
		return "--duration must be at least 1s"
	case s.poolTimeout <= 0:
		return "--pool-timeout must be above 0"
	case s.away < 0:
		return "--away must not be negative"
	case !slices.Contains([]string{"fast", "immediate", "kill", "none"}, s.restart):
		return "--restart must be fast, immediate, kill or none"
	}
	return ""
}

// settle: a server that is there is not restarted, and its DSN rules.
func (s *settings) settle(given func(string) bool) {
	if s.dsn == "" {
		return
	}
	s.restart = "none"
	if !given("limit") {
		s.limit = 0
	}
	if !given("pool-timeout") {
		s.poolTimeout = 0
	}
}

func demo(ctx context.Context, s settings, out io.Writer) error {
	began := time.Now()
	sc := &screen{w: out}
	page, err := openDemoReport(s.report)
	if err != nil {
		return usageError(err)
	}
	f, err := runDemo(ctx, s, sc)
	if err != nil || ctx.Err() != nil {
		page.drop()
	}
	switch {
	case ctx.Err() != nil:
		sc.printf("\ninterrupted, so there is no verdict; everything is stopped and removed")
		if err != nil && !errors.Is(err, context.Canceled) {
			sc.printf("but: %v", err)
		}
		return done(exitInterrupted)
	case err != nil:
		return failed(err)
	}
	sc.printf("")
	met := reportVerdicts(sc, f)
	if err := page.write(f, sc); err != nil {
		return failed(err)
	}
	sc.printf("the demo took %s", short(time.Since(began)))
	if !met {
		return done(exitFailed)
	}
	return nil
}

func runDemo(ctx context.Context, s settings, sc *screen) (*figures, error) {
	t, err := newTarget(ctx, s, sc)
	if err != nil {
		return nil, err
	}
	return runOn(ctx, s, sc, t)
}

// runOn does the work and leaves nothing behind, whatever happens.
func runOn(ctx context.Context, s settings, sc *screen, t *target) (f *figures, err error) {
	defer func() { err = errors.Join(err, t.stop()) }()

	defer logTo(sc)()
	f = &figures{title: "pgpooled demo", work: "checked reads, writes and transactions", when: time.Now(), settings: t.settings,
		limit: t.limit, users: s.users, length: s.duration}
	db, err := t.open(ctx, sc, f)
	if err != nil {
		return nil, err
	}
	defer db.Close()

	l := newLoad(db, t.name, s.users)
	defer func() { err = errors.Join(err, t.drop(l.tables())) }()
	if err := l.createTables(ctx); err != nil {
		return nil, err
	}
	runUsers(ctx, s, sc, t, l, f)
	if ctx.Err() == nil {
		f.take(l.tally)
		f.truth, err = l.compare(ctx, t.count)
	}
	f.closed(db)
	if ctx.Err() == nil {
		f.leak.look(ctx, t)
	}
	f.events = sc.eventList()
	return f, err
}

// runUsers runs the users with everything that watches them and returns when all
// of it has ended.
func runUsers(ctx context.Context, s settings, sc *screen, t *target, l *load, f *figures) {
	sc.printf("load        %d users for %s: reads, writes and transactions, each checked\n", s.users, s.duration)
	watched, done := context.WithCancel(ctx)
	w := &watch{sc: sc, target: t, db: l.db, tally: l.tally, length: s.duration}
	sc.begin()
	stopWatching := w.start(watched)
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		if s.restart == "none" || !sleep(ctx, s.duration/2) {
			return
		}
		f.restart = restart(ctx, s, sc, t, l)
	}()
	l.run(ctx, s.duration)
	<-restarted
	done()
	stopWatching()
	w.figures(f)
}

// restart stops the server and starts it again under the users' hands.
func restart(ctx context.Context, s settings, sc *screen, t *target, l *load) *restartFigures {
	r := &restartFigures{mode: s.restart}
	before := t.server.Pid()
	down := l.outage.begin()
	sc.event("restart: the server (process %d) is told to stop (%s)", before, s.restart)
	if r.err = t.server.Down(s.restart); r.err == nil {
		sc.event("restart: it is gone, and stays away for %s", s.away)
		sleep(ctx, s.away)
		r.err = t.server.Up(ctx)
	}
	if r.err != nil {
		sc.event("restart: %v", r.err)
		return r
	}
	up := l.outage.serverUp()
	r.away = up.Sub(down)
	sc.event("restart: a new one (process %d) takes connections, %s later", t.server.Pid(), short(r.away))
	limit := time.NewTimer(recoveryLimit)
	defer limit.Stop()
	select {
	case <-l.outage.over:
		r.recovered = true
		r.firstAfter, r.gap = l.outage.end().Sub(up), l.outage.longestGap()
		sc.event("restart: first call that succeeded: %s after that", short(r.firstAfter))
	case <-limit.C:
		sc.event("restart: no success within %s", recoveryLimit)
	case <-ctx.Done():
	}
	return r
}

// sleep returns false if the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
