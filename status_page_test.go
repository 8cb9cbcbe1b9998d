package pgpooled

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	htmlTag  = regexp.MustCompile(`<[^>]*>`)
	htmlLink = regexp.MustCompile(`(?:href|src|action|data|poster|srcset|background)\s*=\s*"([^"]*)"`)
)

// aReport has something of everything; the text stands wherever text can.
func aReport(t testing.TB, text string, stats Stats) *statusReport {
	t.Helper()
	cfg, err := ParseDSN("host=db user=app dbname=shop sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	stats.Name = text
	r := &statusReport{
		Time: now, State: stateUnreachable, Since: now.Add(-time.Minute), Error: text, LastAnswer: now.Add(-time.Hour), Pool: stats,
		Held:   []heldSession{{Since: now.Add(-time.Hour), Stack: text}, {Since: now.Add(-time.Minute)}},
		Events: []statusEvent{{Time: now, Until: now, Count: 3, Level: "WARN", Text: text, attrs: []kv{{text, text}, {"stack", text}}}},
		Hidden: 2, History: statusHistory{Every: 2},
	}
	r.Server, _ = cfg.shownTarget()
	r.Server = append(r.Server, statusSetting{Key: "host", Value: text})
	r.Settings = append(cfg.shownSettings(&limits{}), statusSetting{Key: "pool_name", Value: text, Means: text})
	for i := range 5 {
		r.History.Samples = append(r.History.Samples, stats.sample(now.Add(time.Duration(i-4)*sampleEvery)))
	}
	return r
}

func pageOf(t testing.TB, r *statusReport) string {
	t.Helper()
	var b bytes.Buffer
	if err := writeStatusPage(&b, r, true); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Each number of Stats is on the page and in the JSON under its own name, however
// large it is.
func TestTheStatusPageForgetsNoneOfTheStats(t *testing.T) {
	t.Parallel()
	var s Stats
	v := reflect.ValueOf(&s).Elem()
	want := make(map[string]string)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		switch f := v.Field(i).Addr().Interface().(type) {
		case *string:
			*f = "the-name"
			want[name] = *f
		case *time.Duration:
			*f = 1234567 * time.Minute
			want[name] = f.String()
		case *Histogram: // 980 in one class, the others in a later one
			class := 2 + len(want)%8
			f.Counts[class], f.Counts[class+3] = 980, 20
			f.Sum = 1000 * time.Duration(i) * time.Second
			want[name] = fmt.Sprintf("half ≤ %s, 99 %% ≤ %s, mean %s<", histogramBounds[class], histogramBounds[class+3], time.Duration(i)*time.Second)
		case *int:
			*f = math.MaxInt32 - 1000 - i
			want[name] = strconv.Itoa(*f)
		case *int64:
			*f = math.MaxInt64 - 1000 - int64(i)
			want[name] = strconv.FormatInt(*f, 10)
		default:
			t.Fatalf("%s: a kind that the page does not know", name)
		}
	}
	r := aReport(t, "the-name", s)
	r.History.Samples = append(r.History.Samples[:2], (&Stats{}).sample(r.Time)) // up and down by as much
	page := pageOf(t, r)
	for name, text := range want {
		if !strings.Contains(page, text) {
			t.Errorf("%s = %s is not on the page", name, text)
		}
	}
	if bad := regexp.MustCompile(`\bNaN\b|\bInf\b|%!|ZgotmplZ|<no value>`).FindString(page); bad != "" {
		t.Errorf("%q is on the page", bad)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Pool map[string]json.RawMessage }
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for name := range want {
		value, _ := json.Marshal(v.FieldByName(name).Interface())
		if string(got.Pool[name]) != string(value) {
			t.Errorf("%s is %s in the JSON, want %s", name, got.Pool[name], value)
		}
	}
	if len(got.Pool) != v.NumField() {
		t.Errorf("the JSON has %d fields, Stats %d", len(got.Pool), v.NumField())
	}
}

// A sample's fields are those of Stats, by name and value.
func TestASampleIsAPieceOfTheStats(t *testing.T) {
	t.Parallel()
	var s Stats
	v := reflect.ValueOf(&s).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.CanInt() {
			f.SetInt(int64(100 + i))
		}
	}
	got := reflect.ValueOf(s.sample(time.Now()))
	for i := range got.NumField() {
		name := got.Type().Field(i).Name
		if name == "Time" {
			continue
		}
		if want := v.FieldByName(name); !want.IsValid() || want.Int() != got.Field(i).Int() {
			t.Errorf("%s is %v, of Stats %v", name, got.Field(i), want)
		}
	}
}

var hostile = []string{
	"", "orders", `<script>alert(1)</script>`, `</title><script>alert(1)</script>`, `</pre></style></svg><img src=x onerror=alert(1)>`,
	`"><svg onload=alert(1)>`, `' onmouseover='alert(1)`, `javascript:alert(1)`, `{{.Pool}} {{define "x"}}`, `<!--`, `-->`, `]]>`, `&lt;b&gt; &#60;b&#62;`,
	"a\x00b", "\u2028\u2029", "\u202egnp.exe", "\xff\xfe<", `\u003cscript\u003e`, "`${alert(1)}`", strings.Repeat("<b>", 5000), "line\nbreak\r\n\tx",
}

// Whatever a name, an error or a stack says, the page has the same tags.
func FuzzStatusPage(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	tags := strings.Join(htmlTag.FindAllString(pageOf(f, aReport(f, "x", Stats{})), -1), "\n")
	f.Fuzz(func(t *testing.T, s string) {
		if s == "" {
			s = "x" // what is empty is left out
		}
		r := aReport(t, s, Stats{})
		page := pageOf(t, r)
		if got := strings.Join(htmlTag.FindAllString(page, -1), "\n"); got != tags {
			t.Errorf("%q makes other tags:\n%s", s, got)
		}
		w := httptest.NewRecorder()
		answerJSON(w, httptest.NewRequest("GET", "/", nil), 200, r)
		var back struct{ Pool struct{ Name string } }
		if err := json.Unmarshal(w.Body.Bytes(), &back); err != nil || back.Pool.Name != strings.ToValidUTF8(s, "\uFFFD") && strings.ToValidUTF8(s, "") == s {
			t.Errorf("%q became %q (%v)", s, back.Pool.Name, err)
		}
		if bytes.ContainsAny(w.Body.Bytes(), "<>") {
			t.Errorf("%q: the JSON could be taken for a page", s)
		}
	})
}

// The policy allows the page's own style by its hash, and nothing on the page
// needs more.
func TestTheStatusPageNeedsNoMoreThanItsPolicyAllows(t *testing.T) {
	t.Parallel()
	page := pageOf(t, aReport(t, "x", Stats{}))
	if strings.Count(page, "<style>"+statusCSS+"</style>") != 1 || strings.Count(page, "<style") != 1 {
		t.Error("the style is not the one whose hash the policy has")
	}
	for _, not := range []string{"<script", "<iframe", "<form", "<base", "<object", "<embed", " style=", "javascript:", "url(", "@import"} {
		if strings.Contains(page, not) {
			t.Errorf("%s is on the page", not)
		}
	}
	if found := regexp.MustCompile(`<[^>]* on[a-z]+\s*=`).FindString(page); found != "" {
		t.Error(found)
	}
	var links []string
	for _, m := range htmlLink.FindAllStringSubmatch(page, -1) {
		links = append(links, m[1])
	}
	if want := []string{"data:,", "?refresh=off", "?format=json"}; !slices.Equal(links, want) {
		t.Errorf("links to %q, want %q", links, want)
	}
}

func TestWhoGetsJSON(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]bool{
		"":    false,
		"*/*": false,
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": false,
		"application/json":                  true,
		"application/json, text/plain, */*": true,
		"Application/JSON":                  true,
		"application/json;q=0.5, text/html": false,
		"application/json, text/html;q=0.9": true,
		"text/html, application/json":       false,
		"application/json;q=0":              false,
		"application/json;q=x":              true,
		";;;, application/json;q=0.1":       true,
		"application/jsonp":                 false,
		strings.Repeat(",", 1000):           false,
	} {
		if got := prefersJSON([]string{accept}); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
	if !prefersJSON([]string{"text/plain", "application/json"}) {
		t.Error("the second of two headers does not count")
	}
}

func TestTheSettingsOnThePageAreTheOnesInEffectAndNoSecrets(t *testing.T) {
	t.Parallel()
	cfg, err := ParseDSN("host=db1,db2 port=5432,5433 user=app password=s3cret dbname=shop sslmode=verify-full sslinline=true sslkey='-----BEGIN s3cret' sslcert='-----BEGIN s3cret' " +
		"options='-c x.y=s3cret' application_name=s3cret schema='s3 cret' target_session_attrs=read-write retry_max_delay=3s cancel_grace=0")
	if err != nil {
		t.Fatal(err)
	}
	list, hidden := cfg.shownTarget()
	all := append(list, cfg.shownSettings(&limits{maxOpen: 7, maxIdle: -1, maxIdleTime: time.Hour})...)
	got := make(map[string]string)
	for _, s := range all {
		if _, again := got[s.Key]; again {
			t.Errorf("%s is there twice", s.Key)
		}
		got[s.Key] = fmt.Sprintf("%s|%s|%v", s.Value, s.Means, s.Default)
	}
	for key, want := range map[string]string{
		"host": "db1:5432,db2:5433||false", "user": "app||false", "dbname": "shop||false", "password": "xxxxx||false", "sslmode": "verify-full||false",
		"target_session_attrs": "read-write||false", "load_balance_hosts": "disable||true",
		"max_open_conns": "7||false", "max_idle_conns": "as max_open_conns||true", "conn_max_idle_time": "1h||false", "conn_max_lifetime": "0|no limit|false",
		"retry_max_delay": "3s||false", "pool_timeout": "10s||true", "schema": "xxxxx||false", "pool_name": "||true",
	} {
		if got[key] != want {
			t.Errorf("%s: %q, want %q", key, got[key], want)
		}
	}
	for _, p := range params {
		if _, there := got[p.key]; !there && !p.translated() {
			t.Errorf("%s is missing", p.key)
		}
	}
	if text := fmt.Sprint(all); strings.Contains(text, "s3") || strings.Contains(text, "BEGIN") {
		t.Errorf("a secret is in %s", text)
	}
	if hidden != 6 { // sslinline, sslkey, sslcert, options, application_name and schema's search_path
		t.Errorf("%d more are said to be hidden", hidden)
	}
}

// docs/status.md has a row for each field of the JSON, and for no other.
func TestTheFieldsOfTheStatusJSONAreDocumented(t *testing.T) {
	t.Parallel()
	fields := make(map[string]bool)
	var walk func(prefix string, typ reflect.Type)
	walk = func(prefix string, typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if !f.IsExported() {
				continue
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" {
				name = f.Name
			}
			name = prefix + name
			fields[name] = true
			kind := f.Type
			if kind.Kind() == reflect.Slice {
				kind, name = kind.Elem(), name+"[]"
			}
			// What is a piece of Stats is documented there.
			if kind.Kind() == reflect.Struct && kind != reflect.TypeFor[time.Time]() && kind != reflect.TypeFor[Stats]() && kind != reflect.TypeFor[sample]() {
				walk(name+".", kind)
			}
		}
	}
	walk("", reflect.TypeFor[statusReport]())
	text, err := os.ReadFile("docs/status.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]bool)
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_.\\[\\]]+)` \\|").FindAllSubmatch(text, -1) {
		rows[string(m[1])] = true
	}
	if !maps.Equal(fields, rows) {
		t.Errorf("the JSON has  %v\nthe table has %v", slices.Sorted(maps.Keys(fields)), slices.Sorted(maps.Keys(rows)))
	}
}
