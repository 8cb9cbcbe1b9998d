package main

import (
	"context"
	"encoding/json"
	"errors"
	"expvar"
	"net/http"
	"strconv"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

func (s *service) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	s.handle(mux, "GET /accounts/{id}", s.getAccount)
	s.handle(mux, "POST /transfers", s.postTransfer)
	return mux
}

// adminRoutes are for those who run the service.
func adminRoutes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("GET /debug/vars", expvar.Handler())
	return mux
}

// healthz is liveness: this process answers. It does not ask the database, since
// a new process would not make that one come back.
func (s *service) healthz(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusOK)
}

// readyz is readiness: send requests here, or not. A pool that is only busy is
// ready, else a burst would take one replica after the other out.
func (s *service) readyz(w http.ResponseWriter, r *http.Request) {
	s.lastAnswer(w)
	switch s.state.Load() {
	case starting:
		writeJSON(w, http.StatusServiceUnavailable, problem{"starting"})
	case draining:
		writeJSON(w, http.StatusServiceUnavailable, problem{"draining"})
	default:
		pgpooled.HealthHandler(s.db).ServeHTTP(w, r)
	}
}

// lastAnswer ends a connection after its answer while the service drains, so that
// few are idle when the listener closes: a request that is sent at that moment
// would be lost.
func (s *service) lastAnswer(w http.ResponseWriter) {
	if s.state.Load() == draining {
		w.Header().Set("Connection", "close")
	}
}

// statusHungUp is what nginx logs too for a client that did not wait for its
// answer. Nobody gets it: it is for the log and the metric.
const statusHungUp = 499

// endpoint answers a request with a status and what becomes JSON, or an error.
type endpoint func(ctx context.Context, r *http.Request) (status int, body any, err error)

// handle gives an endpoint its deadline, its log line and its metric.
func (s *service) handle(mux *http.ServeMux, pattern string, f endpoint) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		s.lastAnswer(w)
		ctx, cancel := context.WithTimeout(r.Context(), s.cfg.requestTimeout)
		defer cancel()
		status, body, err := http.StatusServiceUnavailable, any(problem{"starting"}), error(nil)
		if s.state.Load() != starting {
			if status, body, err = f(ctx, r); err != nil {
				status, body = refuse(err)
			}
			if err != nil && r.Context().Err() != nil {
				status = statusHungUp // whatever came of it: not a fault of this service
			}
		}
		if status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "1")
		}
		writeJSON(w, status, body)
		s.requests.Add(pattern+" "+strconv.Itoa(status), 1)
		s.logRequest(ctx, pattern, status, time.Since(start), err)
	})
}

func (s *service) logRequest(ctx context.Context, pattern string, status int, took time.Duration, err error) {
	log := s.log.With("request", pattern, "status", status, "ms", float64(took.Microseconds())/1000)
	if status >= 500 && err != nil {
		log.ErrorContext(ctx, "failed", "error", err.Error())
		return
	}
	log.DebugContext(ctx, "answered")
}

type problem struct {
	Error string `json:"error"`
}

// refuse says with which status an error is answered: 503 where the same request,
// with the same key, may be sent again.
func refuse(err error) (int, problem) {
	var (
		known   *requestError
		unknown *pgpooled.OutcomeUnknownError
		answer  *pq.Error
	)
	switch {
	case errors.As(err, &known):
		return known.status, problem{known.text}
	case errors.As(err, &answer) && answer.Code == "23503": // foreign key
		return http.StatusNotFound, problem{"no such account"}
	case errors.As(err, &answer) && answer.Constraint == "accounts_cents_check":
		return http.StatusConflict, problem{"not enough money"}
	case errors.As(err, &answer) && answer.Code == "22003": // bigint, whichever row comes first
		return http.StatusConflict, problem{"not enough money, or more than an account can hold"}
	case errors.As(err, &unknown):
		return http.StatusServiceUnavailable, problem{"the outcome is unknown: send it again with the same key"}
	case errors.As(err, &answer) && later(answer):
		return http.StatusServiceUnavailable, problem{"the database is busy"}
	case pgpooled.Retryable(err), errors.Is(err, pgpooled.ErrPoolTimeout), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, problem{"the database is away or busy"}
	}
	return http.StatusInternalServerError, problem{"internal error"}
}

// later is true for what passes by itself: a timeout or an administrator that ended
// the statement, a lock that was not free, no memory, no room on the disk. The
// transaction was rolled back.
func later(answer *pq.Error) bool {
	return answer.Code == "57014" || answer.Code == "55P03" || answer.Code.Class() == "53"
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that is gone
}
