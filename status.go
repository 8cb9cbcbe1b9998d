package pgpooled

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// StatusHandler shows the pool under db to whoever runs the program: its state
// and counts now, the last ten minutes as sparklines, the last 50 events of its
// log, the sessions leased for longer than a second, and the settings in effect.
// Mount it where net/http/pprof is:
//
//	http.Handle("/debug/pgpooled", pgpooled.StatusHandler(db))
//
// It answers GET and HEAD under any path. The page loads itself again every five
// seconds, unless the query has refresh=off; it has no script and asks for nothing
// else. format=json gives the same as JSON, as does an Accept header that prefers
// application/json to text/html; docs/status.md has its fields.
//
// Like pprof it is for operators, not for the public: it has names of hosts,
// roles and databases, the texts of errors and stacks of the program. It has no
// password, no DSN, no statement and none of their arguments. What the program's
// own hooks ([WithBeforeConnect], [WithAfterConnect], [WithDialer]) return as
// errors is shown as it is logged.
//
// It takes no session and asks the server nothing, so it answers at once, also
// while all sessions are in use, the server is away, or the pool is closed;
// for whether the server answers use [HealthHandler]. From this call until the
// pool is closed the pool takes a sample every two seconds; any number of
// handlers share them. If db is not pgpooled's, or a wrapper hides it, the
// answer is 501 and says so.
func StatusHandler(db *sql.DB) http.Handler {
	h := &statusHandler{}
	if db == nil {
		return h
	}
	if c, ok := ConnectorOf(db); ok {
		h.c = c
		c.pool.keepHistory()
	}
	return h
}

const noPoolHere = "pgpooled: no pool to show: this *sql.DB was opened with another driver, or a wrapper hides pgpooled's; " +
	"below a wrapper keep the Connector and mount StatusHandler(sql.OpenDB(connector))"

// statusHandler has no state of its own.
type statusHandler struct {
	c *Connector // nil if the database is not ours
}

func (h *statusHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", statusPolicy())
	header.Set("X-Frame-Options", "DENY") // for those who do not know frame-ancestors
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Vary", "Accept")
	query := r.URL.Query()
	asJSON := query.Get("format") == "json" || !query.Has("format") && prefersJSON(r.Header.Values("Accept"))
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		header.Set("Allow", "GET, HEAD")
		answerText(w, r, http.StatusMethodNotAllowed, asJSON, "pgpooled: only GET and HEAD")
		return
	case query.Has("format") && query.Get("format") != "json" && query.Get("format") != "html":
		answerText(w, r, http.StatusBadRequest, asJSON, "pgpooled: format is json or html")
		return
	case h.c == nil:
		answerText(w, r, http.StatusNotImplemented, asJSON, noPoolHere)
		return
	}
	report := h.c.report()
	if asJSON {
		answerJSON(w, r, http.StatusOK, report)
		return
	}
	var page bytes.Buffer
	if err := writeStatusPage(&page, report, query.Get("refresh") != "off"); err != nil {
		answerText(w, r, http.StatusInternalServerError, false, "pgpooled: the page could not be made")
		return
	}
	answer(w, r, http.StatusOK, "text/html; charset=utf-8", page.Bytes())
}

func answerText(w http.ResponseWriter, r *http.Request, status int, asJSON bool, text string) {
	if asJSON {
		answerJSON(w, r, status, map[string]string{"error": text})
		return
	}
	answer(w, r, status, "text/plain; charset=utf-8", []byte(text+"\n"))
}

func answerJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // a year beyond 9999
		status, body = http.StatusInternalServerError, []byte(`{"error":"pgpooled: the answer could not be made"}`)
	}
	answer(w, r, status, "application/json", append(body, '\n'))
}

func answer(w http.ResponseWriter, r *http.Request, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client is gone: nothing to do
	}
}

// prefersJSON says whether an Accept header names JSON, and HTML not at all or
// as less welcome. Browsers name HTML first, curl nothing.
func prefersJSON(accept []string) bool {
	quality := make(map[string]float64)
	for _, part := range strings.Split(strings.Join(accept, ","), ",") {
		kind, options, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q, err := strconv.ParseFloat(options["q"], 64)
		if err != nil {
			q = 1
		}
		quality[kind] = q
	}
	return quality["application/json"] > max(quality["text/html"], 0)
}
