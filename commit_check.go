package pgpooled

import (
	"context"
	"crypto/rand"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
)

type commitCheckKey struct{}

// WithCommitCheck turns commit_check on for the transactions that are begun with
// the context: in the way that the DSN names, else by the transaction's id. If
// the answer to such a transaction's COMMIT is lost, Commit asks another session
// what became of it, for at most pool_timeout (10 s where that is 0) and for half
// of cancel_grace after the context's end. It returns nil if it was committed,
// a [ConnLostError] if it was not and never will be, and only if neither can be
// found out an [OutcomeUnknownError], whose Check says why.
func WithCommitCheck(ctx context.Context) context.Context {
	return context.WithValue(ctx, commitCheckKey{}, CommitCheckOn)
}

// WithCommitLedger is [WithCommitCheck] by a token row, which also knows after a
// crash or a failover of the server. See [LedgerSchema].
func WithCommitLedger(ctx context.Context) context.Context {
	return context.WithValue(ctx, commitCheckKey{}, CommitCheckLedger)
}

// commitCheck is what applies to a transaction begun with ctx.
func (i *interceptor) commitCheck(ctx context.Context, opts driver.TxOptions) CommitCheck {
	if i.s.pool == nil || opts.ReadOnly { // nothing to find out
		return CommitCheckOff
	}
	mode := i.s.pool.commitCheck
	if asked, ok := ctx.Value(commitCheckKey{}).(CommitCheck); ok && mode != CommitCheckLedger {
		mode = asked
	}
	return mode
}

// ticket is what one needs to find out what became of a COMMIT without an
// answer.
type ticket struct {
	pool *pool
	at   time.Time // when the COMMIT was sent
	why  error     // why it cannot be found out, nil = it can

	xid      string // the transaction's id
	evidence string // of the server that gave it

	token  string // a row of the ledger, written by the transaction
	ledger ledger // as it was found

	counted atomic.Bool // in the statistics
}

// The commit check shares the caller's transaction, and must not fail it: what
// it runs there is undone if the server refuses it.
const (
	savepoint = "SAVEPOINT pgpooled_commit_check; "
	release   = "; RELEASE SAVEPOINT pgpooled_commit_check"
	undo      = "ROLLBACK TO SAVEPOINT pgpooled_commit_check"
)

const (
	currentXID = "pg_catalog.pg_current_xact_id_if_assigned()::text"
	askXID     = savepoint + "SELECT " + currentXID + release
	// Behind a pooler a session outlives its server: what was read of an earlier
	// one does not tell of this one's ids.
	askXIDThere = savepoint + "SELECT " + currentXID + " || '|' || (" + askEvidence + ")" + release
)

// askEvidence identifies one life of one server. A crash can give the id of a
// lost transaction to somebody else, on the same timeline: only the statistics'
// birthday tells. (PostgreSQL 14 reports 2000-01-01 while it has none.)
const askEvidence = `SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system())
	|| '/' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8)
	|| '/' || extract(epoch FROM pg_catalog.pg_postmaster_start_time())
	|| '/' || (SELECT extract(epoch FROM stats_reset) FROM pg_catalog.pg_stat_wal WHERE stats_reset > '2001-01-01')`

var (
	errNoXID      = errors.New("the transaction has no id: it wrote no rows, which is not to say that it did nothing")
	errNoEvidence = errors.New("the server does not identify itself")
	errNotSQL     = errors.New("the driver below runs no plain text")
)

// prepareCheck finds out, before BEGIN, what the check needs. An error is one of
// the connection; what the server refuses is remembered for the ticket.
func (i *interceptor) prepareCheck(mode CommitCheck) error {
	if mode == CommitCheckLedger {
		return i.prepareLedger()
	}
	s := i.s
	if s.evidence != "" || s.noEvidence != nil {
		return nil
	}
	evidence, err := ask(context.Background(), s.base, askEvidence)
	if err == nil && evidence == "" {
		err = errNoEvidence
	}
	if err != nil {
		if i.connectionFailed(err) {
			return err
		}
		s.noEvidence = err
		s.pool.noteNoCheck(err)
	}
	s.evidence = evidence
	return nil
}

// commit ends a transaction so that its fate can be found out later. It fills in
// c what judge needs.
func (i *interceptor) commit(c *call, t *txn) error {
	c.ticket = &ticket{pool: i.s.pool, at: time.Now()}
	if t.check == CommitCheckLedger {
		return i.commitByLedger(c, t)
	}
	return i.commitByXID(c, t)
}

func (i *interceptor) commitByXID(c *call, t *txn) error {
	tk, s := c.ticket, i.s
	tk.evidence, tk.why = s.evidence, s.noEvidence
	if tk.why != nil {
		return t.Tx.Commit()
	}
	question := askXID
	if i.unnamed {
		question = askXIDThere
	}
	answer, err := ask(context.Background(), s.base, question)
	xid, evidence, there := strings.Cut(answer, "|")
	if there {
		tk.evidence = evidence
	}
	if err != nil {
		tk.why = err
		err = i.undo(err)
	} else if xid == "" {
		tk.why = errNoXID
	}
	tk.xid = xid
	c.before = s.bytesSent() // COMMIT is not among them yet
	if err == nil {
		err = t.ctx.Err()
	}
	if err != nil {
		s.doomed.Store(true) // it may still be inside the transaction
		return err
	}
	return t.Tx.Commit()
}

// undo takes back what the check did in the transaction, which the server has
// answered with refusal. An error is the connection's. A transaction that had
// failed or ended before the check stays as it is.
func (i *interceptor) undo(refusal error) error {
	if i.connectionFailed(refusal) {
		return refusal
	}
	switch sqlState(refusal) {
	case "25P01", "25P02":
		return nil
	}
	if _, err := i.s.run(undo); err != nil {
		return err // COMMIT itself was refused, or the connection failed
	}
	if !lostToOthers(refusal) { // that is the transaction's own
		i.s.pool.noteNoCheck(refusal)
	}
	return nil
}

// run executes a text without arguments on lib/pq's connection, in one round
// trip. lib/pq must not watch a context here: it could cancel a COMMIT.
func (s *session) run(text string) (driver.Result, error) {
	e, ok := s.base.(driver.ExecerContext)
	if !ok {
		return nil, errNotSQL
	}
	return e.ExecContext(context.Background(), text, nil)
}

// ask is run for a text with one row of one column; "" is NULL or no row.
func ask(ctx context.Context, conn driver.Conn, text string) (answer string, err error) {
	q, ok := conn.(driver.QueryerContext)
	if !ok {
		return "", errNotSQL
	}
	rows, err := q.QueryContext(ctx, text, nil)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	return onlyValue(rows)
}

// onlyValue reads rows to their end.
func onlyValue(rows driver.Rows) (answer string, err error) {
	row := make([]driver.Value, len(rows.Columns()))
	for {
		switch err := rows.Next(row); {
		case err == io.EOF: // the contract of driver.Rows
			return answer, nil
		case err != nil:
			return "", err
		}
		switch v := row[0].(type) {
		case string:
			answer = v
		case []byte:
			answer = string(v)
		}
	}
}

func (s *session) bytesSent() int64 {
	if s.wire == nil {
		return 0
	}
	return s.wire.sent.Load()
}

func newToken() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// lostToOthers says whether the server rolled a transaction back, or will, because
// of others: a serialization failure or a deadlock.
func lostToOthers(err error) bool {
	state := sqlState(err)
	return state == "40001" || state == "40P01"
}

// sqlState is the SQLSTATE of a server's answer, "" of anything else.
func sqlState(err error) string {
	var answer *pq.Error
	if errors.As(err, &answer) {
		return string(answer.Code)
	}
	return ""
}
