package pgpooled

import (
	"cmp"
	"slices"
	"time"
)

// The states of a status page. None of them is the outcome of a question to the
// server: they say what the pool's own calls have met.
const (
	stateWorking     = "working"     // sessions are open
	stateSaturated   = "saturated"   // all that the limit allows are in use, and callers wait
	stateConnecting  = "connecting"  // none is open yet
	stateIdle        = "idle"        // none is open, and nobody wants one
	stateRefused     = "refused"     // connecting fails for a reason that does not pass, or with retry_mode=off
	stateUnreachable = "unreachable" // an outage
	stateClosed      = "closed"      // by the program
)

// heldFor is how long a session has to be leased to be listed, and heldMost how
// many are.
const (
	heldFor  = time.Second
	heldMost = 10
)

// statusReport is what StatusHandler shows: its JSON, and the page's source.
type statusReport struct {
	Time       time.Time       `json:"time"`
	State      string          `json:"state"`
	Since      time.Time       `json:"since,omitzero"`       // when the outage began
	Error      string          `json:"error,omitempty"`      // why connecting last failed, gone with a success
	LastAnswer time.Time       `json:"last_answer,omitzero"` // when a session last came back in good order
	Pool       Stats           `json:"pool"`
	Held       []heldSession   `json:"held"`
	Events     []statusEvent   `json:"events"` // the newest one first
	Server     []statusSetting `json:"server"`
	Settings   []statusSetting `json:"settings"`
	Hidden     int             `json:"hidden"` // settings of the DSN, for lib/pq and the server, that are not shown
	History    statusHistory   `json:"history"`
}

// heldSession is a session that somebody has leased for a while.
type heldSession struct {
	Since time.Time `json:"since"`
	Stack string    `json:"stack,omitempty"` // who took it, with leak_detection_threshold
}

// statusEvent is a line of the log.
type statusEvent struct {
	Time  time.Time         `json:"time"`
	Until time.Time         `json:"until,omitzero"` // of several in a row, when the last one was
	Count int               `json:"count"`
	Level string            `json:"level"`
	Text  string            `json:"text"`
	Attrs map[string]string `json:"attrs,omitempty"`

	attrs []kv // in order
}

// statusSetting is a setting as it is now.
type statusSetting struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Means   string `json:"means,omitempty"` // what a zero stands for
	Default bool   `json:"default"`
}

type statusHistory struct {
	Every   float64  `json:"every"` // seconds
	Samples []sample `json:"samples"`
}

// until ends the history with the moment of the report. It takes the place of a
// sample that was just taken: rates over a blink say nothing.
func (h *statusHistory) until(now sample) {
	if n := len(h.Samples); n > 1 && now.Time.Sub(h.Samples[n-1].Time) < sampleEvery/2 {
		h.Samples = h.Samples[:n-1]
	}
	h.Samples = append(h.Samples, now)
}

// report reads the pool. It takes no session and waits for nothing but the
// pool's mutex.
func (c *Connector) report() *statusReport {
	p, now := c.pool, time.Now()
	r := &statusReport{Time: now, Held: []heldSession{}, History: statusHistory{Every: sampleEvery.Seconds()}}
	p.mu.Lock()
	r.Pool = p.statsLocked()
	r.State, r.Error = p.stateLocked()
	r.Since, r.LastAnswer = p.outage.since, p.outage.answer
	past := slices.Clone(p.past.list)
	limits := p.limits
	if p.history != nil {
		r.History.Samples = slices.Clone(p.history.samples)
	}
	var stacks [][]uintptr
	for s := p.leased.first; s != nil && len(stacks) < heldMost && now.Sub(s.taken) >= heldFor; s = s.next {
		r.Held = append(r.Held, heldSession{Since: s.taken})
		stacks = append(stacks, s.lease.stack)
	}
	p.mu.Unlock()

	if c.closed.Load() { // perhaps only this one of the connectors that share it
		r.State = stateClosed
	}
	for i, stack := range stacks {
		if len(stack) > 0 {
			r.Held[i].Stack = clip(frames(stack))
		}
	}
	r.Events = make([]statusEvent, 0, len(past))
	for _, e := range slices.Backward(past) {
		r.Events = append(r.Events, e.shown())
	}
	r.Server, r.Hidden = c.cfg.shownTarget()
	r.Settings = c.cfg.shownSettings(&limits)
	r.History.until(r.Pool.sample(now))
	return r
}

// stateLocked is the state of the pool, and why connecting last failed, empty
// after a success.
func (p *pool) stateLocked() (state, why string) {
	if p.outage.last != nil {
		why = clip(p.outage.last.Error())
	}
	limit := p.limits.maxOpen
	switch {
	case p.closed:
		state = stateClosed
	case !p.outage.since.IsZero():
		state, why = stateUnreachable, cmp.Or(why, "no answer within pool_timeout")
	case p.outage.refused != "":
		state = stateRefused
	case p.waiters.n > 0 && limit > 0 && p.leased.n+p.closing >= limit:
		state = stateSaturated
	case p.leased.n+len(p.idle) > 0:
		state = stateWorking
	case p.opening > 0:
		state = stateConnecting
	default:
		state = stateIdle
	}
	return state, why
}

func (e *pastEvent) shown() statusEvent {
	s := statusEvent{Time: e.at, Count: e.count, Level: e.level.String(), Text: e.text, attrs: e.attrs}
	if e.count > 1 {
		s.Until = e.until
	}
	if len(e.attrs) > 0 {
		s.Attrs = make(map[string]string, len(e.attrs))
	}
	for _, a := range e.attrs {
		s.Attrs[a.key] = a.value
	}
	return s
}

// shownTarget is where the pool connects to, without what may be a secret. What
// is said of TLS and of several hosts is in effect, wherever it came from.
func (c *Config) shownTarget() (list []statusSetting, hidden int) {
	target, hidden := c.target()
	for _, s := range target {
		if !slices.Contains(printable, s.key) {
			list = append(list, statusSetting{Key: s.key, Value: s.value})
		}
	}
	for _, s := range []struct{ key, value, byDefault string }{ // lib/pq's defaults
		{"sslmode", string(c.PQ.SSLMode), "require"},
		{"sslnegotiation", string(c.PQ.SSLNegotiation), "postgres"},
		{"target_session_attrs", string(c.PQ.TargetSessionAttrs), "any"},
		{"load_balance_hosts", string(c.PQ.LoadBalanceHosts), "disable"},
	} {
		value := plainWord(cmp.Or(s.value, s.byDefault))
		list = append(list, statusSetting{Key: s.key, Value: value, Default: value == s.byDefault})
	}
	return list, hidden
}

// shownSettings are pgpooled's own settings: as configured, except for those that
// were changed while the pool runs. What can hold anything is shown only if it
// is an ordinary name, as in String; pool_name is in every line of the log.
func (c *Config) shownSettings(l *limits) []statusSetting {
	now := *c
	now.MaxOpenConns, now.MaxIdleConns = l.maxOpen, l.maxIdle
	now.ConnMaxIdleTime, now.ConnMaxLifetime = l.maxIdleTime, l.maxLifetime
	var list []statusSetting
	for i := range params {
		p := &params[i]
		if p.translated() {
			continue
		}
		s := statusSetting{Key: p.key}
		s.Value, s.Default = p.format(&now)
		switch {
		case p.auto && s.Default:
			s.Value = p.defText
		case s.Value == "0":
			s.Means = p.zero
		case p.key != "pool_name":
			s.Value = plainWord(s.Value)
		}
		list = append(list, s)
	}
	return list
}
