package pgpooledotel

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/metrics"
)

// scope is the instrumentation scope of all metrics.
const scope = "github.com/pgpooled/pgpooled/pgpooledotel"

// Option changes what [Register] does.
type Option func(*options)

type options struct {
	provider   metric.MeterProvider
	name       string
	attrs      []attribute.KeyValue
	histograms *Histograms
}

// WithMeterProvider sets where the instruments are made; the default is
// otel.GetMeterProvider().
func WithMeterProvider(p metric.MeterProvider) Option { return func(o *options) { o.provider = p } }

// WithPoolName sets db.client.connection.pool.name. The default is the pool's own
// name: pool_name of the DSN, or host:port/database. Two pools of one database
// need it, or a pool_name each: figures of one name are added up, but of the peak
// and of the length of an outage only one is shown.
func WithPoolName(name string) Option { return func(o *options) { o.name = name } }

// WithAttributes adds attributes to every figure.
func WithAttributes(attrs ...attribute.KeyValue) Option {
	return func(o *options) { o.attrs = append(o.attrs, attrs...) }
}

// WithHistograms adds the pool to what h produces.
func WithHistograms(h *Histograms) Option { return func(o *options) { o.histograms = h } }

// Registration is a pool whose figures are being collected.
type Registration struct {
	callback   metric.Registration
	histograms *Histograms
	producer   *produced
	once       sync.Once
	err        error
}

// Unregister ends the collection. Call it when the pool is closed. It may be
// called again, from any goroutine.
func (r *Registration) Unregister() error {
	r.once.Do(func() {
		if r.histograms != nil {
			r.histograms.remove(r.producer)
		}
		r.err = r.callback.Unregister()
	})
	return r.err
}

// RegisterDB is [Register] for the pool under a *sql.DB. The error may say that
// there is none, or that a wrapper hides it.
func RegisterDB(db *sql.DB, opts ...Option) (*Registration, error) {
	c, ok := pgpooled.ConnectorOf(db)
	if !ok {
		return nil, errors.New("pgpooledotel: not a pgpooled database, or a wrapper hides it: use Register with the pgpooled.Connector")
	}
	return Register(c, opts...)
}

// Register has a pool's figures collected, as those of a [pgpooled.Connector],
// until Unregister is called. Each collection reads the pool's statistics once
// and waits for nothing.
func Register(pool pgpooled.StatsSource, opts ...Option) (*Registration, error) {
	o := options{provider: otel.GetMeterProvider()}
	for _, opt := range opts {
		opt(&o)
	}
	if o.name == "" {
		o.name = pool.Stats().Name
	}
	base := append([]attribute.KeyValue{semconv.DBClientConnectionPoolName(o.name)}, o.attrs...)
	meter := o.provider.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
	var (
		rows []series
		all  []metric.Observable
		last series
	)
	for i := range metrics.Table {
		m := &metrics.Table[i]
		if m.Kind == metrics.Histogram {
			continue
		}
		next := last // of the row before, if the name is the same
		if last.metric == nil || last.metric.OTel != m.OTel {
			var err error
			if next, err = newSeries(meter, m); err != nil {
				return nil, fmt.Errorf("pgpooledotel: %s: %w", m.OTel, err)
			}
			all = append(all, next.observable())
		}
		next.metric, next.attrs = m, metric.WithAttributeSet(attributes(base, m))
		rows = append(rows, next)
		last = next
	}
	callback, err := meter.RegisterCallback(func(_ context.Context, to metric.Observer) error {
		s := pool.Stats()
		for i := range rows {
			rows[i].observe(to, &s)
		}
		return nil
	}, all...)
	if err != nil {
		return nil, fmt.Errorf("pgpooledotel: %w", err)
	}
	r := &Registration{callback: callback, histograms: o.histograms}
	if o.histograms != nil {
		r.producer = o.histograms.add(pool, base)
	}
	return r, nil
}

func attributes(base []attribute.KeyValue, m *metrics.Metric) attribute.Set {
	all := append([]attribute.KeyValue(nil), base...)
	if m.Label.OTel != "" {
		all = append(all, attribute.String(m.Label.OTel, m.Label.Value))
	}
	return attribute.NewSet(all...)
}

// series is a row of the table with its instrument, one of the two.
type series struct {
	metric *metrics.Metric
	attrs  metric.MeasurementOption
	whole  metric.Int64Observable
	real   metric.Float64Observable
}

func newSeries(meter metric.Meter, m *metrics.Metric) (s series, err error) {
	unit, help := metric.WithUnit(m.Unit), metric.WithDescription(m.Help)
	switch {
	case m.Kind == metrics.Level && m.Int():
		s.whole, err = meter.Int64ObservableUpDownCounter(m.OTel, unit, help)
	case m.Kind == metrics.Gauge && m.Int():
		s.whole, err = meter.Int64ObservableGauge(m.OTel, unit, help)
	case m.Kind == metrics.Counter && m.Int():
		s.whole, err = meter.Int64ObservableCounter(m.OTel, unit, help)
	case m.Kind == metrics.Level:
		s.real, err = meter.Float64ObservableUpDownCounter(m.OTel, unit, help)
	case m.Kind == metrics.Gauge:
		s.real, err = meter.Float64ObservableGauge(m.OTel, unit, help)
	default:
		s.real, err = meter.Float64ObservableCounter(m.OTel, unit, help)
	}
	return s, err
}

func (s *series) observable() metric.Observable {
	if s.whole != nil {
		return s.whole
	}
	return s.real
}

func (s *series) observe(to metric.Observer, stats *pgpooled.Stats) {
	v, ok := s.metric.Value(stats)
	switch {
	case !ok:
	case s.whole != nil:
		to.ObserveInt64(s.whole, int64(v), s.attrs)
	default:
		to.ObserveFloat64(s.real, v, s.attrs)
	}
}
