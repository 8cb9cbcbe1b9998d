package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgpooled/pgpooled"
)

const checkAbout = `Says what a DSN means and where each setting comes from, connects and tells how
long each step took, looks at the server, and gives advice with the DSN to use.
It writes nothing. It opens one connection, another two for a moment to find out
about TLS and about a pooler.

Exit status
  0  all is well
  1  no connection
  2  the DSN or the arguments are wrong
  3  it connects, with warnings`

const checkExamples = `  pgpooled check                                    # DATABASE_URL, or PGHOST and its sisters
  pgpooled check 'postgres://app@db/shop?max_open_conns=20'
  pgpooled check --instances 8                      # do 8 instances fit the server's limits?
  pgpooled check --json | jq .warnings
  pgpooled check --quick                            # a container's health check, milliseconds`

type checkFlags struct {
	json, quick bool
	instances   int
	timeout     time.Duration
}

func newCheck() *cobra.Command {
	var f checkFlags
	c := &cobra.Command{
		Use:     "check [DSN]",
		Short:   "say what a DSN means, whether it connects, what is there, and what to change",
		Long:    checkAbout,
		Example: checkExamples,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case f.instances < 1:
				return usage("--instances must be at least 1")
			case c.Flags().Changed("timeout") && f.timeout <= 0:
				return usage("--timeout must be above 0")
			}
			dsn, where, err := findDSN(args)
			if err != nil {
				return err
			}
			return check(c.Context(), f, dsn, where, c.OutOrStdout())
		},
	}
	c.Flags().BoolVar(&f.json, "json", false, "print one JSON object")
	c.Flags().BoolVar(&f.quick, "quick", false, "connect, SELECT 1, nothing else: exit status 0 or 1")
	c.Flags().IntVar(&f.instances, "instances", 1, "how many processes will use this DSN at a time")
	c.Flags().DurationVar(&f.timeout, "timeout", 0, "for all of it (default 15s, with --quick 2s)")
	return c
}

// checkResult is what --json prints. Durations are in milliseconds.
type checkResult struct {
	ExitStatus int          `json:"exit_status"`
	DSN        string       `json:"dsn"` // without secrets, as Config.String
	DSNSource  string       `json:"dsn_source"`
	Settings   []setting    `json:"settings"`
	Connected  bool         `json:"connected"`
	Steps      []step       `json:"steps"`
	TLS        *tlsFacts    `json:"tls"` // null: the connection is not encrypted
	Error      *connectFail `json:"error,omitempty"`
	Server     *serverFacts `json:"server,omitempty"`
	Pooler     *poolerFacts `json:"pooler,omitempty"`
	Capacity   *capacity    `json:"capacity,omitempty"`
	Warnings   []advice     `json:"warnings"`
	Notes      []advice     `json:"notes"`
	Use        string       `json:"use,omitempty"` // the DSN to use, its password as xxxxx
}

type setting struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Meaning string `json:"meaning,omitempty"`
	Source  string `json:"source"`
	Name    string `json:"name,omitempty"`
	Hidden  bool   `json:"hidden,omitempty"`
}

// connectFail is why there is no connection.
type connectFail struct {
	Step    string `json:"step"`
	Reason  string `json:"reason"` // a word of pgpooled.HealthReason
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

func check(ctx context.Context, f checkFlags, dsn, where string, out io.Writer) error {
	cfg, err := pgpooled.ParseDSN(dsn)
	if err != nil {
		if f.json {
			_ = printJSON(out, map[string]any{"exit_status": exitUsage, "dsn_source": where, "error": map[string]string{"step": "dsn", "message": err.Error()}})
		}
		return usageError(err)
	}
	limit := f.timeout
	switch {
	case limit == 0 && f.quick:
		limit = 2 * time.Second
	case limit == 0:
		limit = 15 * time.Second
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if f.quick {
		return quick(limited, f, cfg, out)
	}
	r := &checkResult{DSN: cfg.String(), DSNSource: where, Steps: []step{}, Warnings: []advice{}, Notes: []advice{}}
	for _, s := range cfg.Settings() {
		r.Settings = append(r.Settings, setting{s.Key, s.Value, s.Meaning, string(s.Origin), s.Name, s.Hidden})
	}
	r.examine(limited, f, cfg)
	if ctx.Err() != nil {
		return interrupted(errors.New("interrupted"))
	}
	switch {
	case !r.Connected:
		r.ExitStatus = exitFailed
	case len(r.Warnings) > 0:
		r.ExitStatus = exitWarnings
	}
	if f.json {
		err = printJSON(out, r)
	} else {
		var text bytes.Buffer
		r.print(&text)
		_, err = out.Write(text.Bytes())
	}
	if err != nil {
		return failed(err)
	}
	return done(r.ExitStatus)
}

// examine connects and looks around.
func (r *checkResult) examine(ctx context.Context, f checkFlags, cfg *pgpooled.Config) {
	t := &tracer{}
	db, err := openForCheck(cfg, t)
	if err != nil {
		r.Error = &connectFail{Step: "dsn", Reason: "other", Message: err.Error(), Remedy: "Correct the DSN."}
		return
	}
	defer db.Close()
	began := time.Now()
	conn, err := db.Conn(ctx)
	connected := time.Now()
	answered := connected
	if err == nil {
		defer conn.Close() // again: no harm
		err = conn.PingContext(ctx)
		answered = time.Now()
	}
	r.Steps = t.steps(began, connected, answered, err)
	if t.encrypted() && (err == nil || pgpooled.HealthReason(err) != "timeout") {
		r.TLS = t.probe(ctx, cfg)
	}
	if err != nil {
		r.Error = explainFailure(err, failedStep(r.Steps), cfg)
		return
	}
	r.Connected = true
	if r.Server, err = lookAtServer(ctx, conn); err != nil {
		r.warn("The server answers, but not what it is: "+printable(err.Error()), "")
		r.advise(f, cfg)
		return
	}
	// The session is given back for CheckCapacity: the pool may have only one.
	_ = conn.Close()
	present := "unknown"
	count, counted := pgpooled.CheckCapacity(ctx, db, f.instances)
	if r.Server.counted = counted; counted == nil {
		present = count.Pooler
	}
	r.Pooler = &poolerFacts{Present: "unknown"}
	if first, err := db.Conn(ctx); err == nil {
		r.Pooler = findPooler(ctx, first, present, cfg)
		_ = first.Close()
	}
	if counted == nil {
		if r.Pooler.Present == "yes" { // found by behaviour: its limits count too
			count.Pooler, count.Fits = "yes", false
		}
		r.Capacity = newCapacity(count)
	}
	r.advise(f, cfg)
}

// quick is the health check: one connection, one answer.
func quick(ctx context.Context, f checkFlags, cfg *pgpooled.Config, out io.Writer) error {
	began := time.Now()
	db, err := openForCheck(cfg, nil)
	if err == nil {
		var one int
		err = db.QueryRowContext(ctx, "SELECT 1").Scan(&one)
		_ = db.Close()
	}
	took := time.Since(began)
	code := exitOK
	if err != nil {
		code = exitFailed
	}
	switch {
	case f.json:
		answer := map[string]any{"healthy": err == nil, "latency": milliseconds(took), "exit_status": code}
		if err != nil {
			answer["error"] = pgpooled.HealthReason(err)
			answer["message"] = printable(err.Error())
		}
		_ = printJSON(out, answer)
	case err != nil:
		fmt.Fprintf(out, "not healthy after %s: %s: %s\n", short(took), pgpooled.HealthReason(err), printable(err.Error()))
	default:
		fmt.Fprintf(out, "healthy: connected and answered in %s\n", short(took))
	}
	return done(code)
}

func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
