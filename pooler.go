package pgpooled

import (
	"strings"

	"github.com/lib/pq"
)

// poolerRefuses are the errors with which PgBouncer turns a connection away, of
// those that pass, by how they begin. It gives all errors of its own the code of
// a protocol violation, 08P01, so that its text is the only sign. It is believed
// for new connections only, on which nothing was asked yet: mistaking one costs a
// wait of pool_timeout.
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
