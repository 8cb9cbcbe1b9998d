package pgpooled

import (
	"crypto/sha256"
	_ "embed" // the page and its style
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	//go:embed status.html
	statusHTML string
	//go:embed status.css
	statusCSS string
)

// statusTemplate is parsed for the first page: nothing of it costs a program that
// never mounts one.
var statusTemplate struct {
	once sync.Once
	page *template.Template
}

// statusPolicy allows the page its own style and nothing else, no script at all;
// data: is its empty icon, which keeps browsers from asking for /favicon.ico.
func statusPolicy() string {
	sum := sha256.Sum256([]byte(statusCSS))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// statusView is what the template sees.
type statusView struct {
	*statusReport
	Refresh    bool
	Style      template.CSS
	Mood       string // the state's colour
	Says       string // the state in words
	Tiles      []statusCount
	Slots      []slot
	SlotsLabel string
	Span       string
	Charts     []chart
	Stacks     bool // of leases are known
	Events     []eventView
	EventsKept int
	Counts     []statusCount
}

// statusCount is a number with its name.
type statusCount struct {
	Name, Value string
	Class       string // its colour in the bar
	Bad         bool   // should be zero
}

// slot is a part of the bar that shows what the sessions do.
type slot struct {
	Class    string
	X, Width string // of 1000
}

type eventView struct {
	statusEvent
	Took  string // from the first to the last of several
	Stack string
	Words []word
}

type word struct{ Key, Value string }

func writeStatusPage(w io.Writer, r *statusReport, refresh bool) error {
	statusTemplate.once.Do(func() {
		statusTemplate.page = template.Must(template.New("status").Funcs(template.FuncMap{
			"stamp": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
			"text":  func(s string) string { return strings.TrimPrefix(s, "pgpooled: ") },
		}).Parse(statusHTML))
	})
	v := &statusView{statusReport: r, Refresh: refresh, Style: template.CSS(statusCSS), Span: formatDuration(historyOf), EventsKept: pastEvents}
	v.Mood, v.Says = r.mood()
	v.Tiles, v.Counts = r.tiles(), r.counts()
	v.Slots, v.SlotsLabel = r.slots()
	v.Charts = r.charts()
	for _, h := range r.Held {
		v.Stacks = v.Stacks || h.Stack != ""
	}
	for _, e := range r.Events {
		v.Events = append(v.Events, e.view())
	}
	return statusTemplate.page.Execute(w, v)
}

// Ago is how long before the page something was.
func (v *statusView) Ago(t time.Time) string { return coarse(v.Time.Sub(t)) }

// mood is the state's colour and what there is to say about it.
func (r *statusReport) mood() (mood, says string) {
	answered := "no call has come back in good order yet"
	if !r.LastAnswer.IsZero() {
		answered = "a call last came back in good order " + coarse(r.Time.Sub(r.LastAnswer)) + " ago"
	}
	switch r.State {
	case stateWorking:
		return "good", answered
	case stateSaturated:
		return "busy", "all sessions that the limit allows are taken, and callers wait; " + answered
	case stateConnecting:
		return "busy", "no session is open yet"
	case stateRefused:
		return "bad", "new connections fail, for a reason that does not pass by itself or with retry_mode=off; " + answered
	case stateUnreachable:
		return "bad", "the server cannot be reached, for " + coarse(r.Time.Sub(r.Since)) + " now; " + answered
	case stateClosed:
		return "", "the program has closed it"
	}
	return "", "no session is open, nobody waits for one; " + answered
}

// slots is the bar: the sessions beside the room that is left.
func (r *statusReport) slots() (list []slot, label string) {
	s := &r.Pool
	whole, x := float64(max(s.MaxOpenConns, s.Open, 1)), 0.0
	for _, part := range []struct {
		class string
		n     int
	}{{"use", s.InUse}, {"idle", s.Idle}, {"opening", s.Opening}, {"closing", s.Closing}} {
		if part.n > 0 {
			width := float64(part.n) / whole * 1000
			list = append(list, slot{part.class, decimal(x), decimal(width)})
			x += width
		}
	}
	return list, fmt.Sprintf("in use %d, idle %d, opening %d, closing %d, limit %s", s.InUse, s.Idle, s.Opening, s.Closing, limitText(s.MaxOpenConns))
}

func (e statusEvent) view() eventView {
	v := eventView{statusEvent: e}
	if e.Count > 1 {
		v.Took = coarse(e.Until.Sub(e.Time))
	}
	for _, a := range e.attrs {
		if a.key == "stack" {
			v.Stack = a.value
		} else {
			v.Words = append(v.Words, word{a.key, a.value})
		}
	}
	return v
}

func limitText(n int) string {
	if n <= 0 {
		return "none"
	}
	return strconv.Itoa(n)
}

// coarse is a duration as people say it.
func coarse(d time.Duration) string {
	switch {
	case d < time.Second:
		return "less than 1s"
	case d >= 48*time.Hour:
		return strconv.FormatInt(int64(d/(24*time.Hour)), 10) + " days"
	}
	return formatDuration(d.Round(time.Second))
}

func decimal(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }
