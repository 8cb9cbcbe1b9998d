package pgpooled

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"
)

// event is something to be logged: noted under pool.mu, written by a goroutine
// that lives while there is something to write, so that a slow handler holds up
// nobody but Close.
type event struct {
	level slog.Level
	text  string
	attrs []slog.Attr
}

// mostEvents is how many events wait for a slow handler. What does not fit is
// counted.
const mostEvents = 1000

func (p *pool) logLocked(level slog.Level, text string, attrs ...slog.Attr) {
	p.past.add(time.Now(), level, text, attrs)
	if len(p.events) == mostEvents {
		p.unlogged++ // flushLogs is at it
		return
	}
	p.events = append(p.events, event{level, text, append(attrs, slog.String("pool", p.name))})
	if !p.logging && !p.closed { // close writes the last ones
		p.logging = true
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			p.flushLogs()
		}()
	}
}

func (p *pool) flushLogs() {
	for {
		p.mu.Lock()
		events := p.events
		p.events = nil
		if n := p.unlogged; n > 0 {
			p.unlogged = 0
			events = append(events, event{slog.LevelWarn, "pgpooled: events were not logged: the log's handler is too slow",
				[]slog.Attr{slog.Int("events", n), slog.String("pool", p.name)}})
		}
		p.logging = len(events) > 0
		p.mu.Unlock()
		if len(events) == 0 {
			return
		}
		for _, e := range events {
			p.log.LogAttrs(context.Background(), e.level, e.text, e.attrs...)
		}
	}
}

// frames prints the stack of whoever took a lease, without database/sql's part
// and ours.
func frames(pcs []uintptr) string {
	var b strings.Builder
	for fs := runtime.CallersFrames(pcs); ; {
		f, more := fs.Next()
		if f.Function != "" && !strings.HasPrefix(f.Function, "database/sql.") && !strings.HasPrefix(f.Function, "runtime.") &&
			!strings.HasPrefix(f.Function, "github.com/pgpooled/pgpooled.(*") {
			fmt.Fprintf(&b, "%s\n\t%s:%d\n", f.Function, f.File, f.Line)
		}
		if !more {
			return strings.TrimSuffix(b.String(), "\n")
		}
	}
}
