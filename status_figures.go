package pgpooled

import (
	"strconv"
	"strings"
	"time"
)

// tiles are the counts of the moment.
func (r *statusReport) tiles() []statusCount {
	s := &r.Pool
	number := func(name string, n int, class string) statusCount {
		return statusCount{Name: name, Value: strconv.Itoa(n), Class: class}
	}
	return []statusCount{
		number("in use", s.InUse, "use"), number("idle", s.Idle, "idle"), number("opening", s.Opening, "opening"), number("closing", s.Closing, "closing"),
		{Name: "open, of at most", Value: strconv.Itoa(s.Open) + " / " + limitText(s.MaxOpenConns)},
		number("callers waiting", s.Waiting, ""), number("most in use", s.PeakInUse, ""),
	}
}

// counts are the totals. Those that are bad are what an operator should look at
// if they are not zero.
func (r *statusReport) counts() []statusCount {
	s := &r.Pool
	var list []statusCount
	add := func(name string, n int64) {
		list = append(list, statusCount{Name: name, Value: strconv.FormatInt(n, 10)})
	}
	bad := func(name string, n int64) {
		list = append(list, statusCount{Name: name, Value: strconv.FormatInt(n, 10), Bad: n > 0})
	}
	text := func(name, value string) { list = append(list, statusCount{Name: name, Value: value}) }
	add("sessions handed out", s.Acquires)
	text("wait for one", s.WaitTimes.inShort())
	text("use of one", s.UseTimes.inShort())
	add("calls that waited", s.Waits)
	text("how long they waited together", round(s.WaitTime).String())
	bad("waits ended by pool_timeout", s.PoolTimeouts)
	add("waits ended by their context", s.Cancelled)
	add("sessions opened", s.Opens)
	text("opening one", s.OpenTimes.inShort())
	bad("attempts to open that failed", s.OpenErrors)
	add("of these, tried again", s.OpenRetries)
	bad("outages", s.Outages)
	text("the outage by now", round(s.OutageFor).String())
	bad("closed: the connection failed during a call", s.ClosedBroken)
	add("closed: the server had closed it", s.ClosedDead)
	add("closed: a context ended during a call", s.ClosedCancelled)
	bad("closed: a transaction or rows were left open", s.ClosedInTx)
	add("closed: max_idle_conns", s.ClosedMaxIdle)
	add("closed: conn_max_idle_time", s.ClosedMaxIdleTime)
	add("closed: conn_max_lifetime", s.ClosedMaxLifetime)
	add("closed: the limit was lowered", s.ClosedLimit)
	add("closed: Refresh", s.ClosedRefresh)
	add("closed: it served a repeated read", s.ClosedReplay)
	add("closed: its server was demoted", s.ClosedDemoted)
	add("unused leases given to others", s.Reclaimed)
	bad("leases held too long", s.Leaks)
	add("reads that ran again", s.Replays)
	add("other statements that ran again", s.Reruns)
	bad("outcomes unknown", s.OutcomesUnknown)
	add("lost COMMITs found committed", s.LostCommitted)
	bad("lost COMMITs found not committed", s.LostAborted)
	add("transactions that RunTx ran again", s.TxRepeated)
	bad("servers demoted", s.Demotions)
	text("idle sessions kept, at most", kept(s.MaxIdleConns))
	add("idle sessions kept warm", int64(s.MinIdleConns))
	return list
}

// kept is max_idle_conns, where 0 keeps none and -1 all.
func kept(n int) string {
	if n < 0 {
		return "all"
	}
	return strconv.Itoa(n)
}

// inShort says what a person wants to know of a histogram: within which of its
// bounds the half and nearly all of the durations were, and their mean.
func (h *Histogram) inShort() string {
	n := h.Count()
	if n <= 0 {
		return "–"
	}
	within := func(share float64) string {
		var seen float64
		for i, bound := range histogramBounds {
			if seen += float64(h.Counts[i]); seen >= share*float64(n) {
				return "≤ " + bound.String()
			}
		}
		return "> " + histogramBounds[len(histogramBounds)-1].String()
	}
	return "half " + within(0.5) + ", 99 % " + within(0.99) + ", mean " + round(h.Sum/time.Duration(n)).String()
}

// chart is a sparkline over historyOf, 600 wide and 60 high.
type chart struct {
	Title, Now, Most string
	Lines            []chartLine
}

type chartLine struct{ Class, Path string }

// charts draws the history.
func (r *statusReport) charts() []chart {
	// What happened since the sample before, per second.
	rate := func(total func(*sample) int64) func(a, b *sample) float64 {
		return func(a, b *sample) float64 {
			took := b.Time.Sub(a.Time)
			if took < sampleEvery/2 { // the first one, or a page right after it
				return 0
			}
			return float64(total(b)-total(a)) / took.Seconds()
		}
	}
	moment := func(count func(*sample) int) func(a, b *sample) float64 {
		return func(_, b *sample) float64 { return float64(count(b)) }
	}
	open := func(s *sample) int { return s.InUse + s.Idle + s.Opening + s.Closing }
	failures := func(s *sample) int64 { return s.OpenErrors + s.PoolTimeouts + s.ClosedBroken + s.OutcomesUnknown }
	return []chart{
		r.draw("sessions in use",
			series{"limit", moment(func(s *sample) int { return s.MaxOpenConns })}, series{"open", moment(open)}, series{"use", moment(func(s *sample) int { return s.InUse })}),
		r.draw("callers waiting", series{"use", moment(func(s *sample) int { return s.Waiting })}),
		r.draw("sessions handed out per second", series{"use", rate(func(s *sample) int64 { return s.Acquires })}),
		r.draw("calls that had to wait per second", series{"use", rate(func(s *sample) int64 { return s.Waits })}),
		r.draw("sessions opened per second", series{"open", rate(func(s *sample) int64 { return s.Opens })}),
		r.draw("failures per second", series{"bad", rate(failures)}),
	}
}

// series is a line: its value at the second of two neighbouring samples.
type series struct {
	class string
	value func(before, at *sample) float64
}

// draw makes a chart; its figures are those of the last series.
func (r *statusReport) draw(title string, all ...series) chart {
	samples := r.History.Samples
	values := make([][]float64, len(all))
	top := 0.0
	for i, s := range all {
		values[i] = make([]float64, len(samples))
		for j := range samples {
			values[i][j] = s.value(&samples[max(j-1, 0)], &samples[j])
			top = max(top, values[i][j])
		}
	}
	c := chart{Title: title}
	for i, s := range all {
		c.Lines = append(c.Lines, chartLine{s.class, r.path(values[i], top)})
	}
	last := values[len(values)-1]
	most := 0.0
	for _, v := range last {
		most = max(most, v)
	}
	c.Now, c.Most = short(last[len(last)-1]), short(most)
	return c
}

// path draws one line. Where the program stood still, or was suspended, it has a
// gap.
func (r *statusReport) path(values []float64, top float64) string {
	const width, height, edge = 600.0, 60.0, 2.0
	var b strings.Builder
	var before time.Time
	for i, s := range r.History.Samples {
		at := s.Time.Round(0) // by the wall clock
		age := r.Time.Round(0).Sub(at)
		if age < 0 || age > historyOf {
			continue
		}
		command := "L"
		if before.IsZero() || at.Sub(before) > 5*sampleEvery {
			command = "M"
		}
		before = at
		y := height - edge
		if top > 0 {
			y -= values[i] / top * (height - 2*edge)
		}
		b.WriteString(command + decimal(width*(1-float64(age)/float64(historyOf))) + " " + decimal(y))
	}
	return b.String()
}

// short writes a number with at most one digit after the point.
func short(f float64) string { return strings.TrimSuffix(decimal(f), ".0") }
