package pgpooledotel

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/metrics"
)

// Histograms gives the SDK the pools' histograms: db.client.connection.wait_time,
// use_time and create_time. The pool counts them itself, with bounds of its own,
// so views do not apply, and the temporality is cumulative.
//
//	histograms := pgpooledotel.NewHistograms()
//	reader := sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithProducer(histograms))
//	…
//	registration, err := pgpooledotel.RegisterDB(db, pgpooledotel.WithHistograms(histograms))
type Histograms struct {
	mu    sync.Mutex // guards pools; not held while their statistics are read
	pools []*produced
}

type produced struct {
	pool  pgpooled.StatsSource
	attrs attribute.Set
	since time.Time
}

// NewHistograms makes a producer for sdkmetric.WithProducer, as yet without pools.
func NewHistograms() *Histograms { return &Histograms{} }

func (h *Histograms) add(pool pgpooled.StatsSource, attrs []attribute.KeyValue) *produced {
	p := &produced{pool: pool, attrs: attribute.NewSet(attrs...), since: time.Now()}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pools = append(h.pools, p)
	return p
}

func (h *Histograms) remove(p *produced) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pools = slices.DeleteFunc(h.pools, func(q *produced) bool { return p == q })
}

// Produce implements the SDK's metric.Producer.
func (h *Histograms) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	h.mu.Lock()
	pools := slices.Clone(h.pools)
	h.mu.Unlock()
	if len(pools) == 0 {
		return nil, nil
	}
	now := time.Now()
	points := map[string][]metricdata.HistogramDataPoint[float64]{}
	for _, p := range pools {
		s := p.pool.Stats()
		for i := range metrics.Table {
			if m := &metrics.Table[i]; m.Kind == metrics.Histogram {
				points[m.OTel] = add(points[m.OTel], p.point(m.Histogram(&s), now))
			}
		}
	}
	out := metricdata.ScopeMetrics{Scope: instrumentation.Scope{Name: scope, SchemaURL: semconv.SchemaURL}}
	for i := range metrics.Table {
		if m := &metrics.Table[i]; m.Kind == metrics.Histogram {
			out.Metrics = append(out.Metrics, metricdata.Metrics{Name: m.OTel, Description: m.Help, Unit: m.Unit,
				Data: metricdata.Histogram[float64]{DataPoints: points[m.OTel], Temporality: metricdata.CumulativeTemporality}})
		}
	}
	return []metricdata.ScopeMetrics{out}, nil
}

// add adds a pool's point. Those of one name become one point, as the SDK does
// with the instruments: an exporter may refuse everything for the sake of two.
func add(points []metricdata.HistogramDataPoint[float64], q metricdata.HistogramDataPoint[float64]) []metricdata.HistogramDataPoint[float64] {
	for i := range points {
		p := &points[i]
		if !p.Attributes.Equals(&q.Attributes) {
			continue
		}
		p.Count += q.Count
		p.Sum += q.Sum
		for j, n := range q.BucketCounts {
			p.BucketCounts[j] += n
		}
		return points
	}
	return append(points, q)
}

func (p *produced) point(h pgpooled.Histogram, now time.Time) metricdata.HistogramDataPoint[float64] {
	counts := make([]uint64, len(h.Counts))
	for i, n := range h.Counts {
		counts[i] = uint64(n)
	}
	return metricdata.HistogramDataPoint[float64]{
		Attributes: p.attrs, StartTime: p.since, Time: now,
		Count: uint64(h.Count()), Sum: h.Sum.Seconds(), Bounds: metrics.Bounds(), BucketCounts: counts,
	}
}
