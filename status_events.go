package pgpooled

import (
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	pastEvents = 50      // how many events a pool remembers
	pastText   = 4 << 10 // how many bytes of a value are remembered, as of a stack
)

// pastEvent is an event that the pool remembers for its status page.
type pastEvent struct {
	level     slog.Level
	text      string
	attrs     []kv // without the pool's name
	at, until time.Time
	count     int // of one kind in a row: dials that failed, or all alike
}

// eventsKept are the last events, the oldest one first. Memory is bounded: by
// the number of events, and by cutting what they say.
type eventsKept struct{ list []pastEvent }

// add remembers an event. Those at Debug are part of a busy program's day and
// would push out what somebody looks for.
func (k *eventsKept) add(now time.Time, level slog.Level, text string, attrs []slog.Attr) {
	if level < slog.LevelInfo {
		return
	}
	e := pastEvent{level: level, text: clip(text), at: now, until: now, count: 1}
	series := false
	for _, a := range attrs {
		e.attrs = append(e.attrs, kv{a.Key, clip(a.Value.String())})
		series = series || a.Key == "attempt"
	}
	if n := len(k.list); n > 0 && k.list[n-1].text == e.text && (series || slices.Equal(k.list[n-1].attrs, e.attrs)) {
		last := &k.list[n-1]
		last.attrs, last.until = e.attrs, now
		last.count++
		return
	}
	if len(k.list) >= pastEvents {
		k.makeRoom()
	}
	k.list = append(k.list, e)
}

// makeRoom forgets the oldest event of the kind of which there are most: a
// hundred lost statements must not hide the outage that they come from.
func (k *eventsKept) makeRoom() {
	of := make(map[string]int)
	for _, e := range k.list {
		of[e.text]++
	}
	victim := 0
	for i, e := range k.list {
		if of[e.text] > of[k.list[victim].text] {
			victim = i // the first one of its kind: later ones are not more
		}
	}
	k.list = slices.Delete(k.list, victim, victim+1)
}

// clip bounds a text and makes it fit for a page. The copy lets go of the rest.
func clip(s string) string {
	if len(s) > pastText {
		n := pastText
		for n > pastText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
			n--
		}
		s = strings.Clone(s[:n]) + " …"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
