package metrics_test

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/docpage"
	"github.com/pgpooled/pgpooled/internal/metrics"
)

var update = flag.Bool("update", false, "write the table of docs/metrics.md")

// Every field of Stats has one row, or a reason to have none, and every row a
// field.
func TestEveryFieldOfStatsHasItsRow(t *testing.T) {
	t.Parallel()
	rows := map[string]int{}
	for _, m := range metrics.Table {
		rows[m.Field]++
	}
	fields := reflect.VisibleFields(reflect.TypeFor[pgpooled.Stats]())
	for _, f := range fields {
		want := 1
		if metrics.Without[f.Name] != "" {
			want = 0
		}
		if rows[f.Name] != want {
			t.Errorf("Stats.%s has %d rows, want %d", f.Name, rows[f.Name], want)
		}
		delete(rows, f.Name)
	}
	for name := range rows {
		t.Errorf("Stats has no field %s", name)
	}
}

// Rows of one name are next to each other and agree in all but their label, and
// no two are the same series.
func TestRowsOfOneNameAgree(t *testing.T) {
	t.Parallel()
	type name struct{ unit, help, label string }
	otel, prom, series := map[string]int{}, map[string]int{}, map[string]bool{}
	for i, m := range metrics.Table {
		for _, n := range []struct {
			seen  map[string]int
			name  string
			label func(metrics.Metric) string
		}{
			{otel, m.OTel, func(m metrics.Metric) string { return m.Label.OTel }},
			{prom, m.Prom, func(m metrics.Metric) string { return m.Label.Prom }},
		} {
			if last, ok := n.seen[n.name]; ok {
				before := metrics.Table[last]
				if last != i-1 || before.Kind != m.Kind || (name{before.Unit, before.Help, n.label(before)}) != (name{m.Unit, m.Help, n.label(m)}) || m.Label.Value == "" {
					t.Errorf("%s: row %d does not go with row %d", n.name, i, last)
				}
			}
			n.seen[n.name] = i
		}
		key := m.Prom + " " + m.Label.Value
		if series[key] {
			t.Errorf("%s twice", key)
		}
		series[key] = true
		if m.Help == "" || m.Unit == "" || (m.Label.Value == "") != (m.Label.Means == "") {
			t.Errorf("%s says too little", key)
		}
	}
}

func TestThePageHasTheTable(t *testing.T) {
	t.Parallel()
	const page = "../../docs/metrics.md"
	var b strings.Builder
	b.WriteString("| Prometheus | OpenTelemetry | kind, unit | meaning | alert on |\n|---|---|---|---|---|\n")
	for _, m := range metrics.Table {
		prom, otel, means := m.Prom, m.OTel, m.Help
		if l := m.Label; l.Value != "" {
			prom += fmt.Sprintf("{%s=%q}", l.Prom, l.Value)
			otel += fmt.Sprintf(", %s=%s", l.OTel, l.Value)
			means = l.Means
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s, %s | %s | %s |\n", prom, otel, m.Kind, strings.Trim(m.Unit, "{}"), means, m.Watch)
	}
	if *update {
		if err := docpage.Write(page, "make docs", b.String()); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "<!-- begin: make docs -->\n"+b.String()+"<!-- end: make docs -->") {
		t.Error("docs/metrics.md is not what the table says: run make docs")
	}
}
