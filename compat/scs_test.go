package compat

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/alexedwards/scs/postgresstore"
	"github.com/alexedwards/scs/v2"
)

// A web application that keeps its sessions in PostgreSQL: a counter per
// visitor, a token that is renewed, one that is destroyed, one that expires.
func TestSCS(t *testing.T) {
	both(t, func(t *testing.T, s *side) {
		db := s.open(t)
		_, err := db.Exec("CREATE TABLE sessions (token text PRIMARY KEY, data bytea NOT NULL, expiry timestamptz NOT NULL)")
		must(t, err)
		store := postgresstore.NewWithCleanupInterval(db, 0) // no goroutine yet
		m := scs.New()
		m.Store = store

		mux := http.NewServeMux()
		mux.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
			m.Put(r.Context(), "n", m.GetInt(r.Context(), "n")+1)
			_, _ = io.WriteString(w, time.Duration(m.GetInt(r.Context(), "n")).String())
		})
		mux.HandleFunc("/renew", func(_ http.ResponseWriter, r *http.Request) { s.see("renew", m.RenewToken(r.Context())) })
		mux.HandleFunc("/leave", func(_ http.ResponseWriter, r *http.Request) { s.see("leave", m.Destroy(r.Context())) })
		web := httptest.NewServer(m.LoadAndSave(mux))
		defer web.Close()

		for _, visitor := range []string{"ada", "bob"} {
			jar, err := cookiejar.New(nil)
			must(t, err)
			client := http.Client{Jar: jar, Transport: web.Client().Transport}
			for _, path := range []string{"/count", "/count", "/renew", "/count", "/leave", "/count"} {
				resp, err := client.Get(web.URL + path)
				must(t, err)
				body, err := io.ReadAll(resp.Body)
				must(t, err)
				must(t, resp.Body.Close())
				s.see(visitor+path, resp.StatusCode, string(body))
			}
		}
		all, err := store.All()
		s.see("left", len(all), err)

		_, found, err := store.Find("nobody's")
		s.see("unknown", found, err)
		s.see("kept", store.Commit("old", []byte{0, 1, 255}, time.Now().Add(-time.Hour)))
		_, found, err = store.Find("old")
		s.see("expired", found, err)
		cleaner := postgresstore.NewWithCleanupInterval(db, 5*time.Millisecond)
		within(t, "the expired session is swept", func() bool {
			var n int
			return db.QueryRow("SELECT count(*) FROM sessions").Scan(&n) == nil && n == len(all)
		})
		cleaner.StopCleanup()
		s.see("a second time", store.Commit("twice", []byte("a"), time.Now().Add(time.Hour)), store.Commit("twice", []byte("b"), time.Now().Add(time.Hour)))
		b, found, err := store.Find("twice")
		s.see("the later one", b, found, err, store.Delete("twice"))
	})
}
