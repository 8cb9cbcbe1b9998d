package pgpooled

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// texts are the events in order, with how often each was.
func texts(k *eventsKept) string {
	var b strings.Builder
	for _, e := range k.list {
		fmt.Fprintf(&b, "%s×%d ", e.text, e.count)
	}
	return strings.TrimSpace(b.String())
}

func TestAStormOfOneKindDoesNotPushOutTheOtherEvents(t *testing.T) {
	t.Parallel()
	var k eventsKept
	now := time.Now()
	k.add(now, slog.LevelWarn, "cannot be reached", nil)
	for i := range 1000 {
		k.add(now.Add(time.Duration(i)), slog.LevelWarn, "outcome unknown", []slog.Attr{slog.Int("n", i)})
	}
	k.add(now, slog.LevelWarn, "is back", nil)
	if len(k.list) != pastEvents || k.list[0].text != "cannot be reached" || k.list[pastEvents-1].text != "is back" {
		t.Fatalf("%d: %s", len(k.list), texts(&k))
	}
	for i, e := range k.list[1 : pastEvents-1] { // the newest of the storm, in order
		if want := fmt.Sprint(1000 - (pastEvents - 2) + i); e.attrs[0].value != want {
			t.Errorf("event %d of the storm is number %s, want %s", i, e.attrs[0].value, want)
		}
	}
	for i := range pastEvents { // all different: the oldest goes
		k.add(now, slog.LevelWarn, fmt.Sprint(i), nil)
	}
	if len(k.list) != pastEvents || k.list[pastEvents-1].text != fmt.Sprint(pastEvents-1) {
		t.Errorf("%d: %s", len(k.list), texts(&k))
	}
}

func TestDialsThatFailInARowAreOneEvent(t *testing.T) {
	t.Parallel()
	bubble(t, lim(3), func(t *testing.T, p *pool, srv *fakeServer) {
		srv.refuse(errRefused)
		time.Sleep(time.Second)
		if _, err := p.newLease(t.Context()); !errors.Is(err, ErrPoolTimeout) {
			t.Fatal(err)
		}
		srv.refuse(nil)
		synctest.Wait()
		l, err := p.newLease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		srv.give(l)
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.past.list) != 3 {
			t.Fatal(texts(&p.past))
		}
		begun, tries, ended := p.past.list[0], p.past.list[1], p.past.list[2]
		if !strings.Contains(begun.text, "cannot be reached") || !strings.Contains(ended.text, "is back") || begun.count != 1 || ended.count != 1 {
			t.Error(texts(&p.past))
		}
		if tries.count < 10 || tries.until.Sub(tries.at) < 5*time.Second || tries.attrs[0] != (kv{"attempt", fmt.Sprint(tries.count)}) {
			t.Errorf("%d times from %s to %s: %v", tries.count, tries.at, tries.until, tries.attrs)
		}
	})
}

// What a program says around an error may have its users' data.
func TestEveryKindOfEventIsRememberedWithoutTheProgramsOwnWords(t *testing.T) {
	t.Parallel()
	bubble(t, lim(3), func(t *testing.T, p *pool, srv *fakeServer) {
		l := leases(t, p, srv, 1)[0]
		lost := &ConnLostError{Op: "exec", InTx: true, Cause: errDead}
		for want, note := range map[string]func(){
			"outcome unknown":            func() { p.noteUnknown(t.Context(), &OutcomeUnknownError{Op: "exec", Cause: errDead}) },
			"reading again":              func() { p.noteReplay(t.Context(), lost) },
			"about a lost COMMIT":        func() { p.noteFate(t.Context(), true) },
			"would be unknown":           func() { p.noteNoCheck(errDead) },
			"a transaction again":        func() { p.noteTxAgain(t.Context(), fmt.Errorf("for alice@example.com: %w", lost), time.Second) },
			"not a primary any more":     func() { p.demoted(l.s) },
			"hides driver.Validator":     p.hintHidden,
			"there is a pooler":          p.notePooler,
			"the statement cache is off": func() { p.stopStatements(errDead) },
		} {
			note()
			p.mu.Lock()
			e := p.past.list[len(p.past.list)-1]
			p.mu.Unlock()
			if !strings.Contains(e.text, want) || !e.at.Equal(time.Now()) {
				t.Errorf("want %q, got %q at %s", want, e.text, e.at)
			}
			if strings.Contains(fmt.Sprint(e), "alice") {
				t.Errorf("the program's own words are kept: %v", e)
			}
		}
		srv.give(l)
	})
}

func TestEventsTakeBoundedMemoryAndAreFitForAPage(t *testing.T) {
	t.Parallel()
	var k eventsKept
	k.add(time.Now(), slog.LevelDebug, "a conflict", nil)
	if len(k.list) != 0 {
		t.Error("events at Debug are kept")
	}
	for _, op := range []string{"exec", "exec", "query", "query", "query", "exec"} {
		k.add(time.Now(), slog.LevelWarn, "lost", []slog.Attr{slog.String("op", op)})
	}
	if got := texts(&k); got != "lost×2 lost×3 lost×1" {
		t.Errorf("events that are alike: %s", got)
	}
	for _, text := range []string{
		strings.Repeat("x", 10*pastText), strings.Repeat("é", pastText), "a" + strings.Repeat("\U0001F418", pastText),
		strings.Repeat("\xff", 3*pastText), "\xc3\x28", "",
	} {
		k.add(time.Now(), slog.LevelWarn, text, []slog.Attr{slog.String("error", text)})
		e := k.list[len(k.list)-1]
		for _, s := range []string{e.text, e.attrs[0].value} {
			// a run of broken bytes becomes one replacement
			if len(s) > pastText+len(" …") || !utf8.ValidString(s) || len(text) > pastText != strings.HasSuffix(s, " …") {
				t.Errorf("%.10q… of %d bytes became %.10q… of %d", text, len(text), s, len(s))
			}
		}
	}
}
