package pgpooledprom_test

import (
	"bytes"
	"database/sql"
	"log/slog"
	"os"
	"testing"

	"github.com/lib/pq"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/metrics"
	"github.com/pgpooled/pgpooled/internal/metrics/metricstest"
	"github.com/pgpooled/pgpooled/pgpooledprom"
)

// gather collects the families of all collectors.
func gather(t *testing.T, cs ...prometheus.Collector) []*dto.MetricFamily {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	for _, c := range cs {
		if err := reg.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// values are the figures of one pool by name and label; of a histogram its count
// and its sum.
func values(families []*dto.MetricFamily) map[string]float64 {
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			key := f.GetName()
			for _, l := range m.Label {
				if l.GetName() != "pool" {
					key += " " + l.GetName() + "=" + l.GetValue()
				}
			}
			switch {
			case m.Histogram != nil:
				out[key+" count"], out[key+" sum"] = float64(m.Histogram.GetSampleCount()), m.Histogram.GetSampleSum()
			case m.Counter != nil:
				out[key] = m.Counter.GetValue()
			default:
				out[key] = m.Gauge.GetValue()
			}
		}
	}
	return out
}

// Each field of Stats is set by itself: one series has its value then, and the
// others stay. A new field without a metric fails here.
func TestEachFieldOfStatsIsOneSeries(t *testing.T) {
	t.Parallel()
	var none metricstest.Source
	zero := values(gather(t, pgpooledprom.NewCollector(&none, pgpooledprom.WithPoolName("p"))))
	fields := metricstest.Fields()
	if len(fields) < 30 {
		t.Fatalf("only %d fields", len(fields))
	}
	for _, field := range fields {
		var s metricstest.Source
		metricstest.Set(&s.S, field, 7)
		moved := 0
		for key, v := range values(gather(t, pgpooledprom.NewCollector(&s, pgpooledprom.WithPoolName("p")))) {
			if was, ok := zero[key]; ok && was == v {
				continue
			}
			moved++
			if v != 7 {
				t.Errorf("%s = 7 is %s = %v", field, key, v)
			}
		}
		want := 1
		if _, ok := zero["pgpooled_wait_time_seconds count"]; !ok {
			t.Fatal("no histogram among the figures")
		}
		if field == "WaitTimes" || field == "UseTimes" || field == "OpenTimes" {
			want = 2 // count and sum
		}
		if moved != want {
			t.Errorf("%s = 7 moves %d figures, want %d: give it a row in internal/metrics/table.go, or a reason in metrics.Without", field, moved, want)
		}
	}
}

// The whole exposition, with another value in each field.
func TestTheExpositionIsTheOneInTestdata(t *testing.T) {
	t.Parallel()
	source := metricstest.Full()
	collector := pgpooledprom.NewCollector(source)
	source.Reads = 0
	var b bytes.Buffer
	for _, f := range gather(t, collector) {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	if source.Reads != 1 {
		t.Errorf("the statistics were read %d times for one collection", source.Reads)
	}
	const file = "testdata/metrics.txt"
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("another exposition than %s; if it is meant, run this test with -update and look at the difference:\n%s", file, b.Bytes())
	}
}

func TestPrometheusOwnLinterFindsNothing(t *testing.T) {
	t.Parallel()
	problems, err := testutil.CollectAndLint(pgpooledprom.NewCollector(metricstest.Full()))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// A limit that is off is no series: 0 would make every share of it infinite.
func TestALimitThatIsOffIsNoSeries(t *testing.T) {
	t.Parallel()
	s := metricstest.Full()
	s.S.MaxOpenConns, s.S.MaxIdleConns = 0, -1
	v := values(gather(t, pgpooledprom.NewCollector(s)))
	for _, name := range []string{"pgpooled_connections_max", "pgpooled_connections_idle_max"} {
		if _, ok := v[name]; ok {
			t.Errorf("%s is there", name)
		}
	}
	s.S.MaxIdleConns = 0 // none are kept
	if v, ok := values(gather(t, pgpooledprom.NewCollector(s)))["pgpooled_connections_idle_max"]; !ok || v != 0 {
		t.Errorf("max_idle_conns=0: %v %v", v, ok)
	}
}

func TestSeveralPoolsHaveNamesOfTheirOwn(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	first := pgpooledprom.NewCollector(metricstest.Full())
	for _, c := range []prometheus.Collector{first, pgpooledprom.NewCollector(metricstest.Full(), pgpooledprom.WithPoolName("stock"))} {
		if err := reg.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := testutil.GatherAndCount(reg, "pgpooled_acquires_total"); err != nil || n != 2 {
		t.Errorf("%d series of two pools (%v)", n, err)
	}
	if err := reg.Register(pgpooledprom.NewCollector(metricstest.Full())); err == nil {
		t.Error("two pools of one name were registered")
	}
	if !reg.Unregister(first) {
		t.Error("not unregistered")
	}
	if n, err := testutil.GatherAndCount(reg, "pgpooled_acquires_total"); err != nil || n != 1 {
		t.Errorf("%d series of one pool (%v)", n, err)
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
	if _, err := pgpooledprom.ForDB(db); err == nil {
		t.Error("no error")
	}
}

func TestTheFiguresMoveByWhatHappened(t *testing.T) {
	t.Parallel()
	metricstest.Happen(t, server, func(t *testing.T, db *sql.DB) metricstest.Reader {
		c, err := pgpooledprom.ForDB(db)
		if err != nil {
			t.Fatal(err)
		}
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(c)
		return func() map[string]float64 {
			families, err := reg.Gather()
			if err != nil {
				t.Error(err)
			}
			byName, byField := values(families), map[string]float64{}
			for _, m := range metrics.Table {
				key := m.Prom
				if m.Label.Prom != "" {
					key += " " + m.Label.Prom + "=" + m.Label.Value
				}
				byField[m.Field] = byName[key]
			}
			return byField
		}
	})
}

// The histograms of a pool that nobody uses at the moment add up.
func TestTheHistogramsOfARealPoolAddUp(t *testing.T) {
	t.Parallel()
	db, err := pgpooled.Open(server.DSN("max_open_conns", "2"), pgpooled.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for range 5 {
		if _, err := db.Exec("select pg_sleep(0.002)"); err != nil {
			t.Fatal(err)
		}
	}
	c, err := pgpooledprom.ForDB(db)
	if err != nil {
		t.Fatal(err)
	}
	v := values(gather(t, c))
	for _, name := range []string{"wait_time", "use_time"} {
		if n := v["pgpooled_"+name+"_seconds count"]; n != 5 || n != v["pgpooled_acquires_total"] {
			t.Errorf("%s has %v entries, %v sessions were handed out", name, n, v["pgpooled_acquires_total"])
		}
	}
	if n := v["pgpooled_create_time_seconds count"]; n < 1 || n != v["pgpooled_opens_total"] || v["pgpooled_create_time_seconds sum"] <= 0 {
		t.Errorf("create_time has %v entries of %v s together", n, v["pgpooled_create_time_seconds sum"])
	}
	if sum := v["pgpooled_use_time_seconds sum"]; sum < 0.010 {
		t.Errorf("five statements of 2 ms each took %v s", sum)
	}
}
