package main

import "slices"

// spread is the middle of several rounds, and how far they lie apart.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	return spread{median(values), slices.Min(values), slices.Max(values)}
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// medians takes each figure by itself.
func medians(rounds []figures) figures {
	of := func(get func(figures) float64) float64 {
		var values []float64
		for _, f := range rounds {
			values = append(values, get(f))
		}
		return median(values)
	}
	m := figures{
		Calls:  of(func(f figures) float64 { return f.Calls }),
		Rate:   of(func(f figures) float64 { return f.Rate }),
		P50:    of(func(f figures) float64 { return f.P50 }),
		P99:    of(func(f figures) float64 { return f.P99 }),
		Max:    of(func(f figures) float64 { return f.Max }),
		CPU:    of(func(f figures) float64 { return f.CPU }),
		Allocs: of(func(f figures) float64 { return f.Allocs }),
		Bytes:  of(func(f figures) float64 { return f.Bytes }),
		Least:  of(func(f figures) float64 { return f.Least }),
	}
	for _, f := range rounds { // of errors each counts
		m.Errors += f.Errors
		if m.Error == "" {
			m.Error = f.Error
		}
	}
	return m
}

// ratios divides our figure by the rival's, round by round: what the machine
// did meanwhile is in both.
func ratios(own, other []figures, get func(figures) float64) *spread {
	var values []float64
	for i := range own {
		if d := get(other[i]); d > 0 {
			values = append(values, get(own[i])/d)
		}
	}
	if len(values) == 0 {
		return nil
	}
	s := spreadOf(values)
	return &s
}
