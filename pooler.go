package pgpooled

import (
	"errors"
	"strings"

	"github.com/lib/pq"
)

// poolerRefuses are the errors with which PgBouncer turns a connection away, of
// those that pass, by how they begin. It gives all errors of its own the code of
// a protocol violation, 08P01, so that its text is the only sign. On a new
// connection nothing was asked yet: mistaking one costs a wait of pool_timeout.
var poolerRefuses = map[string]poolerState{
	"no more connections allowed":   poolerFull, // max_client_conn
	"client connections exceeded":   poolerFull, // max_db_client_connections, max_user_client_connections
	"server login has been failing": poolerHasNoServer,
	"pgbouncer cannot connect":      poolerHasNoServer, // up to 1.17
	"client_login_timeout":          poolerHasNoServer,
	"query_wait_timeout":            poolerHasNoServer,
	"server conn crashed":           poolerHasNoServer,
	"server shutting down":          poolerShutsDown,
	"pooler is shutting down":       poolerShutsDown,
	"suspend_timeout":               poolerShutsDown,
	"bouncer resources exhaustion":  poolerFull,
}

type poolerState int

const (
	poolerSaysNo      poolerState = iota // for good, or it is not a pooler's answer
	poolerFull                           // it has no room for one more client
	poolerHasNoServer                    // it does not reach the server
	poolerShutsDown
)

// refusedByPooler says what an answer to a connection attempt means if it is
// PgBouncer's.
func refusedByPooler(e *pq.Error) poolerState {
	if e.Code != "08P01" {
		return poolerSaysNo
	}
	for text, state := range poolerRefuses {
		if strings.HasPrefix(e.Message, text) {
			return state
		}
	}
	return poolerSaysNo
}

// poolerNeverSent are the errors with which PgBouncer drops a client for which it
// has no server connection, by how they begin: nothing of what the client sent
// last has left PgBouncer (its check_fast_fail and pool_client_maint end clients
// without a server only). A client that has one is told "server conn crashed?".
var poolerNeverSent = []string{"query_wait_timeout", "server login has been failing", "pgbouncer cannot connect"}

// neverSent says whether a pooler dropped the connection before it sent what it
// was asked for to the server.
func neverSent(cause error) bool {
	var f *farewell
	if !errors.As(cause, &f) || !f.alone || f.severity != "FATAL" || f.code != "08P01" {
		return false
	}
	for _, text := range poolerNeverSent {
		if strings.HasPrefix(f.message, text) {
			return true
		}
	}
	return false
}
