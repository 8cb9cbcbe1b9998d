package main

import "time"

// loadResult is what load --json prints. Durations are in milliseconds unless
// their names say seconds.
type loadResult struct {
	ExitStatus int             `json:"exit_status"`
	Met        bool            `json:"met"`
	Work       string          `json:"work"`
	Users      int             `json:"users"`
	Rate       float64         `json:"rate"` // of an open loop, 0 = closed
	Limit      int             `json:"max_open_conns"`
	Seconds    float64         `json:"seconds"`
	Server     string          `json:"server_version"`
	Calls      int64           `json:"calls"`
	Failed     int64           `json:"failed"`
	Late       int64           `json:"not_begun"` // of an open loop's schedule
	PerSecond  float64         `json:"calls_per_second"`
	P50        float64         `json:"p50"`
	P99        float64         `json:"p99"`
	Max        float64         `json:"max"`
	ColdStart  float64         `json:"cold_start"`
	Failures   []jsonFailure   `json:"failures"`
	Criteria   []jsonCriterion `json:"criteria"`
	Restart    *jsonRestart    `json:"restart,omitempty"`
	Pool       jsonPool        `json:"pool"`
	Series     []jsonSample    `json:"series"`
	Events     []event         `json:"events"`
}

type jsonFailure struct {
	Op        string `json:"op"`
	Kind      string `json:"kind"`
	InRestart bool   `json:"in_restart"`
	Count     int64  `json:"count"`
	Example   string `json:"example"`
}

type jsonCriterion struct {
	Name   string   `json:"name"`
	Met    bool     `json:"met"`
	Figure string   `json:"figure"`
	Notes  []string `json:"notes"`
}

type jsonRestart struct {
	Recovered    bool    `json:"recovered"`
	AwaySeconds  float64 `json:"away_seconds"` // from the command's start until the server answered
	FirstSuccess float64 `json:"first_success"`
	GapSeconds   float64 `json:"longest_gap_seconds"` // without a call that succeeded
	Error        string  `json:"error,omitempty"`
}

type jsonPool struct {
	PeakInUse  int     `json:"peak_in_use"`
	Opens      int64   `json:"opens"`
	OpenErrors int64   `json:"open_errors"`
	Waits      int64   `json:"waits"`
	WaitMean   float64 `json:"wait_mean"`
	Replays    int64   `json:"replays"`
	Unknown    int64   `json:"outcomes_unknown"`
}

type jsonSample struct {
	At       float64 `json:"at"` // seconds
	Rate     float64 `json:"calls_per_second"`
	Failed   int64   `json:"failed"`
	P50      float64 `json:"p50"`
	P99      float64 `json:"p99"`
	InUse    int     `json:"in_use"`
	Idle     int     `json:"idle"`
	Waiting  int     `json:"waiting"`
	Sessions int     `json:"sessions"` // -1: the server gave no answer
}

func (f *figures) perSecond() float64 { return float64(f.calls) / max(f.length.Seconds(), 1e-9) }

func newLoadResult(f *figures, status int) *loadResult {
	r := &loadResult{
		ExitStatus: status, Met: true, Work: f.work, Users: f.users, Rate: f.rate, Limit: f.limit, Seconds: f.length.Seconds(), Server: printable(f.server),
		Calls: f.calls, Late: f.late, PerSecond: f.perSecond(), P50: milliseconds(f.median), P99: milliseconds(f.p99),
		Max: milliseconds(f.slowest), ColdStart: milliseconds(f.coldStart), Failures: []jsonFailure{}, Series: []jsonSample{}, Events: f.events,
		Pool: jsonPool{f.pool.PeakInUse, f.pool.Opens, f.pool.OpenErrors, f.pool.Waits,
			milliseconds(f.pool.WaitTime / time.Duration(max(f.pool.Waits, 1))), f.pool.Replays, f.pool.OutcomesUnknown},
	}
	for _, x := range f.failures {
		r.Failed += x.n
		r.Failures = append(r.Failures, jsonFailure{x.op, x.what, x.inOutage, x.n, printable(x.example)})
	}
	for _, v := range f.verdicts() {
		r.Met = r.Met && v.met
		r.Criteria = append(r.Criteria, jsonCriterion{v.name, v.met, v.figure, append([]string{}, v.notes...)})
	}
	if x := f.restart; x != nil {
		r.Restart = &jsonRestart{Recovered: x.recovered, AwaySeconds: x.away.Seconds(), FirstSuccess: milliseconds(x.firstAfter), GapSeconds: x.gap.Seconds()}
		if x.err != nil {
			r.Restart.Error = printable(x.err.Error())
		}
	}
	for _, s := range f.series {
		r.Series = append(r.Series, jsonSample{s.At.Seconds(), s.rate(), s.Failed, milliseconds(s.P50), milliseconds(s.P99), s.InUse, s.Idle, s.Waiting, s.Sessions})
	}
	return r
}
