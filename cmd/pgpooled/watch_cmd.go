package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"

	"github.com/pgpooled/pgpooled"
)

const watchAbout = `Shows who is on the server: sessions by application, what they do and for how
long, who waits for whose lock, and how near the limits are. It only reads, on one
connection, and shows no text of a query. A role that is not in pg_monitor sees
the numbers of other roles' sessions, not what they do.

On a terminal the picture is live until Ctrl-C; elsewhere one is printed every
--interval, with --json as one object a line.

Exit status
  0  Ctrl-C, or with --once all is well
  1  no connection (with --once)
  2  the DSN or the arguments are wrong
  3  warnings (with --once)`

const watchExamples = `  pgpooled watch                          # DATABASE_URL, or PGHOST and its sisters
  pgpooled watch --interval 500ms
  pgpooled watch --once --json | jq .blocked`

type watchFlags struct {
	interval   time.Duration
	once, json bool
}

func newWatch() *cobra.Command {
	var f watchFlags
	c := &cobra.Command{
		Use:     "watch [DSN]",
		Short:   "show the server's sessions, locks and limits, live",
		Long:    watchAbout,
		Example: watchExamples,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if f.interval < 100*time.Millisecond {
				return usage("--interval must be at least 100ms")
			}
			dsn, _, err := findDSN(args)
			if err != nil {
				return err
			}
			return watchServer(c.Context(), f, dsn, c.OutOrStdout())
		},
	}
	c.Flags().DurationVar(&f.interval, "interval", 2*time.Second, "time between two pictures")
	c.Flags().BoolVar(&f.once, "once", false, "one picture, and an exit status")
	c.Flags().BoolVar(&f.json, "json", false, "print JSON, one object a line")
	return c
}

// watchLimit bounds one look: a server that hangs is one that does not answer.
const watchLimit = 5 * time.Second

func watchServer(ctx context.Context, f watchFlags, dsn string, out io.Writer) error {
	cfg, err := pgpooled.ParseDSN(dsn)
	if err != nil {
		return usageError(err)
	}
	own := cfg.Clone()
	own.PQ.ApplicationName = "pgpooled_watch"
	db, err := openForCheck(own, nil)
	if err != nil {
		return usageError(err)
	}
	defer db.Close()
	db.SetMaxIdleConns(-1)
	look := func() *situation {
		limited, cancel := context.WithTimeout(ctx, watchLimit)
		defer cancel()
		return lookAround(limited, db)
	}
	if f.once {
		s := look()
		s.printTo(out, f.json)
		switch {
		case ctx.Err() != nil:
			return done(exitInterrupted)
		case s.Error != "":
			return done(exitFailed)
		case len(s.Warnings) > 0:
			return done(exitWarnings)
		}
		return nil
	}
	show := func(s *situation) { s.printTo(out, f.json) }
	if file := terminalOf(out); file != nil && !f.json {
		program := tea.NewProgram(board{server: serverName(cfg)}, tea.WithInput(nil), tea.WithOutput(file), tea.WithoutSignalHandler())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = program.Run()
		}()
		defer func() {
			program.Quit()
			<-ended
		}()
		show = func(s *situation) { program.Send(s) }
	}
	for {
		if s := look(); ctx.Err() == nil {
			show(s)
		}
		if !sleep(ctx, f.interval) {
			return nil
		}
	}
}

func serverName(cfg *pgpooled.Config) string {
	name, _, _ := strings.Cut(cfg.String(), " ")
	return strings.TrimPrefix(name, "host=")
}

// situation is one picture of the server.
type situation struct {
	At             time.Time      `json:"at"`
	Error          string         `json:"error,omitempty"`
	MaxConnections int            `json:"max_connections"`
	Reserved       int            `json:"reserved"`
	Sessions       int            `json:"sessions"`
	Programs       []programUse   `json:"programs"`
	Blocked        []blockedBy    `json:"blocked"`
	Warnings       []string       `json:"warnings"`
	limits         map[string]int // by name, with how much of it is in use below
	used           map[string]int
}

// programUse is what the sessions of one application, role and database do.
type programUse struct {
	Application  string  `json:"application"`
	Role         string  `json:"role"`
	Database     string  `json:"database"`
	Sessions     int     `json:"sessions"`
	Active       int     `json:"active"`
	Idle         int     `json:"idle"`
	InTx         int     `json:"idle_in_transaction"`
	Waiting      int     `json:"waiting_for_locks"`
	LongestQuery float64 `json:"longest_active_seconds"`
	LongestTx    float64 `json:"longest_idle_in_transaction_seconds"`
}

type blockedBy struct {
	PID         int     `json:"pid"`
	Application string  `json:"application"`
	Seconds     float64 `json:"seconds"`
	Wait        string  `json:"wait"`
	By          string  `json:"by"` // pids, the application of each and what it does
}

const (
	askPrograms = `SELECT coalesce(application_name, ''), coalesce(usename::text, ''), coalesce(datname::text, ''), count(*),
	count(*) FILTER (WHERE state = 'active'), count(*) FILTER (WHERE state = 'idle'), count(*) FILTER (WHERE state LIKE 'idle in transaction%'),
	count(*) FILTER (WHERE wait_event_type = 'Lock'),
	coalesce(extract(epoch FROM max(clock_timestamp() - query_start) FILTER (WHERE state = 'active')), 0)::float8,
	coalesce(extract(epoch FROM max(clock_timestamp() - state_change) FILTER (WHERE state LIKE 'idle in transaction%')), 0)::float8
FROM pg_catalog.pg_stat_activity
WHERE (backend_type = 'client backend' OR backend_type IS NULL AND datid IS NOT NULL AND usesysid IS NOT NULL) AND pid <> pg_catalog.pg_backend_pid()
GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3`

	askBlocked = `SELECT w.pid, coalesce(w.application_name, ''), coalesce(extract(epoch FROM clock_timestamp() - w.query_start), 0)::float8,
	coalesce(w.wait_event_type || ' ' || w.wait_event, ''),
	coalesce((SELECT string_agg(b.pid || ' ' || coalesce(nullif(b.application_name, ''), '-') || ' (' || coalesce(b.state, 'unknown') || ')', ', ' ORDER BY b.pid)
		FROM pg_catalog.pg_stat_activity b WHERE b.pid = ANY (pg_catalog.pg_blocking_pids(w.pid))), 'a prepared transaction')
FROM pg_catalog.pg_stat_activity w
WHERE w.wait_event_type = 'Lock' AND pg_catalog.cardinality(pg_catalog.pg_blocking_pids(w.pid)) > 0
ORDER BY 3 DESC, 1`
)

func lookAround(ctx context.Context, db *sql.DB) *situation {
	s := &situation{At: time.Now(), Programs: []programUse{}, Blocked: []blockedBy{}, Warnings: []string{}}
	if err := s.ask(ctx, db); err != nil {
		s.Error = pgpooled.HealthReason(err) + ": " + printable(err.Error())
		return s
	}
	s.warnings()
	return s
}

func (s *situation) ask(ctx context.Context, db *sql.DB) error {
	c, err := pgpooled.CheckCapacity(ctx, db, 1)
	if err != nil {
		return err
	}
	s.MaxConnections, s.Reserved, s.Sessions = c.MaxConnections, c.Reserved, c.Sessions
	s.limits = map[string]int{"max_connections": c.MaxConnections - c.Reserved, "the role's CONNECTION LIMIT": c.RoleLimit, "the database's CONNECTION LIMIT": c.DatabaseLimit}
	s.used = map[string]int{"max_connections": c.Sessions, "the role's CONNECTION LIMIT": c.RoleSessions, "the database's CONNECTION LIMIT": c.DatabaseSessions}
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	return errors.Join(s.askPrograms(ctx, tx), s.askBlocked(ctx, tx))
}

func (s *situation) askPrograms(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, askPrograms)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var p programUse
		if err := rows.Scan(&p.Application, &p.Role, &p.Database, &p.Sessions, &p.Active, &p.Idle, &p.InTx, &p.Waiting, &p.LongestQuery, &p.LongestTx); err != nil {
			return err
		}
		p.Application, p.Role, p.Database = printable(p.Application), printable(p.Role), printable(p.Database)
		s.Programs = append(s.Programs, p)
	}
	return rows.Err()
}

func (s *situation) askBlocked(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, askBlocked)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var b blockedBy
		if err := rows.Scan(&b.PID, &b.Application, &b.Seconds, &b.Wait, &b.By); err != nil {
			return err
		}
		b.Application, b.Wait, b.By = printable(b.Application), printable(b.Wait), printable(b.By)
		s.Blocked = append(s.Blocked, b)
	}
	return rows.Err()
}

const (
	nearLimit = 0.8
	longTx    = 60 // seconds idle in a transaction
)

func (s *situation) warnings() {
	for _, name := range []string{"max_connections", "the role's CONNECTION LIMIT", "the database's CONNECTION LIMIT"} {
		if limit := s.limits[name]; limit >= 0 && float64(s.used[name]) >= nearLimit*float64(limit) {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%d of %d connections that %s allows are in use", s.used[name], limit, name))
		}
	}
	for _, p := range s.Programs {
		if p.LongestTx >= longTx {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%q has been idle in a transaction for %s: it holds its locks and a connection", p.Application, seconds(p.LongestTx)))
		}
	}
	if n := len(s.Blocked); n > 0 {
		s.Warnings = append(s.Warnings, counted(n, "session")+" blocked by others' locks")
	}
}

func seconds(s float64) string { return short(time.Duration(s * float64(time.Second))) }

func (s *situation) printTo(out io.Writer, asJSON bool) {
	if asJSON {
		_ = json.NewEncoder(out).Encode(s) // the reader is gone: nothing to do
		return
	}
	fmt.Fprintln(out, strings.Join(append(s.lines(), ""), "\n"))
}
