package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/pgpooled/pgpooled"
)

// serverFacts are what the server says about itself.
type serverFacts struct {
	Version       string                   `json:"version"`
	VersionNumber int                      `json:"version_number"`
	Replica       bool                     `json:"replica"`
	ReadOnly      bool                     `json:"read_only"` // default_transaction_read_only
	Role          string                   `json:"role"`
	Superuser     bool                     `json:"superuser"`
	Database      string                   `json:"database"`
	Timeouts      map[string]serverTimeout `json:"timeouts"` // those that this session has

	counted error // why nobody knows of its capacity
}

type serverTimeout struct {
	Millis float64 `json:"ms"` // 0 = none, or the system's
	Source string  `json:"source"`
}

func (s *serverFacts) timeout(name string) time.Duration {
	return time.Duration(s.Timeouts[name].Millis * float64(time.Millisecond))
}

// The texts have no arguments: behind a transaction pooler those need
// pgbouncer=true, and finding that out is the point.
const (
	askServer = `SELECT current_setting('server_version'), current_setting('server_version_num')::int, pg_catalog.pg_is_in_recovery(),
	current_setting('default_transaction_read_only')::bool, session_user::text, current_database()::text,
	coalesce((SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user), false)`

	askTimeouts = `SELECT name, setting::bigint * CASE unit WHEN 's' THEN 1000 WHEN 'min' THEN 60000 ELSE 1 END, source
FROM pg_catalog.pg_settings WHERE name IN ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'statement_timeout',
	'lock_timeout', 'transaction_timeout', 'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_user_timeout')`
)

func lookAtServer(ctx context.Context, conn *sql.Conn) (*serverFacts, error) {
	s := &serverFacts{Timeouts: map[string]serverTimeout{}}
	err := conn.QueryRowContext(ctx, askServer).Scan(&s.Version, &s.VersionNumber, &s.Replica, &s.ReadOnly, &s.Role, &s.Database, &s.Superuser)
	if err != nil {
		return nil, err
	}
	s.Version, s.Role, s.Database = printable(s.Version), printable(s.Role), printable(s.Database)
	rows, err := conn.QueryContext(ctx, askTimeouts)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var t serverTimeout
		if err := rows.Scan(&name, &t.Millis, &t.Source); err != nil {
			return nil, err
		}
		s.Timeouts[name] = t
	}
	return s, rows.Err()
}

// capacity is pgpooled.Capacity for --json.
type capacity struct {
	Instances      int            `json:"instances"`
	MaxOpenConns   int            `json:"max_open_conns"`
	MaxConnections int            `json:"max_connections"`
	Reserved       int            `json:"reserved"`
	RoleLimit      int            `json:"role_limit"`     // -1 = none
	DatabaseLimit  int            `json:"database_limit"` // -1 = none
	Sessions       int            `json:"sessions"`
	Users          []capacityUser `json:"users"`
	Room           int            `json:"room"`
	Largest        int            `json:"largest_max_open_conns"`
	Fits           bool           `json:"fits"`
	Summary        string         `json:"summary"`
}

type capacityUser struct {
	Role        string `json:"role"`
	Database    string `json:"database"`
	Application string `json:"application"`
	Sessions    int    `json:"sessions"`
}

func newCapacity(c pgpooled.Capacity) *capacity {
	out := &capacity{c.Instances, c.MaxOpenConns, c.MaxConnections, c.Reserved, c.RoleLimit, c.DatabaseLimit, c.Sessions,
		[]capacityUser{}, c.Room, c.Largest, c.Fits, printable(c.String())}
	for _, u := range c.Users {
		out.Users = append(out.Users, capacityUser{printable(u.Role), printable(u.Database), printable(u.Application), u.Sessions})
	}
	return out
}

// poolerFacts say who stands between this program and the server.
type poolerFacts struct {
	Present string `json:"present"` // yes, no or unknown
	Product string `json:"product,omitempty"`
	Mode    string `json:"mode,omitempty"` // transaction, session, or empty for unknown
	Why     string `json:"why"`
}

const (
	modeTries = 3
	modeLimit = time.Second // a pooler in session mode may let the second client wait
)

// findPooler asks by behaviour. first is a session that is kept meanwhile.
func findPooler(ctx context.Context, first *sql.Conn, present string, cfg *pgpooled.Config) *poolerFacts {
	p := &poolerFacts{Present: present}
	switch present {
	case "no":
		p.Why = "the process that answers is the one at the other end of the connection"
		return p
	case "yes":
		if p.Why = "the process that greeted the connection is not the one that answers"; cfg.PgBouncer {
			p.Why = "the DSN says so, and nothing proves the opposite"
		}
	default:
		p.Why = "addresses and process do not tell: a pooler, or address translation"
	}
	if p.Mode = poolMode(ctx, first, cfg); p.Mode == "transaction" {
		p.Present, p.Why = "yes", "a second client was served by the server process of the first, which was still connected"
	}
	if p.Present == "yes" {
		p.Product = poolerProduct(ctx, cfg)
	}
	if p.Present != "yes" {
		p.Mode = ""
	}
	return p
}

// poolMode looks whether two clients that are connected at the same time share a
// server process. An idle one is handed out last in, first out, so it shows soon;
// a pooler with other work may take another, hence the tries.
func poolMode(ctx context.Context, first *sql.Conn, cfg *pgpooled.Config) string {
	db, err := openForCheck(cfg, nil)
	if err != nil {
		return ""
	}
	defer db.Close()
	limited, cancel := context.WithTimeout(ctx, modeLimit)
	defer cancel()
	second, err := db.Conn(limited)
	if err != nil {
		return ""
	}
	defer second.Close()
	seen := map[string]bool{}
	for range modeTries {
		var a, b string
		if err := first.QueryRowContext(ctx, askPID).Scan(&a); err != nil {
			return ""
		}
		seen[a] = true
		err := second.QueryRowContext(limited, askPID).Scan(&b)
		switch {
		case err == nil && seen[b]:
			return "transaction"
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			return "session" // the first holds the only server connection
		case err != nil:
			return ""
		}
	}
	return "session"
}

const askPID = "SELECT pg_catalog.pg_backend_pid()::text"

// poolerProduct tells PgBouncer and its relatives by their refusal of a startup
// parameter that PostgreSQL accepts, and pgpool by its own SHOW.
func poolerProduct(ctx context.Context, cfg *pgpooled.Config) string {
	c := cfg.Clone()
	if c.PQ.Runtime == nil {
		c.PQ.Runtime = map[string]string{}
	}
	c.PQ.Runtime["pgpooled.check"] = "1"
	if err := askOnce(ctx, c, "SELECT 1"); err != nil && isUnsupportedParameter(err) {
		return "PgBouncer, or one that speaks as it does"
	}
	if askOnce(ctx, cfg, "SHOW pool_version") == nil {
		return "pgpool"
	}
	return ""
}

func askOnce(ctx context.Context, cfg *pgpooled.Config, query string) error {
	db, err := openForCheck(cfg, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	limited, cancel := context.WithTimeout(ctx, modeLimit)
	defer cancel()
	var answer string
	return db.QueryRowContext(limited, query).Scan(&answer)
}
