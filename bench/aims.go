package main

import "fmt"

// aim is something that pgpooled should reach in a run, and whether it did.
type aim struct {
	What     string  `json:"what"`
	Aim      float64 `json:"aim"`
	AtMost   bool    `json:"atMost"` // else at least
	Measured spread  `json:"measured"`
	Met      bool    `json:"met"`
	By       float64 `json:"by"` // per cent of the aim
}

// A goal is an aim against a rival in one of the works.
type goal struct {
	work, rival string
	p99         bool // else the rate
	aim         float64
}

var goals = []goal{
	{"select", pqTuned, false, 1.8},
	{"select", pgxSQL, false, 1},
	{"select", pqTuned, true, .7},
	{"select", pgxSQL, true, .7},
	{"text", pqTuned, false, .97},
	{"text-1", pqTuned, false, .95},
	{"tx", pqTuned, false, 1},
	{"rows", pqTuned, false, 1},
}

// judge holds the aims against what was measured. What was not measured is left
// out.
func judge(rep *report) []aim {
	var out []aim
	for _, g := range goals {
		w, r := rep.work(g.work), rep.rival(g.work, g.rival)
		if r == nil || r.Rate == nil || r.P99 == nil {
			continue
		}
		of, measured := "rate", *r.Rate
		if g.p99 {
			of, measured = "p99", *r.P99
		}
		a := aim{What: fmt.Sprintf("%s, %s: %s ÷ %s", w.What, count(w.Callers, "caller"), of, g.rival), Aim: g.aim, AtMost: g.p99, Measured: measured}
		out = append(out, a.judged())
	}
	for _, name := range []string{"cold", "cold-tls", "cold-far"} {
		s := rep.special(name)
		if s == nil || s.column(ours) < 0 {
			continue
		}
		c, one, ten := s.column(ours), s.Metrics[0], s.Metrics[1]
		var r []float64
		for i, t := range ten.Rounds[c] {
			r = append(r, t/one.Rounds[c][i])
		}
		a := aim{What: fmt.Sprintf("%s: “%s” ÷ “%s”", s.What, ten.Name, one.Name), Aim: 2, AtMost: true, Measured: spreadOf(r)}
		out = append(out, a.judged())
	}
	if s := rep.special("crowd"); s != nil && s.column(ours) >= 0 {
		for _, m := range s.Metrics {
			if m.Name == leastServed {
				out = append(out, aim{What: s.What + ": " + m.Name, Aim: .8, Measured: m.Values[s.column(ours)]}.judged())
			}
		}
	}
	return out
}

func (a aim) judged() aim {
	a.By = 100 * (a.Measured.Median/a.Aim - 1)
	if a.AtMost {
		a.By = -a.By
	}
	a.Met = a.By >= 0
	return a
}

func (a aim) verdict() string {
	if a.Met {
		return fmt.Sprintf("met, by %.0f %%", a.By)
	}
	return fmt.Sprintf("**missed by %.1f %%**", -a.By)
}

func (a aim) sign() string {
	if a.AtMost {
		return "≤"
	}
	return "≥"
}
