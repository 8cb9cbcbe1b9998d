package pgpooledprom_test

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"
)

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheAlertsUseMetricsThatExistAndSayWhatToDo(t *testing.T) {
	t.Parallel()
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalStrict(read(t, "alerts.yml"), &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Groups) != 1 || len(file.Groups[0].Rules) < 10 {
		t.Fatalf("%+v", file.Groups)
	}
	series, names := exposed(t), map[string]bool{}
	for _, r := range file.Groups[0].Rules {
		if err := checkPromQL(r.Expr, series); err != nil {
			t.Errorf("%s: %v\n%s", r.Alert, err, r.Expr)
		}
		// Of a new process such a range is one scrape; "for" does wait.
		if strings.Contains(r.Expr, "_over_time(") {
			t.Errorf("%s: use for, not a function over time: %s", r.Alert, r.Expr)
		}
		// The last attempt of an outage that nobody waits for has no retry either.
		if strings.Contains(r.Expr, "open_retries") && !strings.Contains(r.Expr, "unless increase(pgpooled_outages_total[5m]) > 0") {
			t.Errorf("%s takes an outage for a refusal: %s", r.Alert, r.Expr)
		}
		if names[r.Alert] || !strings.HasPrefix(r.Alert, "Pgpooled") {
			t.Errorf("%s: twice, or without its prefix", r.Alert)
		}
		names[r.Alert] = true
		switch r.Labels["severity"] {
		case "critical", "warning", "info":
		default:
			t.Errorf("%s: severity %q", r.Alert, r.Labels["severity"])
		}
		// What is the matter, with which pool, and then what to do.
		summary := r.Annotations["summary"]
		what, todo, ok := strings.Cut(summary, ". ")
		if !ok || !strings.Contains(what, "{{ $labels.pool }}") || len(todo) < 30 || !strings.HasSuffix(summary, ".") {
			t.Errorf("%s: its summary does not say what to do: %q", r.Alert, summary)
		}
	}
}

type panel struct {
	ID          int
	Type, Title string
	Description string
	GridPos     struct{ H, W, X, Y int }
	Targets     []struct{ Expr, LegendFormat, RefID string }
}

func TestTheDashboardLoadsAndUsesMetricsThatExist(t *testing.T) {
	t.Parallel()
	var d struct {
		UID, Title    string
		SchemaVersion int
		Panels        []panel
		Templating    struct {
			List []struct{ Name, Type, Definition string }
		}
	}
	text := read(t, "dashboard.json")
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 36 || len(d.Panels) < 10 {
		t.Fatalf("uid %q, title %q, version %d, %d panels", d.UID, d.Title, d.SchemaVersion, len(d.Panels))
	}
	variables := map[string]bool{"__rate_interval": true, "__range": true, "__all": true}
	series := exposed(t)
	for _, v := range d.Templating.List {
		variables[v.Name] = true
		if v.Type == "query" {
			inner, ok := strings.CutPrefix(v.Definition, "label_values(")
			metric, label, ok2 := strings.Cut(strings.TrimSuffix(inner, ")"), ", "+v.Name)
			if err := checkPromQL(metric, series); err != nil || !ok || !ok2 || label != "" {
				t.Errorf("$%s: %s: %v", v.Name, v.Definition, err)
			}
		}
	}
	for _, v := range regexp.MustCompile(`\$\{?(\w+)`).FindAllSubmatch(text, -1) {
		if !variables[string(v[1])] {
			t.Errorf("there is no variable $%s", v[1])
		}
	}
	shown := map[string]bool{}
	ids := map[int]bool{}
	var cells [200][24]bool
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d %q: its id is another's, or it has no title", p.ID, p.Title)
		}
		ids[p.ID] = true
		for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				if cells[y][x] {
					t.Fatalf("%s lies over another panel", p.Title)
				}
				cells[y][x] = true
			}
		}
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 || p.Description == "" {
			t.Errorf("%s shows nothing, or does not say what", p.Title)
		}
		for _, target := range p.Targets {
			if err := checkPromQL(target.Expr, series); err != nil {
				t.Errorf("%s: %v\n%s", p.Title, err, target.Expr)
			}
			// A pool without a limit has no share of it, though another of its name has.
			if strings.Contains(target.Expr, "/ sum by (pool) (pgpooled_connections_max") && !strings.Contains(target.Expr, " and ignoring (state) pgpooled_connections_max)") {
				t.Errorf("%s counts pools without a limit: %s", p.Title, target.Expr)
			}
			for name := range series {
				shown[name] = shown[name] || regexp.MustCompile(`\b`+name+`\b`).MatchString(target.Expr)
			}
		}
	}
	for name := range series {
		if base := strings.TrimSuffix(strings.TrimSuffix(name, "_sum"), "_count"); !shown[name] && !shown[base+"_bucket"] {
			t.Errorf("no panel shows %s", name)
		}
	}
	if !bytes.HasSuffix(text, []byte("}\n")) {
		t.Error("no newline at its end")
	}
}
