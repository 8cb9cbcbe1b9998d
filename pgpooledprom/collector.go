// Package pgpooledprom shows pgpooled's pools to Prometheus.
//
//	db, err := sql.Open("pgpooled", dsn)
//	…
//	collector, err := pgpooledprom.ForDB(db)
//	if err != nil {
//		log.Fatal(err)
//	}
//	prometheus.MustRegister(collector)
//
// Every series has the label pool. docs/metrics.md of pgpooled has the list of
// all metrics and what to alert on; alerts.yml and dashboard.json are for
// Prometheus and Grafana.
package pgpooledprom

import (
	"database/sql"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/metrics"
)

var _ prometheus.Collector = (*Collector)(nil)

// Collector is the prometheus.Collector of one pool. For several pools register
// several; that their names differ is up to the caller. Each collection reads
// the pool's statistics once and waits for nothing. A Collector may be used from
// any goroutine; once its pool is closed it should be unregistered.
type Collector struct {
	pool  pgpooled.StatsSource
	descs []*prometheus.Desc // of metrics.Table, row by row
}

// Option changes a [Collector].
type Option func(*options)

type options struct{ name string }

// WithPoolName sets the label pool. The default is the pool's own name: pool_name
// of the DSN, or host:port/database. Two pools of one database need it, or a
// pool_name each, else the second cannot be registered.
func WithPoolName(name string) Option { return func(o *options) { o.name = name } }

// NewCollector makes the collector of a pool, as a [pgpooled.Connector].
func NewCollector(pool pgpooled.StatsSource, opts ...Option) *Collector {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if o.name == "" {
		o.name = pool.Stats().Name
	}
	c := &Collector{pool: pool}
	byName := map[string]*prometheus.Desc{}
	for _, m := range metrics.Table {
		if byName[m.Prom] == nil {
			var labels []string
			if m.Label.Prom != "" {
				labels = append(labels, m.Label.Prom)
			}
			byName[m.Prom] = prometheus.NewDesc(m.Prom, m.Help, labels, prometheus.Labels{"pool": o.name})
		}
		c.descs = append(c.descs, byName[m.Prom])
	}
	return c
}

// ForDB is [NewCollector] for the pool under a *sql.DB. The error says that there
// is none, or that a wrapper hides it.
func ForDB(db *sql.DB, opts ...Option) (*Collector, error) {
	c, ok := pgpooled.ConnectorOf(db)
	if !ok {
		return nil, errors.New("pgpooledprom: not a pgpooled database, or a wrapper hides it: use NewCollector with the pgpooled.Connector")
	}
	return NewCollector(c, opts...), nil
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for i, d := range c.descs {
		if i == 0 || d != c.descs[i-1] {
			ch <- d
		}
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	s := c.pool.Stats()
	for i := range metrics.Table {
		if m := constant(c.descs[i], &metrics.Table[i], &s); m != nil {
			ch <- m
		}
	}
}

// constant is a metric's value now, nil if there is none.
func constant(d *prometheus.Desc, m *metrics.Metric, s *pgpooled.Stats) prometheus.Metric {
	var labels []string
	if m.Label.Prom != "" {
		labels = append(labels, m.Label.Value)
	}
	if m.Kind == metrics.Histogram {
		h := m.Histogram(s)
		upTo := make(map[float64]uint64)
		var n uint64
		for i, bound := range metrics.Bounds() {
			n += uint64(h.Counts[i])
			upTo[bound] = n
		}
		return prometheus.MustNewConstHistogram(d, uint64(h.Count()), h.Sum.Seconds(), upTo, labels...)
	}
	v, ok := m.Value(s)
	if !ok {
		return nil
	}
	kind := prometheus.GaugeValue
	if m.Kind == metrics.Counter {
		kind = prometheus.CounterValue
	}
	return prometheus.MustNewConstMetric(d, kind, v, labels...)
}
