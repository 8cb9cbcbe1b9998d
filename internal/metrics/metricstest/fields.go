// Package metricstest is what the tests of the metrics adapters share: Stats with
// every field set, and the things that happen to a real pool.
package metricstest

import (
	"reflect"
	"time"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/metrics"
)

// Source is a pool with the statistics that a test gives it.
type Source struct {
	S     pgpooled.Stats
	Reads int // how often they were read
}

// Stats implements pgpooled.StatsSource.
func (s *Source) Stats() pgpooled.Stats {
	s.Reads++
	return s.S
}

// Fields are the names of those fields of pgpooled.Stats that are to be metrics:
// all but the ones that metrics.Without gives a reason for.
func Fields() []string {
	var names []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[pgpooled.Stats]()) {
		if metrics.Without[f.Name] == "" {
			names = append(names, f.Name)
		}
	}
	return names
}

// Set gives a field the value n, in seconds if it is a duration, and n entries of
// one second each if it is a histogram.
func Set(s *pgpooled.Stats, field string, n int) {
	f := reflect.ValueOf(s).Elem().FieldByName(field)
	switch f.Interface().(type) {
	case int, int64:
		f.SetInt(int64(n))
	case time.Duration:
		f.SetInt(int64(n) * int64(time.Second))
	case pgpooled.Histogram:
		h := pgpooled.Histogram{Sum: time.Duration(n) * time.Second}
		for i, b := range pgpooled.HistogramBounds() {
			if b == time.Second {
				h.Counts[i] = int64(n)
			}
		}
		f.Set(reflect.ValueOf(h))
	default:
		panic("metricstest: " + field + " is of a kind that no metric has")
	}
}

// Full has another value in every field.
func Full() *Source {
	s := &Source{S: pgpooled.Stats{Name: "shop"}}
	for i, f := range Fields() {
		Set(&s.S, f, i+1)
	}
	s.S.Open = s.S.InUse + s.S.Idle + s.S.Opening + s.S.Closing
	return s
}
