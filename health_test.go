package pgpooled_test

import (
	"context"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// health asks a handler and takes its answer apart.
func health(t *testing.T, db *sql.DB, opts ...pgpooled.HealthOption) (status int, body map[string]any, text string) {
	t.Helper()
	w := httptest.NewRecorder()
	pgpooled.HealthHandler(db, opts...).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/health/db", nil))
	if ct := w.Header().Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type %q", ct)
	}
	if w.Header().Get("Cache-Control") != "no-store" {
		t.Error("the answer may be cached")
	}
	text = w.Body.String()
	if err := json.Unmarshal([]byte(text), &body); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return w.Code, body, text
}

func keys(m map[string]any) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func TestTheHealthPageOfAServerThatAnswers(t *testing.T) {
	t.Parallel()
	db := open(t)
	status, body, text := health(t, db)
	if status != 200 || body["healthy"] != true || body["saturated"] != false || !slices.Equal(keys(body), []string{"healthy", "latency", "saturated"}) {
		t.Errorf("%d %s", status, text)
	}
	if ms, ok := body["latency"].(float64); !ok || ms <= 0 || ms > 2000 {
		t.Errorf("latency %v", body["latency"])
	}
	srv := httptest.NewServer(pgpooled.HealthHandler(db))
	defer srv.Close()
	for method, want := range map[string]int{"GET": 200, "HEAD": 200, "POST": 405, "DELETE": 405, "OPTIONS": 405} {
		req, err := http.NewRequestWithContext(testContext(t), method, srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want || method == "HEAD" && len(b) > 0 || want == 405 && resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d %v %q", method, resp.StatusCode, resp.Header, b)
		}
	}
	detailed, body, text := health(t, db, pgpooled.WithHealthDetails())
	pool, _ := body["pool"].(map[string]any)
	if detailed != 200 || pool["MaxOpenConns"] != 10.0 {
		t.Errorf("%d %s", detailed, text)
	}
}

// lockedOut has n callers wait for a lock of the server until the test ends.
func lockedOut(t *testing.T, db *sql.DB, n int) {
	t.Helper()
	key := appCount.Add(1)
	holder, err := server.Admin().Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, holder, "select pg_advisory_lock($1)", key)
	done := make(chan error, n)
	for range n {
		go func() {
			_, err := db.Exec("select pg_advisory_lock($1), pg_advisory_unlock($1)", key)
			done <- err
		}()
	}
	t.Cleanup(func() {
		mustExec(t, holder, "select pg_advisory_unlock_all()")
		holder.Close()
		for range n {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	eventually(t, "all wait on the lock", func() bool {
		return queryInt(t, holder, "select count(*) from pg_locks where locktype = 'advisory' and not granted and objid = $1", key) == n
	})
}

func TestTenSessionsThatWaitOnLocksAreSaturatedNotDown(t *testing.T) {
	t.Parallel()
	db := open(t, "pool_timeout", "30s")
	lockedOut(t, db, 10)
	start := time.Now()
	status, body, text := health(t, db)
	if status != 200 || body["healthy"] != true || body["saturated"] != true || time.Since(start) > pgpooled.DefaultHealthTimeout+time.Second {
		t.Errorf("%d %s after %s", status, text, time.Since(start))
	}
	h := pgpooled.CheckHealth(testContext(t), db)
	if !h.Healthy || !h.Saturated || h.Error != nil || h.Pool.InUse != 10 {
		t.Errorf("%+v", h)
	}
}

// The same where it is the server that has no room for more, or where one of
// the slots is a session that winds down: busy is busy.
func TestAServerWithoutRoomForMoreSessionsIsSaturatedNotDown(t *testing.T) {
	t.Parallel()
	role := fmt.Sprintf("narrow%d", appCount.Add(1))
	mustExec(t, server.Admin(), "create role "+role+" login connection limit 3")
	db := open(t, "user", role, "pool_timeout", "30s", "sslmode", "disable")
	lockedOut(t, db, 3)
	if status, body, text := health(t, db); status != 200 || body["saturated"] != true {
		t.Errorf("all three sessions that the server allows are busy: %d %s", status, text)
	}
}

// WithBeforeConnect says where the server is; so it does for the check.
func TestTheCheckOfABusyPoolAsksWhereThePoolConnectsTo(t *testing.T) {
	t.Parallel()
	db := openWith(t, server.DSN("host", "127.0.0.2", "port", "1", "application_name", app(), "max_open_conns", "1", "sslmode", "disable"),
		pgpooled.WithBeforeConnect(func(_ context.Context, cfg *pq.Config) error {
			cfg.Host, cfg.Port = "127.0.0.1", uint16(server.Port())
			return nil
		}))
	lockedOut(t, db, 1)
	if status, body, text := health(t, db); status != 200 || body["saturated"] != true {
		t.Errorf("%d %s", status, text)
	}
}

func TestABusyPoolOfAServerThatHangsIsDown(t *testing.T) {
	t.Parallel()
	db, proxy := through(t, server, "max_open_conns", "1")
	c, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, c, "select 1")
	proxy.Freeze()
	start := time.Now()
	status, body, text := health(t, db, pgpooled.WithHealthTimeout(500*time.Millisecond))
	if took := time.Since(start); status != 503 || body["error"] != "timeout" || took > 1500*time.Millisecond {
		t.Errorf("%d %s after %s", status, text, took)
	}
	proxy.Thaw()
	c.Close()
}

// words are what each failure is called, and what must not be on the page.
func TestDownIsDownWithinTheTimeoutAndSaysWhyInOneWord(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{Password: "right"})
	mustExec(t, s.Admin(), "create role full login connection limit 0")
	mustExec(t, s.Admin(), "create role app login password 'right'")
	refused, silent, slam := newProxy(t, s.Addr()), newProxy(t, s.Addr()), newProxy(t, "127.0.0.1:1")
	must(t, refused.Refuse(true))
	silent.Freeze()
	port := func(p interface{ Port() int }) string { return fmt.Sprint(p.Port()) }
	mustExec(t, s.Admin(), "alter role full password 'right'")
	for name, tt := range map[string]struct {
		dsn   string
		words []string
	}{
		"nobody listens":    {s.DSN("port", port(refused)), []string{"refused"}},
		"no socket there":   {s.DSN("host", filepath.Join(s.SocketDir(), "x")), []string{"refused"}},
		"no such name":      {s.DSN("host", "nowhere.invalid"), []string{"dns", "timeout", "pool_timeout"}}, // without a resolver it takes longer
		"silent":            {s.DSN("port", port(silent)), []string{"timeout", "pool_timeout"}},
		"silent, told so":   {s.DSN("port", port(silent), "connect_timeout", "100ms"), []string{"timeout"}},
		"hangs up":          {s.DSN("port", port(slam)), []string{"lost"}},
		"wrong password":    {s.DSN("password", "wr0ng-secret"), []string{"auth"}},
		"no such database":  {s.DSN("dbname", "nowhere"), []string{"auth"}},
		"full":              {s.DSN("user", "full"), []string{"full"}},
		"no TLS":            {s.DSN("sslmode", "require"), []string{"tls"}},
		"a bad certificate": {server.DSN("sslmode", "verify-full", "sslrootcert", "system"), []string{"tls"}},
		"another error":     {s.DSN("options", "-c nonsense=1"), []string{"server_error"}},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := pgpooled.Open(tt.dsn+" pool_timeout=30s", quiet)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			limit := time.Second
			switch tt.words[0] {
			case "timeout":
				limit = 400 * time.Millisecond
			case "auth", "tls", "server_error": // not tried again: at once, if the machine lets it
				limit = 20 * time.Second
			}
			start := time.Now()
			status, body, text := health(t, db, pgpooled.WithHealthTimeout(limit))
			if took := time.Since(start); status != 503 || took > 25*time.Second || body["healthy"] != false {
				t.Errorf("%d %s after %s", status, text, took)
			}
			if word, _ := body["error"].(string); !slices.Contains(tt.words, word) || !slices.Equal(keys(body), []string{"error", "healthy", "latency", "saturated"}) {
				t.Errorf("got %s, want %v", text, tt.words)
			}
			for _, secret := range []string{"127.0.0.1", "localhost", "postgres", "wr0ng", "right", "nowhere", "full login"} {
				if strings.Contains(text, secret) {
					t.Errorf("%q is on the page: %s", secret, text)
				}
			}
			_, body, text = health(t, db, pgpooled.WithHealthTimeout(limit), pgpooled.WithHealthDetails())
			if body["detail"] == nil || body["pool"] == nil || strings.Contains(text, "wr0ng") {
				t.Errorf("details: %s", text)
			}
			db.Close()
			if status, body, text := health(t, db); status != 503 || body["error"] != "closed" {
				t.Errorf("closed: %d %s", status, text)
			}
		})
	}
}

func TestTheHealthPageWhileTheServerIsGone(t *testing.T) {
	t.Parallel()
	s := pgtest.StartT(t, pgtest.Options{})
	db := openWith(t, s.DSN("application_name", app()))
	if status, _, text := health(t, db); status != 200 {
		t.Fatal(text)
	}
	must(t, s.Down("fast"))
	if status, body, text := health(t, db); status != 503 || body["error"] != "refused" {
		t.Errorf("%d %s", status, text)
	}
	must(t, s.Up(testContext(t)))
	eventually(t, "healthy again", func() bool { status, _, _ := health(t, db); return status == 200 })
}

func TestEachReasonHasItsWord(t *testing.T) {
	t.Parallel()
	for want, errs := range map[string][]error{
		"":             {nil},
		"closed":       {pgpooled.ErrClosed},
		"refused":      {syscall.ECONNREFUSED},
		"dns":          {&net.DNSError{IsNotFound: true}},
		"timeout":      {context.DeadlineExceeded, syscall.ETIMEDOUT},
		"lost":         {io.EOF, syscall.ECONNRESET, syscall.EPIPE},
		"tls":          {pq.ErrSSLNotSupported, x509.CertificateInvalidError{Reason: x509.Expired}},
		"auth":         {&pq.Error{Code: "28000"}, &pq.Error{Code: "28P01"}, &pq.Error{Code: "3D000"}, &pq.Error{Code: "42501"}},
		"starting_up":  {&pq.Error{Code: "57P03"}, &pq.Error{Code: "57P01"}},
		"full":         {&pq.Error{Code: "53300"}},
		"pool_timeout": {&pgpooled.PoolTimeoutError{}},
		"server_error": {&pq.Error{Code: "XX000"}},
		"other":        {errors.New("?")},
	} {
		for _, err := range errs {
			for _, e := range []error{err, &pgpooled.PoolTimeoutError{Connect: err}} {
				if err == nil || want == "pool_timeout" {
					e = err
				}
				if got := pgpooled.HealthReason(e); got != want {
					t.Errorf("%v is %q, want %q", e, got, want)
				}
			}
		}
	}
}

func TestWarmOpensWhatMinIdleConnsAsksForAndFailsAtOnceForGood(t *testing.T) {
	t.Parallel()
	for minIdle, want := range map[string]int{"0": 1, "4": 4, "10": 10} {
		db, name := openAs(t, "min_idle_conns", minIdle)
		if err := pgpooled.Warm(testContext(t), db); err != nil {
			t.Fatal(err)
		}
		if n, err := server.CountSessions(testContext(t), name); err != nil || n != want || stats(t, db).Idle != want || stats(t, db).Open != want {
			t.Errorf("min_idle_conns=%s: the server counts %d, idle %d, open %d (%v)", minIdle, n, stats(t, db).Idle, stats(t, db).Open, err)
		}
		waits := stats(t, db).Waits
		if err := db.Ping(); err != nil || stats(t, db).Waits != waits {
			t.Errorf("the first caller had to wait for a dial (%v)", err)
		}
	}
	s := pgtest.StartT(t, pgtest.Options{Password: "right"})
	db := openWith(t, s.DSN("password", "wrong", "min_idle_conns", "5", "pool_timeout", "60s"))
	start := time.Now()
	err := pgpooled.Warm(testContext(t), db)
	if answer, ok := err.(*pq.Error); !ok || answer.Code != "28P01" || time.Since(start) > 5*time.Second {
		t.Errorf("%T %v after %s", err, err, time.Since(start))
	}
	gone := newProxy(t, s.Addr())
	must(t, gone.Refuse(true))
	away := openWith(t, s.DSN("port", fmt.Sprint(gone.Port()), "pool_timeout", "60s"))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := pgpooled.Warm(ctx, away); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the context's end, and why nothing could be opened: %v", err)
	}
}
