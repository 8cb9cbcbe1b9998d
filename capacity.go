package pgpooled

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Capacity compares what a fleet of instances may open with what the server can
// take, as [CheckCapacity] found it. All counts are of client sessions at that
// moment.
type Capacity struct {
	Instances    int // processes with a pool of this limit
	MaxOpenConns int // the limit of one pool, 0 = none

	Role, Database string // as whom, and where, this pool's sessions are
	MaxConnections int    // the server's limit
	Reserved       int    // of it kept for others: superuser_reserved_connections, reserved_connections, and RDS's own
	RoleLimit      int    // CONNECTION LIMIT of the role, -1 = none, or a superuser, whom it does not bind
	DatabaseLimit  int    // CONNECTION LIMIT of the database, the same

	Sessions         int             // in use on the server
	RoleSessions     int             // of them with this role
	DatabaseSessions int             // of them in this database
	OwnSessions      int             // of them with this role in this database: taken to be the fleet's
	Users            []CapacityUsage // who has them, those with most first

	// Pooler says whether a pooler stands between this program and the server:
	// "yes", "no", or "unknown" (for instance TLS through address translation,
	// or a wrapper that hides the connection).
	Pooler string

	Room    int  // sessions that the fleet can have beside what others use now, never negative
	Largest int  // the largest max_open_conns with which all instances fit, 0 = none does
	Fits    bool // Instances × MaxOpenConns is no more than Room, and no pooler is known to have limits of its own
}

// CapacityUsage is how many sessions a program has.
type CapacityUsage struct {
	Role, Database string
	Application    string // application_name, as the program gives it
	Sessions       int
}

// A role that may not see the backend_type of others cannot tell their parallel
// workers and the like from sessions, but it may know which are WAL senders, which
// max_connections does not count.
const (
	askLimits = `SELECT session_user::text, pg_catalog.current_database()::text, pg_catalog.pg_backend_pid(), (` + askPeers + `), pg_catalog.current_setting('port'),
	pg_catalog.current_setting('max_connections')::int, pg_catalog.current_setting('superuser_reserved_connections')::int
		+ coalesce(nullif(pg_catalog.current_setting('reserved_connections', true), '')::int, 0)
		+ coalesce(nullif(pg_catalog.current_setting('rds.rds_superuser_reserved_connections', true), '')::int, 0),
	CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END, CASE WHEN r.rolsuper THEN -1 ELSE d.datconnlimit END
FROM pg_catalog.pg_roles r, pg_catalog.pg_database d
WHERE r.rolname = session_user AND d.datname = pg_catalog.current_database()`

	askUsers = `SELECT coalesce(usename::text, ''), coalesce(datname::text, ''), coalesce(application_name, ''), count(*)
FROM pg_catalog.pg_stat_activity
WHERE backend_type = 'client backend' OR backend_type IS NULL AND datid IS NOT NULL AND usesysid IS NOT NULL
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_replication r WHERE r.pid = pg_stat_activity.pid)
GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3`
)

// CheckCapacity asks the server whether instances processes, each with a pool as
// large as db's, fit into its limits:
//
//	instances × max_open_conns <= max_connections - reserved - what others use now
//
// and the same for the CONNECTION LIMIT of the role and of the database. Others
// are all sessions of another role or in another database; those of this role in
// this database count as the fleet's own. Give the largest number of instances
// that may run at a time: a rolling deployment has some twice.
//
// The limit of one pool is max_open_conns, or db.SetMaxOpenConns if that is
// smaller. Any role may ask; it takes one session of the pool and a READ ONLY
// transaction of two queries. To a role without pg_read_all_stats the parallel
// and background workers of other roles look like sessions: there is less room
// then, never more, for as long as those run.
// With several hosts the answer is about the server that gave it. Behind a pooler
// nobody can say from here whether the fleet fits: the pooler's limits count
// towards the programs, and the server's towards the pooler.
//
// An error is that of getting the session or of a query; a server that is
// already full answers with 53300 and the pool with a [PoolTimeoutError].
func CheckCapacity(ctx context.Context, db *sql.DB, instances int) (Capacity, error) {
	if instances < 1 {
		return Capacity{}, fmt.Errorf("pgpooled: CheckCapacity for %d instances: there must be at least one", instances)
	}
	c := Capacity{Instances: instances, MaxOpenConns: poolLimit(db)}
	conn, err := db.Conn(ctx)
	if err != nil {
		return Capacity{}, err
	}
	defer conn.Close()
	tx, err := conn.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}) // one server answers both
	if err != nil {
		return Capacity{}, err
	}
	defer tx.Rollback()
	var pid, peers, port string
	err = tx.QueryRowContext(ctx, askLimits).Scan(&c.Role, &c.Database, &pid, &peers, &port,
		&c.MaxConnections, &c.Reserved, &c.RoleLimit, &c.DatabaseLimit)
	if err != nil {
		return Capacity{}, err
	}
	err = conn.Raw(func(driverConn any) error { c.Pooler = poolerBefore(driverConn, pid, peers, port); return nil })
	if err != nil {
		return Capacity{}, err
	}
	if connector, ok := ConnectorOf(db); ok && connector.cfg.PgBouncer && c.Pooler == "unknown" {
		c.Pooler = "yes"
	}
	if err := c.count(ctx, tx); err != nil {
		return Capacity{}, err
	}
	c.compare()
	return c, nil
}

// poolLimit is the smaller of the pool's limit and that of the sql.DB above.
func poolLimit(db *sql.DB) int {
	above := db.Stats().MaxOpenConnections
	s, ok := StatsOf(db)
	switch {
	case !ok || s.MaxOpenConns == 0:
		return above
	case above == 0:
		return s.MaxOpenConns
	}
	return min(above, s.MaxOpenConns)
}

// poolerBefore says whether the process that greeted a connection is the one
// that runs its statements. pgpool passes its server's number on: the ports must
// agree too, and between two Unix sockets the one in the socket's name.
func poolerBefore(driverConn any, pid, peers, port string) string {
	l, ok := driverConn.(*lease)
	if !ok || l.s == nil || l.s.wire == nil {
		return "unknown"
	}
	w := l.s.wire
	socket, ok := w.RemoteAddr().(*net.UnixAddr)
	servers := ok && strings.HasSuffix(socket.Name, ".s.PGSQL."+port)
	switch {
	case w.named && pid != strconv.Itoa(int(w.greeter)):
		return "yes"
	case samePeers(peers, w.LocalAddr(), w.RemoteAddr()), w.named && servers && peers == "":
		return "no"
	}
	return "unknown"
}

// count adds up who has how many sessions.
func (c *Capacity) count(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, askUsers)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var u CapacityUsage
		if err := rows.Scan(&u.Role, &u.Database, &u.Application, &u.Sessions); err != nil {
			return err
		}
		c.Users = append(c.Users, u)
		c.Sessions += u.Sessions
		if u.Role == c.Role {
			c.RoleSessions += u.Sessions
		}
		if u.Database == c.Database {
			c.DatabaseSessions += u.Sessions
		}
		if u.Role == c.Role && u.Database == c.Database {
			c.OwnSessions += u.Sessions
		}
	}
	return rows.Err()
}

// bound is one limit and what of it is not for the fleet.
type bound struct {
	room  int
	how   string // the arithmetic
	raise string // what could be raised
}

// tightest is the limit that leaves the fleet the least room.
func (c Capacity) tightest() bound {
	others := c.Sessions - c.OwnSessions
	b := bound{c.MaxConnections - c.Reserved - others,
		fmt.Sprintf("max_connections %d - %d reserved - %d in use by others", c.MaxConnections, c.Reserved, others), "max_connections"}
	elsewhere := c.RoleSessions - c.OwnSessions
	if room := c.RoleLimit - elsewhere; c.RoleLimit >= 0 && room < b.room {
		b = bound{room, fmt.Sprintf("CONNECTION LIMIT %d of role %q - %d of its sessions in other databases", c.RoleLimit, c.Role, elsewhere),
			"the role's CONNECTION LIMIT"}
	}
	strangers := c.DatabaseSessions - c.OwnSessions
	if room := c.DatabaseLimit - strangers; c.DatabaseLimit >= 0 && room < b.room {
		b = bound{room, fmt.Sprintf("CONNECTION LIMIT %d of database %q - %d sessions of other roles", c.DatabaseLimit, c.Database, strangers),
			"the database's CONNECTION LIMIT"}
	}
	b.room = max(b.room, 0)
	return b
}

func (c *Capacity) compare() {
	c.Room = c.tightest().room
	c.Largest = c.Room / c.Instances
	c.Fits = c.MaxOpenConns > 0 && c.MaxOpenConns <= c.Largest && c.Pooler != "yes"
}

// String says in one sentence whether the fleet fits, and the remedy if it does
// not. It names the role and the database.
func (c Capacity) String() string {
	b := c.tightest()
	fleet := fmt.Sprintf("%d × max_open_conns %d = %d sessions", c.Instances, c.MaxOpenConns, c.Instances*c.MaxOpenConns)
	if c.MaxOpenConns == 0 {
		fleet = fmt.Sprintf("%d × max_open_conns 0 (no limit)", c.Instances)
	}
	room := fmt.Sprintf("there is room for %d (%s)", b.room, b.how)
	if c.Pooler == "yes" {
		return fmt.Sprintf("cannot say whether %s fit: there is a pooler, whose limits cannot be asked for from here; "+
			"keep the sum below what it takes from clients (PgBouncer: max_client_conn), and its own connections to the server below %d (%s)", fleet, b.room, b.how)
	}
	unsure := ""
	if c.Pooler == "unknown" {
		unsure = "; if a pooler stands between, its limits count as well"
	}
	switch {
	case c.Fits:
		return fmt.Sprintf("%s fit: %s, at most max_open_conns=%d%s", fleet, room, c.Largest, unsure)
	case c.Largest == 0:
		return fmt.Sprintf("%s do not fit: %s, less than one for each instance: raise %s, run fewer instances or put a pooler before the server%s", fleet, room, b.raise, unsure)
	}
	return fmt.Sprintf("%s do not fit: %s: set max_open_conns=%d, or raise %s%s", fleet, room, c.Largest, b.raise, unsure)
}
