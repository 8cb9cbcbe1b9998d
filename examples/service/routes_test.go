package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled/pgpooledtest"
)

// serviceOn is a service that is ready, inside the test.
func serviceOn(t *testing.T, url string) *service {
	t.Helper()
	cfg, err := loadConfig(func(name string) string {
		return map[string]string{"DATABASE_URL": url, "REQUEST_TIMEOUT": "30s", "SHUTDOWN_TIMEOUT": "30s"}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	s := newService(cfg, open(t, url), slog.New(slog.DiscardHandler))
	if err := s.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.state.Store(ready)
	return s
}

func TestRequestsAreAnsweredWithTheRightStatus(t *testing.T) {
	t.Parallel()
	s := serviceOn(t, pgpooledtest.Start(t).Database(t))
	for _, c := range []struct {
		what, method, path, key, body string
		status                        int
		answer                        string
	}{
		{"an account", "GET", "/accounts/3", "", "", 200, `{"id":3,"cents":1000000}`},
		{"another one", "GET", "/accounts/11", "", "", 404, `no such account`},
		{"none", "GET", "/accounts/three", "", "", 400, `number`},
		{"a transfer", "POST", "/transfers", "k1", `{"from":1,"to":2,"cents":300}`, 201, `{"key":"k1","from":1,"to":2,"cents":300}`},
		{"the same again", "POST", "/transfers", "k1", `{"from":1,"to":2,"cents":300}`, 200, `{"key":"k1","from":1,"to":2,"cents":300}`},
		{"another with its key", "POST", "/transfers", "k1", `{"from":1,"to":2,"cents":301}`, 422, `another transfer`},
		{"without a key", "POST", "/transfers", "", `{"from":1,"to":2,"cents":300}`, 400, `Idempotency-Key`},
		{"with a key that is no text", "POST", "/transfers", "\xff\xfe", `{"from":1,"to":2,"cents":300}`, 400, `Idempotency-Key`},
		{"to oneself", "POST", "/transfers", "k2", `{"from":1,"to":1,"cents":300}`, 400, `two accounts`},
		{"of nothing", "POST", "/transfers", "k2", `{"from":1,"to":2,"cents":0}`, 400, `positive`},
		{"of no number", "POST", "/transfers", "k2", `{"from":1,"to":2,"cents":"x"}`, 400, `no transfer`},
		{"with something after it", "POST", "/transfers", "k2", `{"from":1,"to":2,"cents":1}00`, 400, `no transfer`},
		{"too long", "POST", "/transfers", "k2", `{"from":1,"to":2,"cents":` + strings.Repeat("1", 5000), 400, `no transfer`},
		{"to nobody", "POST", "/transfers", "k2", `{"from":1,"to":22,"cents":300}`, 404, `no such account`},
		{"of too much", "POST", "/transfers", "k2", `{"from":1,"to":2,"cents":999999999}`, 409, `not enough`},
		{"of more than there is", "POST", "/transfers", "k2", `{"from":2,"to":1,"cents":9223372036854775807}`, 409, `not enough`},
		{"once more, with the key of those that failed", "POST", "/transfers", "k2", `{"from":2,"to":1,"cents":1}`, 201, `"k2"`},
		{"what came of it", "GET", "/accounts/1", "", "", 200, `{"id":1,"cents":999701}`},
		{"what came of it there", "GET", "/accounts/2", "", "", 200, `{"id":2,"cents":1000299}`},
		{"liveness", "GET", "/healthz", "", "", 200, ``},
		{"readiness", "GET", "/readyz", "", "", 200, `"healthy":true`},
		{"metrics, for others", "GET", "/debug/vars", "", "", 404, ``},
	} {
		t.Run(c.what, func(t *testing.T) {
			req := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
			if c.key != "" {
				req.Header.Set("Idempotency-Key", c.key)
			}
			w := httptest.NewRecorder()
			s.routes().ServeHTTP(w, req)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.answer) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
}

// held is a service whose first account is locked until the test ends.
func held(t *testing.T, kv ...string) *service {
	t.Helper()
	url := pgpooledtest.Start(t).Database(t, kv...)
	s := serviceOn(t, url)
	tx, err := open(t, url).Begin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback() })
	if _, err := tx.Exec("SET LOCAL lock_timeout = 0; SELECT FROM accounts WHERE id = 1 FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestALockThatIsNotFreeIsNoFaultOfTheService(t *testing.T) {
	t.Parallel()
	s := held(t, "options", "-clock_timeout=50ms")
	req := httptest.NewRequest("POST", "/transfers", strings.NewReader(`{"from":1,"to":2,"cents":300}`))
	req.Header.Set("Idempotency-Key", "k")
	w := httptest.NewRecorder()
	s.routes().ServeHTTP(w, req)
	if w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

func TestAClientThatHangsUpIsNoFaultOfTheService(t *testing.T) {
	t.Parallel()
	s := held(t)
	var log strings.Builder
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	ctx, hangUp := context.WithCancel(t.Context())
	req := httptest.NewRequest("POST", "/transfers", strings.NewReader(`{"from":1,"to":2,"cents":300}`)).WithContext(ctx)
	req.Header.Set("Idempotency-Key", "k")
	time.AfterFunc(50*time.Millisecond, hangUp) // before the lock is asked for is as good
	s.routes().ServeHTTP(httptest.NewRecorder(), req)
	if got := s.requests.String(); got != `{"POST /transfers 499": 1}` || log.Len() > 0 {
		t.Errorf("counted as %s, logged as %q", got, log.String())
	}
}

func TestAStartWithoutTimeIsRefused(t *testing.T) {
	t.Parallel()
	_, err := loadConfig(func(name string) string {
		return map[string]string{"DATABASE_URL": "postgres://h/d", "START_TIMEOUT": "0s"}[name]
	})
	if err == nil || !strings.Contains(err.Error(), "START_TIMEOUT") {
		t.Errorf("got %v", err)
	}
}

func TestADrainingServiceEndsEachConnectionWithItsAnswer(t *testing.T) {
	t.Parallel()
	s := serviceOn(t, pgpooledtest.Start(t).Database(t))
	server := httptest.NewServer(s.routes())
	defer server.Close()
	for _, want := range []bool{false, true} {
		resp, err := http.Get(server.URL + "/accounts/1")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 || resp.Close != want {
			t.Errorf("status %d, ends %t, want %t", resp.StatusCode, resp.Close, want)
		}
		s.state.Store(draining)
	}
}
