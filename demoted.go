package pgpooled

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/lib/pq"
)

// A server that refuses writes (25006) may have been demoted under a session
// that lives on: PostgreSQL ends its sessions when it becomes a standby, but a
// pooler in between keeps those of its clients; and an operator or a provider
// who sets default_transaction_read_only before a switchover changes running
// sessions. target_session_attrs is checked when a session is opened and by what
// the server reports then, so nobody would notice for as long as the session
// lives.
//
// So a pool that asked for read-write or primary asks the server itself, on the
// session that was refused, once it is idle again. Its answer decides, not the
// error: an application's own READ ONLY transaction gets the same one.

// What is asked, for each target_session_attrs that a demoted server does not
// have. read-write means more than primary, as it does in libpq: the server must
// not be read-only by its configuration either. What a session has set itself is
// its own affair.
const (
	askStandby  = "SELECT pg_catalog.pg_is_in_recovery()::text"
	askReadOnly = "SELECT (pg_catalog.pg_is_in_recovery() OR EXISTS (SELECT FROM pg_catalog.pg_settings " +
		"WHERE name = 'default_transaction_read_only' AND setting = 'on' AND source <> 'session'))::text"
)

// questionFor is what tells whether a server does not have these attributes any
// more, empty where a demotion does not matter.
func questionFor(attrs pq.TargetSessionAttrs) string {
	switch attrs {
	case pq.TargetSessionAttrsPrimary:
		return askStandby
	case pq.TargetSessionAttrsReadWrite:
		return askReadOnly
	}
	return ""
}

// noteRefusal remembers that the server refused to write in a call. A
// transaction that BeginTx made READ ONLY says nothing of the server. lib/pq
// begins the others with BEGIN READ WRITE, which a standby answers with 0A000.
func (i *interceptor) noteRefusal(c call, answer *pq.Error) {
	switch {
	case i.s.question == "", i.tx != nil && i.tx.readOnly:
	case answer.Code == "25006", answer.Code == "0A000" && c.op == "begin":
		i.s.refused = true
	}
}

// isDemoted asks the server of an idle session, within pingLimit and the grace
// that a call has beyond its context's end: a session is asked as it comes back,
// before the call returns. One that does not answer is doomed.
func (s *session) isDemoted(ctx context.Context) bool {
	s.refused = false
	if s.wire == nil {
		return false
	}
	stop := context.AfterFunc(ctx, s.wire.cut)
	err := s.wire.SetDeadline(time.Now().Add(min(pingLimit, s.intr.grace)))
	yes := false
	if err == nil {
		yes, err = s.poses()
	}
	if !stop() || err != nil && !isAnswer(err) {
		s.doomed.Store(true)
		return yes
	}
	if err := s.wire.SetDeadline(time.Time{}); err != nil {
		s.doomed.Store(true)
	}
	return yes
}

// isAnswer says whether an error is one that the server has answered with and
// went on.
func isAnswer(err error) bool {
	var answer *pq.Error
	return errors.As(err, &answer) && !errors.Is(err, driver.ErrBadConn)
}

// poses puts the session's question to the server, below the interceptor.
func (s *session) poses() (bool, error) {
	answer, err := ask(context.Background(), s.base, s.question)
	return answer == "true", err
}

// demoted lets go of the sessions of the server that s is connected to, which
// are all that the pool has: they were opened before anybody knew. A session of
// an earlier epoch only repeats what is known.
func (p *pool) demoted(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.epoch != p.epoch || p.closed {
		return
	}
	p.counts.demotions++
	p.logLocked(slog.LevelWarn, "pgpooled: the server refuses to write and is not a primary any more; its sessions are let go as they come back")
	p.refreshLocked(closedDemoted)
}

// runElsewhere runs the first call of a lease again whose server refused it
// because it was demoted: once, on a session that was opened since. The call is
// a BEGIN or a plain write, so that it was refused before anything was done. If
// the server was not demoted its answer stands.
func runElsewhere[T any](ctx context.Context, l *lease, refused error, run func(sessionConn) (T, error)) (T, error) {
	var zero T
	var answer *pq.Error
	s := l.s
	if errors.As(refused, &answer) && answer.Where != "" { // a function was at work
		return zero, refused
	}
	if !s.intr.repeats() || ctx.Err() != nil || !s.isDemoted(ctx) {
		return zero, refused
	}
	l.pool.demoted(s)
	l.pool.giveUp(s, closedDemoted)
	if _, err := l.replace(ctx); err != nil {
		return zero, fmt.Errorf("%w; no other connection to run it on: %w", refused, err)
	}
	l.pool.noteRerun(ctx, refused)
	return run(l.s.conn)
}

// isPlainWrite says whether a text is one INSERT, UPDATE, DELETE or MERGE. A
// standby refuses those when they begin. A function, CALL or DO may have done
// something elsewhere before it came to the write that was refused; so may a
// WITH; and of several statements the first ones may have committed.
func isPlainWrite(query string) bool {
	lx := lexer{src: query}
	switch lx.next().text {
	case "insert", "update", "delete", "merge":
	default:
		return false
	}
	for {
		switch lx.next().kind {
		case tokenDoubt:
			return false
		case tokenEnd:
			return lx.depth == 0
		case tokenSemicolon:
			return lx.depth == 0 && lx.next().kind == tokenEnd
		}
	}
}

// errPosing is what the question says of a session that lib/pq took for what
// target_session_attrs asks for. Its text is lib/pq's (wrongServer).
var errPosing = errors.New("server is in hot standby mode")

// verify asks a new session whether its server is what it claims to be. lib/pq
// believes the parameters that are reported at connect, and a pooler reports
// those that its server had once: PgBouncer announces a demoted server as a
// primary. Who does not know the question has passed lib/pq's check.
func (s *session) verify() error {
	if s.question == "" || s.wire == nil {
		return nil
	}
	posing, err := s.poses()
	switch {
	case posing:
		return errPosing
	case err != nil && !isAnswer(err):
		return err
	}
	return nil
}

// attempt goes on to the other hosts when one turns out to be posing, or does not
// answer once it has let us in, as a pooler whose server is gone.
func (o *opener) attempt(ctx context.Context) (*session, error) {
	posing := make(map[string]error)
	for {
		s, err := o.attemptExcept(ctx, posing)
		if s == nil || s.unproven == nil || ctx.Err() != nil {
			return s, err // after the last host nothing is unproven: all are left out
		}
		posing[s.dials.reached()] = s.unproven
		if s.unproven == errPosing {
			s.close()
		} else {
			s.abort() // nobody says goodbye there, and the others need the time
		}
	}
}
