package pgpooledotel_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"sort"
	"strings"
	"testing"

	"github.com/lib/pq"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/semconv/v1.43.0/dbconv"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/metrics"
	"github.com/pgpooled/pgpooled/internal/metrics/metricstest"
	"github.com/pgpooled/pgpooled/pgpooledotel"
)

// sdk is OpenTelemetry's own, read by hand.
type sdk struct {
	reader     *sdkmetric.ManualReader
	provider   *sdkmetric.MeterProvider
	histograms *pgpooledotel.Histograms
}

func newSDK(t *testing.T) *sdk {
	t.Helper()
	s := &sdk{histograms: pgpooledotel.NewHistograms()}
	s.reader = sdkmetric.NewManualReader(sdkmetric.WithProducer(s.histograms))
	s.provider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(s.reader))
	t.Cleanup(func() {
		if err := s.provider.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *sdk) register(t *testing.T, pool pgpooled.StatsSource, opts ...pgpooledotel.Option) *pgpooledotel.Registration {
	t.Helper()
	r, err := pgpooledotel.Register(pool, append([]pgpooledotel.Option{pgpooledotel.WithMeterProvider(s.provider), pgpooledotel.WithHistograms(s.histograms)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// collect is every figure, with its instrument's kind and unit.
func (s *sdk) collect(t *testing.T) map[string]figure {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := s.reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	out := map[string]figure{}
	for _, scope := range all.ScopeMetrics {
		if scope.Scope.Name != "github.com/pgpooled/pgpooled/pgpooledotel" || scope.Scope.SchemaURL == "" {
			t.Errorf("scope %+v", scope.Scope)
		}
		for _, m := range scope.Metrics {
			add := func(kind string, attrs attribute.Set, v float64) {
				key := m.Name + "{" + attrs.Encoded(attribute.DefaultEncoder()) + "}"
				if _, twice := out[key]; twice {
					t.Errorf("%s twice", key)
				}
				out[key] = figure{v, kind, m.Unit, m.Description}
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(sumKind(data.IsMonotonic), p.Attributes, float64(p.Value))
				}
			case metricdata.Sum[float64]:
				for _, p := range data.DataPoints {
					add(sumKind(data.IsMonotonic), p.Attributes, p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					add("gauge", p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					add("gauge", p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					var n uint64
					for _, c := range p.BucketCounts {
						n += c
					}
					if n != p.Count || len(p.BucketCounts) != len(p.Bounds)+1 || p.Time.Before(p.StartTime) {
						t.Errorf("%s: %+v", m.Name, p)
					}
					add("histogram", p.Attributes, p.Sum)
				}
			default:
				t.Errorf("%s is a %T", m.Name, data)
			}
		}
	}
	return out
}

type figure struct {
	v                float64
	kind, unit, help string
}

func sumKind(monotonic bool) string {
	if monotonic {
		return "counter"
	}
	return "level"
}

// Each field of Stats is set by itself: one figure has its value then, and the
// others stay. A new field without a metric fails here.
func TestEachFieldOfStatsIsOneFigure(t *testing.T) {
	t.Parallel()
	collect := func(s *metricstest.Source) map[string]figure {
		sdk := newSDK(t)
		sdk.register(t, s, pgpooledotel.WithPoolName("p"))
		return sdk.collect(t)
	}
	zero := collect(&metricstest.Source{})
	fields := metricstest.Fields()
	if len(fields) < 30 {
		t.Fatalf("only %d fields", len(fields))
	}
	for _, field := range fields {
		var s metricstest.Source
		metricstest.Set(&s.S, field, 7)
		var moved []string
		for key, f := range collect(&s) {
			if was, ok := zero[key]; ok && was == f {
				continue
			}
			moved = append(moved, key)
			if f.v != 7 {
				t.Errorf("%s = 7 is %s = %v", field, key, f.v)
			}
		}
		if len(moved) != 1 {
			t.Errorf("%s = 7 moves %v, want one figure: give it a row in internal/metrics/table.go, or a reason in metrics.Without", field, moved)
		}
	}
}

// All figures, with another value in each field.
func TestTheFiguresAreTheOnesInTestdata(t *testing.T) {
	t.Parallel()
	sdk := newSDK(t)
	source := metricstest.Full()
	sdk.register(t, source, pgpooledotel.WithAttributes(attribute.String("service", "till")))
	source.Reads = 0
	var lines []string
	for key, f := range sdk.collect(t) {
		lines = append(lines, fmt.Sprintf("%s %v %s %s\n", key, f.v, f.kind, f.unit))
	}
	if source.Reads != 2 {
		t.Errorf("the statistics were read %d times, want once for the instruments and once for the histograms", source.Reads)
	}
	sort.Strings(lines)
	text := strings.Join(lines, "")
	const file = "testdata/metrics.txt"
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("other figures than in %s; if they are meant, run this test with -update and look at the difference:\n%s", file, text)
	}
}

// What the semantic conventions know has their names, units and kinds.
func TestTheSemanticConventionsAreKept(t *testing.T) {
	t.Parallel()
	type convention interface {
		Name() string
		Unit() string
	}
	sdk := newSDK(t)
	sdk.register(t, metricstest.Full())
	found := sdk.collect(t)
	pool := dbconv.ClientConnectionCountObservable{}.AttrClientConnectionPoolName("shop")
	state := func(s dbconv.ClientConnectionStateAttr) attribute.KeyValue {
		return dbconv.ClientConnectionCountObservable{}.AttrClientConnectionState(s)
	}
	known := 0
	for _, c := range []struct {
		convention
		kind  string
		attrs []attribute.KeyValue
	}{
		{dbconv.ClientConnectionCountObservable{}, "level", []attribute.KeyValue{pool, state(dbconv.ClientConnectionStateIdle)}},
		{dbconv.ClientConnectionCountObservable{}, "level", []attribute.KeyValue{pool, state(dbconv.ClientConnectionStateUsed)}},
		{dbconv.ClientConnectionMaxObservable{}, "level", []attribute.KeyValue{pool}},
		{dbconv.ClientConnectionIdleMaxObservable{}, "level", []attribute.KeyValue{pool}},
		{dbconv.ClientConnectionIdleMinObservable{}, "level", []attribute.KeyValue{pool}},
		{dbconv.ClientConnectionPendingRequestsObservable{}, "level", []attribute.KeyValue{pool}},
		{dbconv.ClientConnectionTimeoutsObservable{}, "counter", []attribute.KeyValue{pool}},
		{dbconv.ClientConnectionCreateTime{}, "histogram", []attribute.KeyValue{pool}},
		{dbconv.ClientConnectionWaitTime{}, "histogram", []attribute.KeyValue{pool}},
		{dbconv.ClientConnectionUseTime{}, "histogram", []attribute.KeyValue{pool}},
	} {
		set := attribute.NewSet(c.attrs...)
		key := c.Name() + "{" + set.Encoded(attribute.DefaultEncoder()) + "}"
		f, ok := found[key]
		if !ok || f.kind != c.kind || f.unit != c.Unit() {
			t.Errorf("%s is %+v, want a %s in %s", key, f, c.kind, c.Unit())
		}
		known++
	}
	for key := range found {
		if strings.HasPrefix(key, "db.") {
			known--
		} else if !strings.HasPrefix(key, "pgpooled.") {
			t.Errorf("%s is neither a convention's nor ours", key)
		}
	}
	if known != 0 {
		t.Errorf("%d figures named db.* too many or too few", -known)
	}
}

func TestUnregisterEndsTheCollectionOfOnePool(t *testing.T) {
	t.Parallel()
	sdk := newSDK(t)
	r := sdk.register(t, metricstest.Full())
	sdk.register(t, metricstest.Full(), pgpooledotel.WithPoolName("stock"))
	both := len(sdk.collect(t))
	for range 2 {
		if err := r.Unregister(); err != nil {
			t.Fatal(err)
		}
	}
	one := sdk.collect(t)
	if len(one) == 0 || 2*len(one) != both {
		t.Errorf("%d figures of two pools, %d of one", both, len(one))
	}
	for key := range one {
		if !strings.Contains(key, "stock") {
			t.Errorf("still there: %s", key)
		}
	}
}

// Two pools of one name are one figure each, histograms too: exporters refuse
// two points with the same attributes.
func TestPoolsOfOneNameAreAddedUp(t *testing.T) {
	t.Parallel()
	figures := func(pools int) map[string]figure {
		sdk := newSDK(t)
		for range pools {
			sdk.register(t, metricstest.Full())
		}
		return sdk.collect(t) // checks that no figure is there twice
	}
	one, two := figures(1), figures(2)
	if len(one) != len(two) {
		t.Errorf("%d figures of one pool, %d of two", len(one), len(two))
	}
	for key, f := range two {
		if f.kind != "gauge" && f.v != 2*one[key].v {
			t.Errorf("%s is %v, of one pool %v", key, f.v, one[key].v)
		}
	}
}

// A limit that is off is no figure: 0 would make every share of it infinite.
func TestALimitThatIsOffIsNoFigure(t *testing.T) {
	t.Parallel()
	s := metricstest.Full()
	s.S.MaxOpenConns, s.S.MaxIdleConns = 0, -1
	sdk := newSDK(t)
	sdk.register(t, s)
	for key := range sdk.collect(t) {
		if strings.HasPrefix(key, "db.client.connection.max") || strings.HasPrefix(key, "db.client.connection.idle.max") {
			t.Errorf("%s is there", key)
		}
	}
}

func TestAnotherDriversDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	c, err := pq.NewConnector("")
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	defer db.Close()
	if _, err := pgpooledotel.RegisterDB(db); err == nil {
		t.Error("no error")
	}
}

func TestTheFiguresMoveByWhatHappened(t *testing.T) {
	t.Parallel()
	metricstest.Happen(t, server, func(t *testing.T, db *sql.DB) metricstest.Reader {
		sdk := newSDK(t)
		r, err := pgpooledotel.RegisterDB(db, pgpooledotel.WithMeterProvider(sdk.provider), pgpooledotel.WithPoolName("p"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := r.Unregister(); err != nil {
				t.Error(err)
			}
		})
		return func() map[string]float64 {
			found, byField := sdk.collect(t), map[string]float64{}
			for _, m := range metrics.Table {
				attrs := []attribute.KeyValue{attribute.String("db.client.connection.pool.name", "p")}
				if m.Label.OTel != "" {
					attrs = append(attrs, attribute.String(m.Label.OTel, m.Label.Value))
				}
				set := attribute.NewSet(attrs...)
				byField[m.Field] = found[m.OTel+"{"+set.Encoded(attribute.DefaultEncoder())+"}"].v
			}
			return byField
		}
	})
}
