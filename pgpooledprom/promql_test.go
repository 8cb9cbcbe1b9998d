package pgpooledprom_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgpooled/pgpooled/internal/metrics/metricstest"
	"github.com/pgpooled/pgpooled/pgpooledprom"
)

// exposed are the names of the series of a pool, with the values of each label.
func exposed(t *testing.T) map[string]map[string][]string {
	t.Helper()
	out := map[string]map[string][]string{}
	for _, f := range gather(t, pgpooledprom.NewCollector(metricstest.Full())) {
		labels := map[string][]string{"job": nil, "instance": nil} // Prometheus' own
		for _, m := range f.Metric {
			for _, l := range m.Label {
				labels[l.GetName()] = append(labels[l.GetName()], l.GetValue())
			}
			if m.Histogram != nil {
				labels["le"] = nil
			}
		}
		if f.Metric[0].Histogram == nil {
			out[f.GetName()] = labels
			continue
		}
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			out[f.GetName()+suffix] = labels
		}
	}
	return out
}

// A tokenizer is enough here: a parser of PromQL would bring all of Prometheus.
var (
	token   = regexp.MustCompile(`"[^"]*"|\$?[A-Za-z_]\w*|=~|!~|!=|[-+*/<>=]+|\[[^\]]*\]|[0-9.]+|[(){},]|\s+`)
	isName  = regexp.MustCompile(`^[A-Za-z_]`)
	words   = []string{"and", "or", "unless", "bool", "offset"}
	grouped = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
	known   = []string{"rate", "increase", "sum", "max", "histogram_quantile"}
)

// checkPromQL says what is wrong with the names in an expression.
func checkPromQL(expr string, series map[string]map[string][]string) error {
	var toks []string
	rest := expr
	for rest != "" {
		at := token.FindStringIndex(rest)
		if at == nil || at[0] != 0 {
			return fmt.Errorf("not understood at %q", rest)
		}
		if s := strings.TrimSpace(rest[:at[1]]); s != "" {
			toks = append(toks, s)
		}
		rest = rest[at[1]:]
	}
	var open []string
	used := 0
	var labels map[string][]string // of the metric before
	for i := 0; i < len(toks); i++ {
		next := append(toks[i+1:len(toks):len(toks)], "")[0]
		switch s := toks[i]; {
		case s == "(" || s == "{":
			open = append(open, s)
		case s == ")" || s == "}":
			if len(open) == 0 || open[len(open)-1] != map[string]string{")": "(", "}": "{"}[s] {
				return fmt.Errorf("%s closes nothing", s)
			}
			open = open[:len(open)-1]
		case slices.Contains(grouped, s):
			for i++; i < len(toks) && toks[i] != ")"; i++ {
				if l := toks[i]; isName.MatchString(l) && !anyHas(series, l) {
					return fmt.Errorf("no metric has the label %s", l)
				}
			}
		case !isName.MatchString(s) || slices.Contains(words, s):
		case len(open) > 0 && open[len(open)-1] == "{":
			values, ok := labels[s]
			if !ok {
				return fmt.Errorf("there is no label %s", s)
			}
			if i+2 >= len(toks) {
				return fmt.Errorf("%s is compared with nothing", s)
			}
			for _, v := range strings.Split(strings.Trim(toks[i+2], `"`), "|") {
				if !strings.Contains(v, "$") && !slices.Contains(values, v) {
					return fmt.Errorf("%s is never %s", s, v)
				}
			}
			i += 2
		case slices.Contains(known, s) && (next == "(" || next == "by"):
		default:
			var ok bool
			if labels, ok = series[s]; !ok {
				return fmt.Errorf("there is no metric %s", s)
			}
			used++
		}
	}
	if len(open) != 0 || used == 0 {
		return fmt.Errorf("%d brackets are open, %d metrics are used", len(open), used)
	}
	return nil
}

func anyHas(series map[string]map[string][]string, label string) bool {
	for _, labels := range series {
		if _, ok := labels[label]; ok {
			return true
		}
	}
	return false
}

func TestTheCheckOfPromQLFindsMistakes(t *testing.T) {
	t.Parallel()
	series := exposed(t)
	for _, good := range []string{
		`pgpooled_pending_requests > 0`,
		`sum by (pool, le) (rate(pgpooled_use_time_seconds_bucket{pool=~"$pool"}[5m]))`,
		`pgpooled_connections{state="used"} / ignoring (state) pgpooled_connections_max > 0.9`,
	} {
		if err := checkPromQL(good, series); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		`pgpooled_pending_request > 0`, `pgpoold_waits_total`, `pgpooled_use_time_seconds`, `rat(pgpooled_waits_total[5m])`,
		`pgpooled_connections{stat="used"}`, `pgpooled_connections{state="busy"}`, `pgpooled_closed_total{reason=~"dead|borken"}`,
		`pgpooled_waits_total{state="used"}`, `sum by (pol) (pgpooled_waits_total)`, `(pgpooled_waits_total`, `pgpooled_waits_total)`,
		`rate(pgpooled_waits_total{pool="shop"}[5m)`, `1 + 1`, ``,
	} {
		if checkPromQL(bad, series) == nil {
			t.Errorf("no fault found in %q", bad)
		}
	}
}
