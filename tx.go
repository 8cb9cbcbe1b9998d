package pgpooled

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"time"

	"github.com/lib/pq"
)

// runTxAttempts bounds RunTx where retry_max_attempts does not.
const runTxAttempts = 50

// RunTx runs f in a transaction and commits it. If the transaction was rolled
// back for a reason that can pass (a serialization failure, 40001; a deadlock,
// 40P01; a table that changed under a kept statement, 0A000 of the server's
// RevalidateCachedQuery; a connection that was lost), it runs f again in a new one, as often as
// retry_max_attempts says (50 times where that is 0), with growing pauses
// (retry_base_delay, retry_max_delay, full jitter), until ctx ends.
//
// If the answer to COMMIT is lost, RunTx finds out what became of the
// transaction, as with [WithCommitCheck], or by the ledger if the DSN or ctx says
// so, and repeats only what was not committed. What cannot be found out is an
// [OutcomeUnknownError] and is not repeated, unless opts say ReadOnly: then f must
// not NOTIFY, nor make the transaction writable.
//
// f may run several times: what it does outside the database is the caller's
// business, and so is every variable that it changes. It must use the
// transaction that it is given, and must not end it. An error of f rolls back and
// is returned as it is; that of the last of several attempts is wrapped in an
// [AttemptsError]. If f panics, the transaction is rolled back and the panic goes
// on. RunTx may be called from any goroutine.
func RunTx(ctx context.Context, db *sql.DB, opts *sql.TxOptions, f func(*sql.Tx) error) error {
	if _, chosen := ctx.Value(commitCheckKey{}).(CommitCheck); !chosen {
		ctx = WithCommitCheck(ctx)
	}
	policy := retryPolicy{baseDelay: 50 * time.Millisecond, maxDelay: time.Second}
	var p *pool
	if c, ok := ConnectorOf(db); ok {
		p, policy = c.pool, c.pool.limits.retry // never changes
	}
	if policy.maxAttempts == 0 {
		policy.maxAttempts = runTxAttempts
	}
	pauses := policy.backoff()
	for attempt := 1; ; attempt++ {
		err, ending := runOnce(ctx, db, opts, f)
		again := rolledBack(err) || ending && opts != nil && opts.ReadOnly && isLostCommit(err)
		if err == nil || ctx.Err() != nil || !again || policy.maxAttempts == 1 {
			return err
		}
		if attempt == policy.maxAttempts {
			return &AttemptsError{Attempts: attempt, Err: err}
		}
		pause, _ := pauses.Next()
		if p != nil {
			p.noteTxAgain(ctx, err, pause)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(err, ctx.Err())
		}
	}
}

// runOnce says by ending whether the error is Commit's.
func runOnce(ctx context.Context, db *sql.DB, opts *sql.TxOptions, f func(*sql.Tx) error) (err error, ending bool) {
	tx, err := db.BeginTx(ctx, opts)
	if err != nil {
		return err, false
	}
	finished := false
	defer func() { // also when f panics
		if !finished {
			_ = tx.Rollback()
		}
	}()
	if err := f(tx); err != nil {
		return err, false
	}
	finished = true
	return tx.Commit(), true
}

// rolledBack says whether err means that nothing of the transaction was done, for
// a reason that can pass.
func rolledBack(err error) bool {
	var (
		unknown *OutcomeUnknownError
		lost    *ConnLostError
		answer  *pq.Error
	)
	switch {
	case errors.As(err, &unknown):
		return false
	case errors.As(err, &lost):
		return lost.Ctx == nil
	case errors.As(err, &answer):
		// The last: a table was changed under a prepared statement, by somebody else.
		return lostToOthers(err) || answer.Code == "0A000" && answer.Routine == "RevalidateCachedQuery"
	}
	return false
}

func isLostCommit(err error) bool {
	var unknown *OutcomeUnknownError
	return errors.As(err, &unknown)
}

// noteTxAgain counts a repetition. Conflicts are part of a serializable
// program's day: they are logged at Debug.
func (p *pool) noteTxAgain(ctx context.Context, err error, pause time.Duration) {
	level, cause := slog.LevelDebug, err
	var lost *ConnLostError
	if errors.As(err, &lost) {
		// Without the program's own words around it, which may have its users' data.
		level, cause = slog.LevelWarn, lost
	}
	p.mu.Lock()
	p.counts.txAgain++
	p.logLocked(level, "pgpooled: running a transaction again", slog.Duration("pause", pause), slog.String("error", cause.Error()))
	p.mu.Unlock()
	p.observe(ctx, CallEvent{Kind: CallTxAgain, Waited: pause, Err: err})
}
