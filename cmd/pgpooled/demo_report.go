package main

import (
	"fmt"
	"time"

	"github.com/pgpooled/pgpooled"
)

// coldStartLimit is the seed's: cold start time < 2 seconds.
const coldStartLimit = 2 * time.Second

// figures are what a demo or a load measured. The verdict depends on nothing else.
type figures struct {
	title, work  string
	server       string // its version
	when         time.Time
	settings     []pgpooled.Setting
	events       []event
	rate         float64 // of an open loop, 0 = closed
	late         int64   // calls of its schedule that nobody began
	unchecked    bool    // the work keeps no books, so there is no truth to find out
	limit, users int
	length       time.Duration
	calls        int64
	waited       int64         // succeeded after waiting for the new server
	median, p99  time.Duration // of calls that succeeded
	slowest      time.Duration
	series       []sample
	failures     []failure
	coldStart    time.Duration
	sessions     sessionFigures
	health       healthFigures
	restart      *restartFigures // nil = there was none
	leak         leakFigures
	truth        truth
	pool         pgpooled.Stats // at the end of the load
	stall        time.Duration  // longest pause of this process
}

// sessionFigures are the server's own counts of the pool's sessions.
type sessionFigures struct {
	most    int
	samples int
	away    int // counts that failed in the outage
	failed  int // counts that failed at other times
}

// healthFigures leave out the checks that were under way in the outage.
type healthFigures struct {
	healthy, checked          int
	median, slowest           time.Duration
	lastError                 error
	inOutage, healthyInOutage int
}

type restartFigures struct {
	mode       string
	err        error         // it did not work
	away       time.Duration // from the order to stop until it took connections again
	recovered  bool
	firstAfter time.Duration // from then to the first success
	gap        time.Duration // the longest time without a success
}

// leakFigures are of the moment after db.Close.
type leakFigures struct {
	before, after int // goroutines
	sessions      int
	pooler        bool // the server's sessions are a pooler's, which keeps them
	countErr      error
	closeErr      error
	closeTook     time.Duration
}

// truth is what the users were told held against what the tables say.
type truth struct {
	increments, tokens book
	lostTokens         int64 // confirmed, but not there
	twice              int64 // rows too many of one token
	refused            int64 // tokens of which an error said: not done
	refusedDone        int64 // and which are there all the same
	wrong              int64 // answers that cannot be
}

// book compares sums: found may differ from confirmed by the unknown outcomes
// only.
type book struct {
	confirmed, maybe, found int64
	maybeDone               int64 // unknown outcomes that turned out to be done
	lost, extra             int64
}

func (b *book) add(confirmed, maybe, found int64) {
	b.confirmed += confirmed
	b.maybe += maybe
	b.found += found
	b.lost += max(0, confirmed-found)
	b.extra += max(0, found-confirmed-maybe)
	b.maybeDone += min(max(0, found-confirmed), maybe)
}

func (t truth) holds() bool {
	return t.increments.confirmed+t.tokens.confirmed > 0 && t.increments.lost == 0 && t.increments.extra == 0 &&
		t.tokens.extra == 0 && t.lostTokens == 0 && t.twice == 0 && t.refusedDone == 0 && t.wrong == 0
}

// take gets what the load counted.
func (f *figures) take(t *tally) {
	f.calls, f.waited = t.calls.Load(), t.waited.Load()
	h := t.spent.total()
	f.median, f.p99, f.slowest = quantile(h, 0.5), quantile(h, 0.99), quantile(h, 1)
	f.failures = t.failureList()
}

// verdict is one line of the end: a criterion, whether it is met, and why.
type verdict struct {
	name   string
	met    bool
	figure string
	notes  []string
}

// verdicts judges. What was not measured is not met. The first five are the
// seed's success criteria.
func (f *figures) verdicts() []verdict {
	timeouts, unexplained, interrupted := int64(0), int64(0), int64(0)
	for _, x := range f.failures {
		switch {
		case x.timeout:
			timeouts += x.n
		case x.inOutage && x.interruption:
			interrupted += x.n
		default:
			unexplained += x.n
		}
	}
	out := []verdict{{
		name: "1 no connection timeout errors under load",
		met:  f.calls > 0 && timeouts == 0,
		figure: fmt.Sprintf("%s of %s calls by %d users in %s; p50 %s, p99 %s",
			grouped(timeouts), grouped(f.calls), f.users, short(f.length), short(f.median), short(f.p99)),
	}, f.sessionVerdict(), f.healthVerdict(), {
		name:   "4 cold start below 2 s",
		met:    f.coldStart > 0 && f.coldStart < coldStartLimit,
		figure: short(f.coldStart) + " from sql.Open to the first answer",
	}, f.leakVerdict()}
	if !f.unchecked {
		out = append(out, f.truthVerdict())
	}
	if f.restart != nil {
		out = append(out, f.restartVerdict(interrupted))
	}
	return append(out, verdict{
		name: "* no other failures", met: f.calls > 0 && unexplained == 0,
		figure: grouped(unexplained) + " calls failed for another reason",
	})
}

func (f *figures) sessionVerdict() verdict {
	s := f.sessions
	v := verdict{
		name:   "2 connection pool stays within limits",
		met:    s.samples > 0 && s.most > 0 && s.most <= f.limit,
		figure: fmt.Sprintf("at most %d server sessions, limit %d; pg_stat_activity asked %d times", s.most, f.limit, s.samples),
	}
	if s.samples > 0 && s.most == 0 {
		v.notes = append(v.notes, "the server counts none: is there a pooler in between?")
	}
	if s.away+s.failed > 0 {
		v.notes = append(v.notes, fmt.Sprintf("%d more times without an answer, %d of them in the restart", s.away+s.failed, s.away))
	}
	return v
}

func (f *figures) healthVerdict() verdict {
	h := f.health
	v := verdict{
		name:   "3 health check returns healthy",
		met:    h.checked > 0 && h.healthy == h.checked,
		figure: fmt.Sprintf("%d of %d, p50 %s, slowest %s", h.healthy, h.checked, short(h.median), short(h.slowest)),
	}
	if h.lastError != nil {
		v.notes = append(v.notes, "the last that was not: "+h.lastError.Error())
	}
	if h.inOutage > 0 {
		v.notes = append(v.notes, fmt.Sprintf("not counted: %d checks during the restart, %d of them healthy", h.inOutage, h.healthyInOutage))
	}
	return v
}

func (f *figures) leakVerdict() verdict {
	k := f.leak
	v := verdict{
		name: "5 no connection leaks",
		met:  k.before > 0 && k.after > 0 && k.after <= k.before && (k.sessions == 0 || k.pooler) && k.countErr == nil && k.closeErr == nil,
		figure: fmt.Sprintf("after db.Close (%s): %d server sessions, %d goroutines (%d before sql.Open)",
			short(k.closeTook), k.sessions, k.after, k.before),
	}
	if k.pooler {
		v.notes = append(v.notes, "the sessions on the server are the pooler's, which keeps them: not counted as leaks")
	}
	if k.closeErr != nil {
		v.notes = append(v.notes, "db.Close: "+k.closeErr.Error())
	}
	if k.countErr != nil {
		v.notes = append(v.notes, "the sessions could not be counted: "+k.countErr.Error())
	}
	if f.length < time.Hour {
		v.notes = append(v.notes, fmt.Sprintf("after %s of load; the criterion says one hour: --duration 1h", short(f.length)))
	}
	return v
}

func (f *figures) truthVerdict() verdict {
	t := f.truth
	return verdict{
		name: "* no write twice, none lost", met: t.holds(),
		figure: fmt.Sprintf("%s increments confirmed, the table has %s: %d lost, %d too many",
			grouped(t.increments.confirmed), grouped(t.increments.found), t.increments.lost, t.increments.extra),
		notes: []string{
			fmt.Sprintf("%s rows confirmed, the table has %s: %d lost, %d twice, %d never reported",
				grouped(t.tokens.confirmed), grouped(t.tokens.found), t.lostTokens, t.twice, max(0, t.tokens.extra)),
			fmt.Sprintf("reported as outcome unknown: %d increments (%d were done), %d rows (%d were done)",
				t.increments.maybe, t.increments.maybeDone, t.tokens.maybe, t.tokens.maybeDone),
			fmt.Sprintf("reported as not done: %d rows, %d of them there all the same; answers that cannot be: %d", t.refused, t.refusedDone, t.wrong),
		},
	}
}

func (f *figures) restartVerdict(interrupted int64) verdict {
	r := f.restart
	v := verdict{name: "* recovery after a restart", met: r.err == nil && r.recovered}
	switch {
	case r.err != nil:
		v.figure = "the restart failed: " + r.err.Error()
	case !r.recovered:
		v.figure = fmt.Sprintf("no call succeeded within %s", recoveryLimit)
	default:
		v.figure = fmt.Sprintf("first success %s after the server was back; it was away for %s (%s)", short(r.firstAfter), short(r.away), r.mode)
	}
	if r.gap > 0 {
		v.notes = append(v.notes, fmt.Sprintf("the longest time without a call that succeeded: %s", short(r.gap)))
	}
	v.notes = append(v.notes, fmt.Sprintf("%d calls waited for it and succeeded; %d were under way when it stopped and failed; the kinds are in the list of failed calls", f.waited, interrupted))
	return v
}

// reportVerdicts prints the end and says whether every criterion is met.
func reportVerdicts(sc *screen, f *figures) bool {
	for i, x := range f.failures {
		if i == 0 {
			sc.printf("failed calls, by kind:")
		}
		when := ""
		if x.inOutage {
			when = ", during the restart"
		}
		sc.printf("%7s  %s: %s%s\n         e.g. %s", grouped(x.n), x.op, x.what, when, printable(x.example))
	}
	if f.rate > 0 {
		sc.printf("schedule: %s calls were due that no user was free to begin", grouped(f.late))
	}
	p := f.pool
	sc.printf("pool: %d sessions opened, %d attempts failed; closed: %d broken, %d dead when looked at, %d cancelled; most in use %d; %s waits of %s on average",
		p.Opens, p.OpenErrors, p.ClosedBroken, p.ClosedDead, p.ClosedCancelled, p.PeakInUse,
		grouped(p.Waits), short(p.WaitTime/time.Duration(max(p.Waits, 1))))
	if n := sc.hidden(); n > 0 {
		sc.printf("log: %d more lines, of kinds that are shown above", n)
	}
	sc.printf("machine: this process had to wait for the processor for up to %s\n", short(f.stall))
	all := true
	for _, v := range f.verdicts() {
		word := "PASS"
		if !v.met {
			word, all = "FAIL", false
		}
		sc.printf("%s  %-42s %s", word, v.name, v.figure)
		for _, n := range v.notes {
			sc.printf("%48s %s", "", n)
		}
	}
	return all
}
