// Package metrics is the one table of what is measured of a pool: which field of
// pgpooled.Stats has which name in OpenTelemetry and in Prometheus. The adapters
// pgpooledotel and pgpooledprom and docs/metrics.md are made from it.
//
// The adapters are modules of their own and may be older or newer than this
// package: names and rows may be added here, not changed.
package metrics

import (
	"reflect"
	"time"

	"github.com/pgpooled/pgpooled"
)

// Kind is how a figure behaves.
type Kind int

// The kinds.
const (
	Level     Kind = iota // goes up and down, and may be added up over pools
	Gauge                 // goes up and down; adding it up means nothing
	Counter               // only grows
	Histogram             // durations by length; its figures only grow
)

func (k Kind) String() string { return [...]string{"up-down", "gauge", "counter", "histogram"}[k] }

// Label is what tells the series of one metric apart, besides the pool.
type Label struct {
	OTel, Prom string // its name
	Value      string
	Means      string // what docs/metrics.md says instead of Help
}

// Metric is one series of each pool.
type Metric struct {
	Field string // of pgpooled.Stats
	Kind  Kind

	OTel string // its name in OpenTelemetry
	Prom string // its name in Prometheus
	Unit string // in UCUM, as OpenTelemetry has it; durations are in seconds

	Label Label // zero = there is none
	Help  string
	Watch string // what to alert on, empty = nothing; for docs/metrics.md

	limit     bool // it may be off, which is said by the value of
	unlimited int
}

// Value reads the metric; ok is false where there is nothing to say, because a
// limit is off.
func (m *Metric) Value(s *pgpooled.Stats) (v float64, ok bool) {
	switch f := reflect.ValueOf(s).Elem().FieldByName(m.Field).Interface().(type) {
	case int:
		return float64(f), !m.limit || f != m.unlimited
	case int64:
		return float64(f), true
	case time.Duration:
		return f.Seconds(), true
	default:
		panic("metrics: " + m.Field + " is no figure")
	}
}

// Int says whether the values are whole numbers.
func (m *Metric) Int() bool { return m.Unit != "s" }

// Histogram reads a metric of that kind.
func (m *Metric) Histogram(s *pgpooled.Stats) pgpooled.Histogram {
	return reflect.ValueOf(s).Elem().FieldByName(m.Field).Interface().(pgpooled.Histogram)
}

// Bounds are the upper bounds of every histogram, in seconds.
func Bounds() []float64 {
	var out []float64
	for _, b := range pgpooled.HistogramBounds() {
		out = append(out, b.Seconds())
	}
	return out
}

// Without are the fields of pgpooled.Stats that are no metrics, and why.
var Without = map[string]string{
	"Name": "it is the pool's label",
	"Open": "it is the sum of the four states",
}
