package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// screen prints whole lines, from any goroutine.
type screen struct {
	mu     sync.Mutex // guards the rest
	w      io.Writer
	above  func(line string) // prints above a live view instead, nil = there is none
	start  time.Time         // zero = events have no time yet
	events []event

	logged   map[string]time.Time // when a message was last printed
	unlogged int
}

func (s *screen) begin() {
	s.mu.Lock()
	s.start = time.Now()
	s.mu.Unlock()
}

// event is something that happened among the figures.
type event struct {
	At   float64 `json:"at"` // seconds since the start
	Text string  `json:"text"`
}

// mostEvents bounds what is kept for the report.
const mostEvents = 200

func (s *screen) printf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lineLocked(fmt.Sprintf(format, args...))
}

// lineLocked prints what may quote the server: none of it commands the terminal.
func (s *screen) lineLocked(line string) {
	line = printableLines(line)
	if s.above != nil {
		s.above(line)
		return
	}
	fmt.Fprintln(s.w, line)
}

// liveView takes lines from now on, nil ends that.
func (s *screen) liveView(above func(line string)) {
	s.mu.Lock()
	s.above = above
	s.mu.Unlock()
}

func (s *screen) eventList() []event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// event prints something that happened among the figures.
func (s *screen) event(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, text := "--", fmt.Sprintf(format, args...)
	if !s.start.IsZero() {
		since := time.Since(s.start).Seconds()
		at = fmt.Sprintf("-- %.2fs", since)
		if len(s.events) < mostEvents {
			s.events = append(s.events, event{since, text})
		}
	}
	s.lineLocked(fmt.Sprintf("%-10s %s", at, text))
}

// logLine prints a log line; of those with one message, one a second.
func (s *screen) logLine(message, line string) {
	s.mu.Lock()
	if s.logged == nil {
		s.logged = map[string]time.Time{}
	}
	again := time.Since(s.logged[message]) < time.Second
	if again {
		s.unlogged++
	} else {
		s.logged[message] = time.Now()
	}
	s.mu.Unlock()
	if !again {
		s.event("%s", line)
	}
}

// hidden is how many log lines were not printed.
func (s *screen) hidden() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unlogged
}

// eventLog is a slog handler that shows what an application would find in its
// log.
type eventLog struct{ sc *screen }

func (eventLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (h eventLog) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "pool" {
			fmt.Fprintf(&b, " %s=%q", a.Key, a.Value.String())
		}
		return true
	})
	h.sc.logLine(r.Message, fmt.Sprintf("log: %s %s%s", r.Level, r.Message, b.String()))
	return nil
}

func (h eventLog) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h eventLog) WithGroup(string) slog.Handler      { return h }

// short is a duration with three digits or so.
func short(d time.Duration) string {
	for unit := time.Nanosecond; unit < time.Hour; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit).String()
		}
	}
	return d.Round(time.Minute).String()
}

// grouped is a number with commas.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
