package pgpooled

import (
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
)

// DefaultHealthTimeout bounds a health check whose caller's context allows more.
const DefaultHealthTimeout = 2 * time.Second

// Health is what [CheckHealth] found.
type Health struct {
	Healthy   bool          // the server answers
	Saturated bool          // it does, but all sessions are in use: not down, only busy
	Latency   time.Duration // how long the check took, the wait for a session included
	Error     error         // why it is not healthy, nil if it is
	Pool      Stats         // the pool at that moment; zero if db is not pgpooled's
}

// CheckHealth pings the server through the pool. It takes at most
// [DefaultHealthTimeout], or less if ctx ends earlier.
//
// A pool that is merely busy is not a database that is down: if no session comes
// free in half of that time, the server is asked on a socket of its own whether
// it is there, with the SSLRequest that needs no session. Under a wrapper that
// hides the pool the answer is db.Ping's.
func CheckHealth(ctx context.Context, db *sql.DB) Health {
	return checkHealth(ctx, db, DefaultHealthTimeout)
}

func checkHealth(ctx context.Context, db *sql.DB, limit time.Duration) Health {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, ok := ConnectorOf(db)
	if !ok {
		err := db.PingContext(ctx)
		return Health{Healthy: err == nil, Latency: time.Since(start), Error: err}
	}
	err := c.ping(ctx)
	h := Health{Healthy: err == nil, Error: err}
	var full *PoolTimeoutError
	if errors.As(err, &full) && full.saturated() {
		h = Health{Healthy: true, Saturated: true}
		if !c.pool.answeredSince(start) {
			if probe := c.opener.answers(ctx); probe != nil {
				h = Health{Error: &healthError{pool: err, probe: probe}}
			}
		}
	}
	h.Latency, h.Pool = time.Since(start), c.Stats()
	return h
}

// saturated: there are sessions, all in use, and the limit, or the server's, is
// what keeps the pool from having another.
func (e *PoolTimeoutError) saturated() bool {
	return e.InUse > 0 && (e.Limit > 0 && e.InUse+e.Closing >= e.Limit || isServerFull(e.Connect))
}

// healthError is why a busy pool does not count as healthy.
type healthError struct{ pool, probe error }

func (e *healthError) Error() string {
	return fmt.Sprintf("%v; nor did the server answer on a socket of its own: %v", e.pool, e.probe)
}

func (e *healthError) Unwrap() []error { return []error{e.pool, e.probe} }

// ping makes a round trip through the pool. Waiting for a session may take half
// of the context's time, so that there is some left to find out why there was
// none.
func (c *Connector) ping(ctx context.Context) error {
	if c.closed.Load() {
		return ErrClosed
	}
	half := ctx
	if d, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		half, cancel = context.WithTimeout(ctx, time.Until(d)/2)
		defer cancel()
	}
	l, err := c.pool.newLease(half)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Ping(ctx)
}

// answers asks whether one of the servers is there: an SSLRequest is answered
// with one byte before anything else, also by poolers. A server without a free
// slot says so with an error instead, which is an answer as well.
func (o *opener) answers(ctx context.Context) error {
	if o.opts.base != nil {
		return errors.New("pgpooled: no server to ask")
	}
	cfg, last := o.target(ctx)
	if last != nil {
		return last
	}
	for _, addr := range addresses(&cfg) {
		if last = o.sslRequest(ctx, addr[0], addr[1]); last == nil {
			return nil
		}
	}
	return last
}

func (o *opener) sslRequest(ctx context.Context, network, address string) error {
	conn, err := (&dialer{o: o}).dial(ctx, network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if d, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(d); err != nil {
			return err
		}
	}
	request := binary.BigEndian.AppendUint32(nil, 8)
	request = binary.BigEndian.AppendUint32(request, 80877103) // libpq's NEGOTIATE_SSL_CODE
	if _, err := conn.Write(request); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err
}

// addresses are the network and address of each host, as lib/pq dials them.
func addresses(cfg *pq.Config) [][2]string {
	hosts := append([]pq.ConfigMultihost{{Host: cfg.Host, Hostaddr: cfg.Hostaddr, Port: cfg.Port}}, cfg.Multi...)
	out := make([][2]string, 0, len(hosts))
	for _, h := range hosts {
		port := strconv.Itoa(int(h.Port))
		switch {
		case h.Hostaddr.IsValid():
			out = append(out, [2]string{"tcp", net.JoinHostPort(h.Hostaddr.String(), port)})
		case filepath.IsAbs(h.Host), strings.HasPrefix(h.Host, "@"):
			out = append(out, [2]string{"unix", filepath.Join(h.Host, ".s.PGSQL."+port)})
		default:
			out = append(out, [2]string{"tcp", net.JoinHostPort(h.Host, port)})
		}
	}
	return out
}

// Warm opens sessions before the first caller needs one: max(1, min_idle_conns)
// of them, no more than the limit. It returns when they are there, and at once
// with an error that does not pass, as a wrong password. The longest wait is
// pool_timeout, or ctx's.
func Warm(ctx context.Context, db *sql.DB) error {
	c, ok := ConnectorOf(db)
	if !ok {
		return db.PingContext(ctx)
	}
	n := max(1, c.cfg.MinIdleConns)
	if limit := c.Stats().MaxOpenConns; limit > 0 {
		n = min(n, limit)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.pool.warmUp(n)
	defer c.pool.warmUp(-n) // when they are idle
	var (
		wg     sync.WaitGroup
		leases = make([]*lease, n)
		first  error
		failed sync.Once
	)
	for i := range n {
		wg.Go(func() {
			l, err := c.pool.newLease(ctx)
			if err == nil {
				_, err = l.use(ctx) // or the pool takes it back for the next of us
			}
			if err != nil {
				failed.Do(func() { first = err })
				cancel() // the others would fare no better
			}
			leases[i] = l
		})
	}
	wg.Wait()
	for _, l := range leases {
		if l != nil {
			_ = l.Close()
		}
	}
	return first
}

// HealthOption changes what [HealthHandler] does.
type HealthOption func(*healthHandler)

// WithHealthTimeout bounds a check; the default is [DefaultHealthTimeout].
func WithHealthTimeout(d time.Duration) HealthOption {
	return func(h *healthHandler) { h.timeout = d }
}

// WithHealthDetails puts the error's text and the pool's statistics into the
// answer. They name hosts, roles and databases: not for a public page.
func WithHealthDetails() HealthOption { return func(h *healthHandler) { h.details = true } }

type healthHandler struct {
	db      *sql.DB
	timeout time.Duration
	details bool
}

// HealthHandler answers GET and HEAD with the outcome of a [CheckHealth] as
// JSON: 200 if the server answers, saturated or not, else 503.
//
//	{"healthy":true,"saturated":false,"latency":1.25}
//	{"healthy":false,"saturated":false,"latency":3.1,"error":"refused"}
//
// latency is in milliseconds; error is one of the words of [HealthReason].
func HealthHandler(db *sql.DB, opts ...HealthOption) http.Handler {
	h := &healthHandler{db: db, timeout: DefaultHealthTimeout}
	for _, opt := range opts {
		opt(h)
	}
	return h
}

func (h *healthHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	health := checkHealth(r.Context(), h.db, h.timeout)
	body := struct {
		Healthy   bool    `json:"healthy"`
		Saturated bool    `json:"saturated"`
		Latency   float64 `json:"latency"`
		Error     string  `json:"error,omitempty"`
		Detail    string  `json:"detail,omitempty"`
		Pool      *Stats  `json:"pool,omitempty"`
	}{Healthy: health.Healthy, Saturated: health.Saturated, Latency: float64(health.Latency.Microseconds()) / 1000}
	status := http.StatusOK
	if !health.Healthy {
		status = http.StatusServiceUnavailable
		body.Error = HealthReason(health.Error)
	}
	if h.details {
		body.Pool = &health.Pool
		if health.Error != nil {
			body.Detail = health.Error.Error()
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone: nothing to do
}
