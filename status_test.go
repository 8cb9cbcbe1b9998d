package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

// statusJSON is what the tests read of the page's JSON.
type statusJSON struct {
	State      string
	Error      string
	Since      time.Time
	LastAnswer time.Time `json:"last_answer"`
	Pool       pgpooled.Stats
	Held       []struct{ Stack string }
	Events     []struct {
		Text  string
		Count int
		Attrs map[string]string
	}
	Settings []struct{ Key, Value string }
	History  struct {
		Samples []struct{ Time time.Time }
	}
}

// event is the newest one with the text.
func (s *statusJSON) event(text string) (attrs map[string]string, ok bool) {
	for _, e := range s.Events {
		if strings.Contains(e.Text, text) {
			return e.Attrs, true
		}
	}
	return nil, false
}

// statusOf asks for both forms and reads one; together is the text of both.
func statusOf(t *testing.T, h http.Handler) (s *statusJSON, together string) {
	t.Helper()
	for _, format := range []string{"html", "json"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/debug/pgpooled?format="+format, nil))
		if w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if together += w.Body.String(); format == "html" {
			continue
		}
		s = &statusJSON{}
		if err := json.Unmarshal(w.Body.Bytes(), s); err != nil {
			t.Fatalf("%v: %s", err, w.Body)
		}
	}
	return s, together
}

func TestTheStatusPageIsForGETAndHEADUnderAnyPathAndForNoFrame(t *testing.T) {
	t.Parallel()
	db := open(t, "pool_name", `<b>&"orders"`)
	must(t, db.Ping())
	srv := httptest.NewServer(pgpooled.StatusHandler(db))
	defer srv.Close()
	for _, tt := range []struct {
		method, path, accept string
		status               int
		content              string
	}{
		{"GET", "/", "", 200, "text/html; charset=utf-8"},
		{"GET", "/debug/pgpooled", "text/html,*/*;q=0.8", 200, "text/html; charset=utf-8"},
		{"GET", "/a/b/?refresh=off", "", 200, "text/html; charset=utf-8"},
		{"GET", "/?format=html", "application/json", 200, "text/html; charset=utf-8"},
		{"GET", "/?format=json", "text/html", 200, "application/json"},
		{"GET", "/", "application/json", 200, "application/json"},
		{"HEAD", "/", "", 200, "text/html; charset=utf-8"},
		{"HEAD", "/?format=json", "", 200, "application/json"},
		{"GET", "/?format=xml", "", 400, "text/plain; charset=utf-8"},
		{"POST", "/", "", 405, "text/plain; charset=utf-8"},
		{"DELETE", "/?format=json", "", 405, "application/json"},
		{"OPTIONS", "/", "", 405, "text/plain; charset=utf-8"},
	} {
		req, err := http.NewRequestWithContext(testContext(t), tt.method, srv.URL+tt.path, nil)
		must(t, err)
		req.Header.Set("Accept", tt.accept)
		resp, err := srv.Client().Do(req)
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		resp.Body.Close()
		h := resp.Header
		if resp.StatusCode != tt.status || h.Get("Content-Type") != tt.content || (tt.method == "HEAD") != (len(body) == 0) || resp.ContentLength <= 0 {
			t.Errorf("%+v: %d, %s, %d of %d bytes", tt, resp.StatusCode, h.Get("Content-Type"), len(body), resp.ContentLength)
		}
		policy := h.Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") || strings.Contains(policy, "script") || strings.Contains(policy, "unsafe") ||
			h.Get("X-Frame-Options") != "DENY" || h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%+v: %v", tt, h)
		}
		if tt.status == 405 && h.Get("Allow") != "GET, HEAD" {
			t.Errorf("%+v: Allow %q", tt, h.Get("Allow"))
		}
		if tt.content == "text/html; charset=utf-8" && tt.method == "GET" {
			if !strings.Contains(string(body), "&lt;b&gt;&amp;") || strings.Contains(string(body), "<b>&") {
				t.Errorf("%+v: the pool's name is not there, or not escaped", tt)
			}
			if strings.Contains(string(body), `http-equiv="refresh"`) == strings.Contains(tt.path, "off") {
				t.Errorf("%+v: refresh", tt)
			}
		}
	}
}

// tracing hides the driver, and with it the pool.
type tracing struct{ driver.Connector }

func (tracing) Driver() driver.Driver { return &pq.Driver{} }

func TestTheStatusPageSaysWhyThereIsNoPoolToShow(t *testing.T) {
	t.Parallel()
	plain, err := sql.Open("postgres", server.DSN())
	must(t, err)
	defer plain.Close()
	c, err := pgpooled.NewConnector(server.DSN("application_name", app()), quiet)
	must(t, err)
	wrapped := sql.OpenDB(tracing{c})
	defer wrapped.Close()
	for name, db := range map[string]*sql.DB{"another driver": plain, "a wrapper": wrapped, "nil": nil} {
		for _, format := range []string{"html", "json"} {
			w := httptest.NewRecorder()
			pgpooled.StatusHandler(db).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/?format="+format, nil))
			if w.Code != 501 || !strings.Contains(w.Body.String(), "sql.OpenDB(connector)") || w.Header().Get("X-Frame-Options") != "DENY" || json.Valid(w.Body.Bytes()) != (format == "json") {
				t.Errorf("%s: %d %v %s", name, w.Code, w.Header(), w.Body)
			}
		}
	}
	shown := sql.OpenDB(c) // what the page advises
	defer shown.Close()
	must(t, wrapped.Ping())
	if s, _ := statusOf(t, pgpooled.StatusHandler(shown)); s.Pool.Acquires != 1 || s.State != "working" {
		t.Errorf("%+v", s.Pool)
	}
}

// The page takes no session, asks the server nothing, and waits for nobody.
func TestTheStatusPageAnswersWhateverThePoolIsIn(t *testing.T) {
	t.Parallel()
	db, proxy := through(t, server, "max_open_conns", "1", "pool_timeout", "1m")
	h := pgpooled.StatusHandler(db)
	state := func(want string) *statusJSON {
		t.Helper()
		s, _ := statusOf(t, h)
		if s.State != want {
			t.Errorf("%s, want %s: %+v", s.State, want, s)
		}
		return s
	}
	if s := state("idle"); s.Pool.Opens != 0 || !s.LastAnswer.IsZero() {
		t.Errorf("%+v", s)
	}
	done := make(chan error, 1)
	proxy.Freeze()
	go func() { done <- db.Ping() }()
	eventually(t, "a dial is under way", func() bool { s, _ := statusOf(t, h); return s.State == "connecting" })
	proxy.Thaw()
	must(t, <-done)
	if s := state("working"); s.LastAnswer.IsZero() {
		t.Error("there is no last answer")
	}
	c, err := db.Conn(testContext(t))
	must(t, err)
	mustExec(t, c, "select 1")
	go func() { done <- db.Ping() }()
	eventually(t, "somebody waits", func() bool { return stats(t, db).Waiting == 1 })
	proxy.Freeze() // and the server does not answer any more
	for range 20 {
		if s := state("saturated"); s.Pool.InUse != 1 || s.Pool.Waiting != 1 || s.Pool != stats(t, db) {
			t.Errorf("%+v\n%+v", s.Pool, stats(t, db))
		}
	}
	eventually(t, "the session is listed", func() bool { s, _ := statusOf(t, h); return len(s.Held) == 1 })
	proxy.Thaw()
	if s := stats(t, db); s.Acquires != 2 || s.Opens != 1 {
		t.Errorf("somebody took a session: %+v", s)
	}
	c.Close()
	must(t, <-done)

	must(t, proxy.Refuse(true))
	proxy.CutAll(true)
	ctx, cancel := context.WithCancel(testContext(t))
	go func() { done <- db.PingContext(ctx) }()
	eventually(t, "an outage", func() bool { s, _ := statusOf(t, h); return s.State == "unreachable" })
	if s := state("unreachable"); s.Since.IsZero() || s.Error == "" {
		t.Errorf("since %s, %q", s.Since, s.Error)
	}
	cancel()
	<-done
	must(t, proxy.Refuse(false))
	must(t, db.Ping())
	if s := state("working"); s.Error != "" || !s.Since.IsZero() {
		t.Errorf("since %s, %q", s.Since, s.Error)
	}
	connector, _ := pgpooled.ConnectorOf(db)
	connector.SetMaxOpenConns(7)
	for _, setting := range state("working").Settings {
		if setting.Key == "max_open_conns" && setting.Value != "7" {
			t.Errorf("%+v", setting)
		}
	}
	must(t, db.Close())
	if _, ok := state("closed").event("pool closed"); !ok {
		t.Error("the last event is missing")
	}
	if s, _ := statusOf(t, pgpooled.StatusHandler(db)); s.State != "closed" { // mounted too late
		t.Error(s.State)
	}
}

// Several handlers share one history; readers, callers, limits and Close do not
// disturb each other.
func TestStatusPagesAreReadByManyWhileThePoolWorksAndCloses(t *testing.T) {
	t.Parallel()
	db := open(t, "max_open_conns", "3")
	c, _ := pgpooled.ConnectorOf(db)
	var readers, callers sync.WaitGroup
	closed := make(chan struct{})
	for i := range 4 {
		h := pgpooled.StatusHandler(db)
		readers.Go(func() {
			for last := false; !last; {
				select {
				case <-closed:
					last = true
				case <-time.After(5 * time.Millisecond): // a page costs more than a call
				}
				got, _ := statusOf(t, h)
				if s := got.History.Samples; len(s) == 0 || s[len(s)-1].Time.Before(s[0].Time) {
					t.Errorf("%d samples, or out of order", len(s))
				}
				if last && got.State != "closed" {
					t.Error(got.State)
				}
			}
		})
		callers.Go(func() {
			for range 30 {
				if _, err := db.Exec("select 1"); err != nil {
					t.Error(err)
				}
				c.SetMaxOpenConns(3 + i)
			}
		})
	}
	callers.Wait()
	must(t, db.Close())
	close(closed)
	readers.Wait()
}

func TestThePageOfASharedPoolIsClosedWithItsOwnConnector(t *testing.T) {
	t.Parallel()
	dsn := server.DSN("application_name", app(), "pool_name", fmt.Sprintf("shared%d", appCount.Add(1)))
	one, two := openWith(t, dsn), openWith(t, dsn)
	pages := []http.Handler{pgpooled.StatusHandler(one), pgpooled.StatusHandler(two)}
	must(t, one.Ping())
	for i, want := range [][]string{{"working", "working"}, {"closed", "working"}, {"closed", "closed"}} {
		for j, h := range pages {
			if s, _ := statusOf(t, h); s.State != want[j] || s.Pool.Acquires != 1 {
				t.Errorf("%d closed: page %d says %s, %d handed out", i, j, s.State, s.Pool.Acquires)
			}
		}
		if i < 2 {
			must(t, []*sql.DB{one, two}[i].Close())
		}
	}
}
