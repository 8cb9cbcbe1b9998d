package pgpooled

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/lib/pq"
	"github.com/sethvargo/go-retry"
)

// fateBudget is how long the fate of a COMMIT is looked for where pool_timeout
// says nothing.
const fateBudget = 10 * time.Second

var (
	errNoTicket    = errors.New("pgpooled: commit_check was off for this call: nothing but its effects can tell")
	errOtherServer = errors.New("the server crashed, was restarted or replaced since: transaction ids no longer tell")
	errInRecovery  = errors.New("the server is in recovery")
	errInProgress  = errors.New("the transaction is still in progress")
	errForgotten   = errors.New("the server does not know the transaction's id any more")
)

// leaseTx is the transaction as database/sql holds it.
type leaseTx struct {
	driver.Tx
	l   *lease
	ctx context.Context // of BeginTx
}

// Commit ends the transaction; with commit_check it finds out what a missing
// answer would have been.
func (t *leaseTx) Commit() error {
	err := t.Tx.Commit()
	if err == nil {
		return nil
	}
	var unknown *OutcomeUnknownError // here, because it escapes
	if !errors.As(err, &unknown) || unknown.ticket == nil {
		return err
	}
	p := t.l.pool
	grace := t.l.s.intr.grace
	// The lost session would keep the slot that the question needs.
	t.l.lose(unknown.Cause)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), p.fateBudget())
	defer cancel()
	// Half of the grace goes to waiting for the answer, the other is for this.
	defer context.AfterFunc(t.ctx, func() { time.AfterFunc(grace/2, cancel) })()
	committed, ferr := unknown.ticket.findOut(ctx)
	switch {
	case ferr != nil:
		unknown.Check = ferr
		if unknown.Ctx == nil {
			unknown.Ctx = t.ctx.Err()
		}
		p.noteUnknown(t.ctx, unknown)
		return unknown
	case committed:
		return nil
	}
	return &ConnLostError{Op: "commit", InTx: true, Sent: unknown.Sent, Cause: unknown.Cause, Ctx: unknown.Ctx}
}

func (p *pool) fateBudget() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limits.timeout > 0 {
		return p.limits.timeout
	}
	return fateBudget
}

// Resolve asks, perhaps for the second time, what became of the COMMIT that the
// error is about: committed tells, if err is nil. It needs commit_check, at the
// time of the COMMIT, and takes a session of the pool, for as long as ctx allows
// and at most for pool_timeout (10 s where that is 0). Use it where Commit could
// not wait for the answer, as when its context had ended. It may be called from
// any goroutine.
func (e *OutcomeUnknownError) Resolve(ctx context.Context) (committed bool, err error) {
	if e.ticket == nil {
		return false, errNoTicket
	}
	ctx, cancel := context.WithTimeout(ctx, e.ticket.pool.fateBudget())
	defer cancel()
	return e.ticket.findOut(ctx)
}

// findOut asks until there is an answer or the context ends.
func (tk *ticket) findOut(ctx context.Context) (committed bool, err error) {
	if tk.why != nil {
		return false, tk.why
	}
	var last error
	committed, err = retry.DoValue(ctx, exponential(20*time.Millisecond, 500*time.Millisecond, true), func(ctx context.Context) (bool, error) {
		committed, again, err := tk.ask(ctx)
		if err != nil && (last == nil || ctx.Err() == nil) {
			last = err
		}
		if again {
			err = retry.RetryableError(err)
		}
		return committed, err
	})
	if err != nil && last != nil {
		return false, last
	}
	if err == nil && !tk.counted.Swap(true) {
		tk.pool.noteFate(ctx, committed)
	}
	return committed, err
}

// ask takes a session and asks once. again: another time, perhaps of another
// server, there may be an answer.
func (tk *ticket) ask(ctx context.Context) (committed, again bool, err error) {
	if tk.token != "" && time.Since(tk.at.Round(0)) > ledgerKeeps {
		return false, false, errLedgerTooOld
	}
	l, err := tk.pool.newLease(ctx)
	if err != nil {
		return false, false, err
	}
	defer l.Close()
	s, err := l.use(ctx)
	if err != nil {
		return false, false, err
	}
	if tk.token != "" {
		return tk.askLedger(ctx, s)
	}
	return tk.askXID(ctx, s)
}

// askLedger writes the same token, as a fence. If the transaction has written it
// already, it was committed; if it is just doing so, the server waits for it;
// else the fence is there first, and a COMMIT that comes late is refused.
func (tk *ticket) askLedger(ctx context.Context, s *session) (committed, again bool, err error) {
	answer, err := s.askWithin(ctx, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = local; "+
		"INSERT INTO "+tk.ledger.table+" (token, fence) VALUES ('"+tk.token+"', true) ON CONFLICT DO NOTHING; "+
		"SELECT CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = "+pq.QuoteLiteral(tk.ledger.table)+"::regclass AND c.oid = "+tk.ledger.oid+
		" AND "+ledgerFits+") THEN 'other' WHEN fence THEN 'fenced' ELSE 'committed' END "+
		"FROM "+tk.ledger.table+" WHERE token = '"+tk.token+"'; COMMIT")
	if err != nil {
		return false, s.mayAnswerLater(err), err
	}
	switch answer {
	case "":
		return false, false, errForgotten
	case "other":
		tk.pool.forgetLedger(errOtherLedger)
		return false, false, errOtherLedger
	}
	return answer == "committed", false, nil
}

func (tk *ticket) askXID(ctx context.Context, s *session) (committed, again bool, err error) {
	answer, err := s.askWithin(ctx, "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'recovery' ELSE coalesce("+
		"pg_catalog.pg_xact_status('"+tk.xid+"'::xid8), 'forgotten') || '|' || ("+askEvidence+") END")
	if sqlState(err) == "22023" { // the id is of the future: this server has not given it
		return false, false, errOtherServer
	}
	if err != nil {
		return false, s.mayAnswerLater(err), err
	}
	status, evidence, _ := strings.Cut(answer, "|")
	switch {
	case status == "recovery":
		s.doomed.Store(true)
		return false, true, errInRecovery
	case evidence != tk.evidence:
		return false, false, errOtherServer
	case status == "committed":
		return true, false, nil
	case status == "aborted":
		return false, false, nil
	case status == "in progress":
		tk.fence(ctx, s)
		return false, true, errInProgress
	}
	return false, false, errForgotten
}

// fence ends the transaction if it waits for a COMMIT: its client has lost the
// connection. No other transaction on this server has its id.
func (tk *ticket) fence(ctx context.Context, s *session) {
	xid, err := strconv.ParseUint(tk.xid, 10, 64)
	if err != nil {
		return
	}
	_, _ = s.askWithin(ctx, "SELECT pg_catalog.pg_terminate_backend(pid)::text FROM pg_catalog.pg_stat_activity WHERE state LIKE 'idle in transaction%' AND backend_xid = '"+
		strconv.FormatUint(xid&0xffffffff, 10)+"'::xid")
}

// askWithin is ask for a leased session. When the context ends it returns at
// once: the grace was the COMMIT's.
func (s *session) askWithin(ctx context.Context, text string) (string, error) {
	ctx, _, err := s.intr.startWithin(ctx, 0, "commit check", "")
	if err != nil {
		s.doomed.Store(true)
		return "", err
	}
	answer, err := ask(ctx, s.base, text)
	if err != nil && s.intr.connectionFailed(err) {
		s.doomed.Store(true)
		err = &ConnLostError{Op: "commit check", Sent: -1, Cause: explain(s.intr.failure()), Ctx: ctx.Err()}
	}
	s.intr.guard.end()
	return answer, err
}

// mayAnswerLater says whether the question can be put again after err.
func (s *session) mayAnswerLater(err error) bool {
	switch sqlState(err) {
	case "": // the connection's
		return true
	case "25006", "0A000": // in recovery, where READ WRITE is no feature, or no longer to be written to
		s.doomed.Store(true)
		return true
	case "57P01", "57P02", "57P03", "57014", "55P03", "40001", "40P01", "53300":
		return true
	}
	return false
}

// lose gives up the session of a lease that cannot have another one.
func (l *lease) lose(cause error) {
	if l.state.CompareAndSwap(leaseUsed, leaseClosed) {
		l.lost = &ConnLostError{Op: "call", Cause: cause, repeatable: true}
		l.pool.giveUp(l.s, closedBroken)
	}
}

func (p *pool) noteFate(ctx context.Context, committed bool) {
	p.mu.Lock()
	fate := "not committed"
	if committed {
		fate = "committed"
		p.counts.lostCommitted++
	} else {
		p.counts.lostAborted++
	}
	p.logLocked(slog.LevelWarn, "pgpooled: found out about a lost COMMIT", slog.String("fate", fate))
	p.mu.Unlock()
	p.observe(ctx, CallEvent{Kind: CallCommitResolved, Op: "commit", Committed: committed})
}

// noteNoCheck says once per reason why commit_check cannot work. The text of a
// server's answer may quote a token, its SQLSTATE does not.
func (p *pool) noteNoCheck(why error) {
	reason := why.Error()
	if answer, ok := why.(*pq.Error); ok {
		reason = string(answer.Code)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.noCheck[reason] {
		if p.noCheck == nil {
			p.noCheck = make(map[string]bool)
		}
		p.noCheck[reason] = true
		p.logLocked(slog.LevelWarn, "pgpooled: commit_check: the fate of a lost COMMIT would be unknown", slog.String("error", fmt.Sprint(why)))
	}
}
