package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgpooled/pgpooled"
)

const loadAbout = `Puts load on a database through pgpooled's pool, shows what happens, and ends with
a verdict on each success criterion: no connection timeout errors, the pool within
its limits by the server's own count, health checks, a cold start below 2 s, no
leaks.

Work
  read   one SELECT with an argument; it touches no table and needs no rights
  write  INSERT, UPDATE by key, and transactions of both
  mixed  60 % SELECT by key, 40 % write
  --sql  the text of a file, sent as it is for each call; several statements in
         it are one transaction
Write and mixed use a table of their own, made at the start and dropped at the
end. One of that name that is there already is not touched: the run is refused.

Closed loop: each user makes its next call when the last has its answer. A slow
server is then asked less, and what callers of a real service would have waited
is not seen. Open loop (--rate): calls begin on a schedule, and latency counts
from the moment a call should have begun, waiting for a free user included.

Exit status
  0    every criterion is met
  1    one is not, or there is no connection
  2    the arguments are wrong
  130  interrupted; the summary is of the time until then`

const loadExamples = `  pgpooled load                                       # DATABASE_URL, 50 users, 30 s, reads
  pgpooled load 'postgres://app@db/test?max_open_conns=20' --users 200 --work mixed
  pgpooled load --rate 500 --duration 5m --report load.html
  pgpooled load --sql checkout.sql --users 20
  pgpooled load --work mixed --restart 'docker restart db' --report restart.html`

type loadFlags struct {
	users, limit      int
	duration, timeout time.Duration
	work, sqlFile     string
	table             string
	rate              float64
	restart           string
	restartTimeout    time.Duration
	report            string
	json              bool
}

func newLoadCommand() *cobra.Command {
	var f loadFlags
	c := &cobra.Command{
		Use:     "load [DSN]",
		Short:   "put load on a database and judge it by the success criteria",
		Long:    loadAbout,
		Example: loadExamples,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if problem := f.problem(c.Flags().Changed); problem != "" {
				return usage(problem)
			}
			dsn, _, err := findDSN(args)
			if err != nil {
				return err
			}
			return runLoad(c.Context(), f, dsn, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	fs := c.Flags()
	fs.IntVar(&f.users, "users", 50, "concurrent `users`")
	fs.DurationVar(&f.duration, "duration", 30*time.Second, "how long they work")
	fs.StringVar(&f.work, "work", "read", "read, write or mixed")
	fs.StringVar(&f.sqlFile, "sql", "", "`file` with the SQL of each call, instead of --work")
	fs.Float64Var(&f.rate, "rate", 0, "open loop: calls per second in all; 0 = closed loop")
	fs.IntVar(&f.limit, "limit", 0, "max_open_conns instead of the DSN's")
	fs.DurationVar(&f.timeout, "timeout", callLimit, "the deadline of each call")
	fs.StringVar(&f.table, "table", "pgpooled_load", "`name` of the table for write and mixed")
	fs.StringVar(&f.restart, "restart", "", "`command` that restarts the server, run by the shell in the middle; the outage and the recovery are measured")
	fs.DurationVar(&f.restartTimeout, "restart-timeout", 5*time.Minute, "how long that command may take, and the outage after it")
	fs.StringVar(&f.report, "report", "", "write an HTML page to this `file`")
	fs.BoolVar(&f.json, "json", false, "print one JSON object at the end, the progress on standard error")
	return c
}

var tableName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?$`)

func (f *loadFlags) problem(given func(string) bool) string {
	switch {
	case f.users < 1:
		return "--users must be at least 1"
	case f.duration < time.Second:
		return "--duration must be at least 1s"
	case !slices.Contains([]string{"read", "write", "mixed"}, f.work):
		return "--work must be read, write or mixed"
	case f.sqlFile != "" && given("work"):
		return "--sql and --work exclude each other"
	case !(f.rate >= 0 && f.rate <= 1e6): // NaN is neither
		return "--rate must be between 0 and a million"
	case f.limit < 0 || given("limit") && f.limit == 0:
		return "--limit must be at least 1"
	case f.timeout <= 0:
		return "--timeout must be above 0"
	case f.restartTimeout <= 0:
		return "--restart-timeout must be above 0"
	case !tableName.MatchString(f.table):
		return "--table must be a plain name, with its schema if need be: small letters, digits and _"
	}
	return ""
}

func runLoad(ctx context.Context, f loadFlags, dsn string, out, errOut io.Writer) error {
	sc := &screen{w: out}
	if f.json {
		sc.w = errOut
	}
	var w work
	if f.sqlFile != "" {
		text, err := os.ReadFile(f.sqlFile)
		if err == nil && len(text) == 0 {
			err = fmt.Errorf("%s is empty", f.sqlFile)
		}
		if err != nil {
			return usageError(err)
		}
		w = &fileWork{text: string(text)}
	} else {
		w = newWork(f.work, f.table, f.users)
	}
	if _, err := pgpooled.ParseDSN(dsn); err != nil {
		return usageError(err)
	}
	report, err := openReport(f.report) // before the load, not after it
	if err != nil {
		return usageError(err)
	}
	t := &target{name: "pgpooled_load_" + token()}
	if err := t.useServer(ctx, dsn, f.limit, 0); err != nil {
		report.drop()
		if ctx.Err() != nil {
			return interrupted(err)
		}
		return failed(err)
	}
	figures, err := loadOn(ctx, f, sc, t, w)
	stopped := ctx.Err() != nil
	if figures == nil || err != nil && !stopped {
		report.drop()
		if stopped {
			return interrupted(fmt.Errorf("interrupted before there was anything to tell: %w", err))
		}
		return failed(err)
	}
	if err != nil { // after Ctrl-C: something could not be tidied up
		sc.printf("but: %s", printable(err.Error()))
	}
	sc.printf("")
	if stopped {
		sc.printf("interrupted: the figures are of the first %s\n", short(figures.length))
	}
	met := reportVerdicts(sc, figures)
	if err := report.write(figures, sc); err != nil {
		return failed(err)
	}
	code := exitOK
	switch {
	case stopped:
		code = exitInterrupted
	case !met:
		code = exitFailed
	}
	if f.json {
		if err := printJSON(out, newLoadResult(figures, code)); err != nil {
			return failed(err)
		}
	}
	return done(code)
}

// loadOn does the work and leaves nothing behind. After Ctrl-C it returns the
// figures so far.
func loadOn(ctx context.Context, f loadFlags, sc *screen, t *target, w work) (fig *figures, err error) {
	defer func() { err = errors.Join(err, t.stop()) }()
	defer logTo(sc)()
	fig = &figures{unchecked: true, title: "pgpooled load", limit: t.limit, users: f.users, rate: f.rate, work: w.String(), settings: t.settings, when: time.Now()}
	db, err := t.open(ctx, sc, fig)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if c, err := pgpooled.CheckCapacity(ctx, db, 1); err == nil {
		fig.leak.pooler = c.Pooler == "yes"
	}
	if err := w.prepare(ctx, db); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.cleanUp(t.count)) }()

	r := &runner{f: f, sc: sc, target: t, db: db, work: w, tally: newTally()}
	r.run(ctx, fig)
	fig.take(r.tally)
	fig.closed(db)
	fig.leak.look(context.WithoutCancel(ctx), t)
	fig.events = sc.eventList()
	return fig, nil
}
