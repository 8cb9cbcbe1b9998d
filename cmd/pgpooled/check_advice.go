package main

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

// advice is one thing that is, or may be, wrong.
type advice struct {
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

func (r *checkResult) warn(text, remedy string) {
	r.Warnings = append(r.Warnings, advice{text, remedy})
}
func (r *checkResult) note(text, remedy string) { r.Notes = append(r.Notes, advice{text, remedy}) }

const (
	oldestServer = 140000
	certDays     = 21
	almostFull   = 0.9
)

// advise holds the DSN against what was found and writes the one to use.
func (r *checkResult) advise(f checkFlags, cfg *pgpooled.Config) {
	use := cfg.Clone()
	for _, notice := range cfg.Notices() {
		r.warn("The DSN: "+notice, "")
	}
	r.adviseTLS(cfg)
	if r.Server != nil {
		r.adviseServer(cfg)
		r.advisePooler(use)
		r.adviseCapacity(f, use)
		r.adviseTimeouts(use)
	}
	r.Use = shownDSN(cfg, use)
	if r.DSNSource == "argument" && r.given("password") {
		r.note("Arguments can be seen by other users of this machine, the password among them.", "Use DATABASE_URL, PGPASSWORD or ~/.pgpass.")
	}
}

func (r *checkResult) given(key string) bool {
	for _, s := range r.Settings {
		if s.Key == key {
			return s.Source == string(pgpooled.OriginDSN)
		}
	}
	return false
}

func (r *checkResult) adviseTLS(cfg *pgpooled.Config) {
	remote := !local(cfg)
	switch {
	case r.TLS == nil && remote:
		r.warn("The connection is not encrypted: password and data can be read on the way.", "Add sslmode=verify-full and sslrootcert=system, or the file of the CA that signed the server's certificate.")
	case r.TLS == nil:
	case r.TLS.Error != "":
		r.note("The certificate could not be looked at: "+r.TLS.Error, "")
	default:
		if r.TLS.Verified == "nothing" && remote {
			r.note("The server's certificate is not verified: anybody in between can pose as the server.", "Use sslmode=verify-full, with sslrootcert=system or the CA's file.")
		}
		switch left := r.TLS.DaysLeft; {
		case r.TLS.Expired:
			r.warn("The server's certificate ran out "+counted(-left, "day")+" ago.", "Renew it: clients that verify it refuse the server.")
		case left < certDays:
			r.warn("The server's certificate runs out in "+counted(left, "day")+".", "Renew it.")
		}
	}
}

// local: nobody can listen on the way.
func local(cfg *pgpooled.Config) bool {
	for _, h := range append([]pq.ConfigMultihost{{Host: cfg.PQ.Host, Hostaddr: cfg.PQ.Hostaddr}}, cfg.PQ.Multi...) {
		ip := net.ParseIP(h.Host)
		if h.Hostaddr.IsValid() {
			ip = net.IP(h.Hostaddr.AsSlice())
		}
		socket := filepath.IsAbs(h.Host) || strings.HasPrefix(h.Host, "@")
		if !socket && h.Host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}

func (r *checkResult) adviseServer(cfg *pgpooled.Config) {
	s := r.Server
	if s.VersionNumber < oldestServer {
		r.warn("PostgreSQL "+s.Version+" is older than 14, the oldest that pgpooled is tested with.", "Upgrade the server.")
	}
	wants := cfg.PQ.TargetSessionAttrs
	standby := wants == pq.TargetSessionAttrsStandby || wants == pq.TargetSessionAttrsPreferStandby || wants == pq.TargetSessionAttrsReadOnly
	switch {
	case s.Replica && !standby:
		r.warn("This is a replica: writes fail here with 25006.", "Give the primary's host, or all hosts and target_session_attrs=read-write; for a pool that only reads, target_session_attrs=prefer-standby.")
	case !s.Replica && s.ReadOnly && !standby:
		r.warn("default_transaction_read_only is on: writes fail with 25006.", "Ask who set it, for the server, the database or the role, and why.")
	case len(cfg.PQ.Multi) > 0 && (wants == "" || wants == pq.TargetSessionAttrsAny):
		r.warn("There are several hosts and any of them is taken: after a failover writes may come to a replica.", "Add target_session_attrs=read-write.")
	}
	if s.Superuser {
		r.note("The role is a superuser: no CONNECTION LIMIT binds it, and it takes the connections that are reserved for emergencies.", "Give the program a role of its own.")
	}
}

func (r *checkResult) advisePooler(use *pgpooled.Config) {
	p := r.Pooler
	switch {
	case p.Mode == "transaction" && !use.PgBouncer:
		r.warn("There is a pooler in transaction mode, and the DSN does not say so: programs can get each other's answers, since a call with arguments is two messages.", "Add pgbouncer=true.")
		use.PgBouncer, use.StatementCacheCapacity = true, -1
	case p.Present == "yes" && p.Mode == "" && !use.PgBouncer:
		r.note("There is a pooler, in an unknown mode.", "If it pools transactions, add pgbouncer=true.")
	case p.Present == "no" && use.PgBouncer:
		r.note("pgbouncer=true is set, but the server is reached directly: statements are not kept prepared, which costs a round trip for each call with arguments.", "Leave pgbouncer out.")
	}
}

func (r *checkResult) adviseCapacity(f checkFlags, use *pgpooled.Config) {
	if r.Capacity == nil {
		if r.Server.counted != nil {
			r.note("The server's limits could not be asked for: "+printable(r.Server.counted.Error()), "")
		}
		return
	}
	c := r.Capacity
	switch {
	case r.Pooler.Present == "yes":
		r.note("Capacity: "+c.Summary+".", "")
	case !c.Fits:
		r.warn("Capacity: "+c.Summary+".", "")
		if c.Largest > 0 {
			setMaxOpen(use, c.Largest)
		}
	case f.instances == 1:
		r.note("Capacity: "+c.Summary+".", "--instances N does the sum for N processes; count those that run side by side during a deployment.")
	default:
		r.note("Capacity: "+c.Summary+".", "")
	}
	if usable := c.MaxConnections - c.Reserved; r.Pooler.Present != "yes" && float64(c.Sessions) >= almostFull*float64(usable) {
		r.warn(fmt.Sprintf("The server is almost full: %d of %d connections are in use.", c.Sessions, usable), "See above who has them.")
	}
}

func setMaxOpen(use *pgpooled.Config, n int) {
	use.MaxOpenConns = n
	use.MinIdleConns = min(use.MinIdleConns, n)
	if use.MaxIdleConns > n {
		use.MaxIdleConns = n
	}
}

// adviseTimeouts compares the server's patience with ours: what it ends without
// being asked, a program meets as a dead connection.
func (r *checkResult) adviseTimeouts(use *pgpooled.Config) {
	s := r.Server
	if idle := s.timeout("idle_session_timeout"); idle > 0 && (use.ConnMaxIdleTime == 0 || use.ConnMaxIdleTime >= idle) {
		shorter := idle * 8 / 10
		if shorter > 10*time.Second {
			shorter = shorter.Truncate(time.Second)
		}
		shorter = max(shorter, time.Millisecond)
		r.warn(fmt.Sprintf("The server ends sessions idle for %s (idle_session_timeout); conn_max_idle_time is %s.", brief(idle), orNone(use.ConnMaxIdleTime)),
			"Set conn_max_idle_time="+brief(shorter)+", so that the pool closes them first.")
		use.ConnMaxIdleTime = shorter
	}
	if idle := s.timeout("idle_in_transaction_session_timeout"); idle > 0 && (use.LeakDetectionThreshold == 0 || use.LeakDetectionThreshold >= idle) {
		r.note(fmt.Sprintf("The server ends transactions idle for %s (idle_in_transaction_session_timeout): their calls then fail with a lost connection.", brief(idle)),
			"leak_detection_threshold below that logs who holds them.")
	}
	statement := s.timeout("statement_timeout")
	switch {
	case statement > 0 && use.SocketTimeout > 0 && use.SocketTimeout <= statement:
		r.warn(fmt.Sprintf("socket_timeout (%s) gives up before statement_timeout (%s) does: a write then ends with an unknown outcome instead of a clear error.", brief(use.SocketTimeout), brief(statement)),
			"Set socket_timeout above statement_timeout.")
	case statement == 0 && use.SocketTimeout == 0:
		r.note("Nothing ends a statement of a call without a deadline: statement_timeout and socket_timeout are off.", "Give calls a context with a deadline, or set statement_timeout for the role.")
	}
	if keep := s.timeout("tcp_keepalives_idle"); keep >= time.Hour && s.timeout("tcp_user_timeout") == 0 {
		r.note(fmt.Sprintf("The server looks after a silent client only after %s (tcp_keepalives_idle): sessions of a machine that vanished keep their connections so long.", brief(keep)),
			"Set tcp_keepalives_idle=60 on the server.")
	}
}

func orNone(d time.Duration) string {
	if d == 0 {
		return "without limit"
	}
	return brief(d)
}

// shownDSN is the DSN to use, its password as xxxxx, or the settings to change if
// it has others that must not be shown.
func shownDSN(cfg, use *pgpooled.Config) string {
	before := map[string]string{}
	hidden := false
	for _, s := range cfg.Settings() {
		before[s.Key] = s.Value + s.Meaning
		switch {
		case s.Key == "password":
			if s.Origin == pgpooled.OriginDSN {
				use.PQ.Password = "xxxxx"
			}
		case s.Hidden && s.Origin != pgpooled.OriginDefault && s.Origin != pgpooled.OriginEnvironment:
			hidden = true
		}
	}
	if !hidden {
		return use.FormatDSN()
	}
	var changes []string
	for _, s := range use.Settings() {
		if s.Value+s.Meaning != before[s.Key] && !s.Hidden {
			changes = append(changes, s.Key+"="+s.Value)
		}
	}
	if len(changes) == 0 {
		return "the DSN as it is; it has settings that are not shown here"
	}
	return "the DSN with " + strings.Join(changes, " and ") + "; it has settings that are not shown here"
}

func isUnsupportedParameter(err error) bool {
	var answer *pq.Error
	return errors.As(err, &answer) && strings.Contains(answer.Message, "unsupported startup parameter")
}
