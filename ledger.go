package pgpooled

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// LedgerSchema is the table that commit_check=ledger writes to. It is created at
// first use if the role may do that; else put it into a migration, in a schema
// that search_path finds, and grant SELECT, INSERT and DELETE on it. Rows of
// transactions that are known to be committed are deleted again, 100 at a time;
// what short-lived and crashed programs leave behind, after a day. Nobody else may
// delete from it: a row that is gone says that its transaction was not committed.
// It has to stay an ordinary table with this primary key: one that is unlogged,
// temporary or partitioned is not used.
const LedgerSchema = `CREATE TABLE IF NOT EXISTS pgpooled_ledger (
	token uuid PRIMARY KEY,
	fence boolean NOT NULL DEFAULT false,
	written timestamptz NOT NULL DEFAULT clock_timestamp()
)`

const (
	ledgerBatch  = 100         // tokens of a session that are deleted together
	ledgerAgain  = time.Minute // before a ledger that could not be used is looked for again
	ledgerSweep  = time.Hour   // between two deletions of what others left behind
	ledgerKeeps  = time.Hour   // how long a token is good for; rows live for a day, by the server's clock
	ledgerLookup = `SELECT CASE WHEN ` + ledgerFits + ` THEN c.oid || ' ' || format('%I.%I', n.nspname, c.relname) ELSE 'unfit' END
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('pgpooled_ledger')`
)

// ledgerFits is what makes the table c a witness: a crash does not empty it, all
// sessions see the same one, and a token that is there keeps the same one out.
const ledgerFits = `(c.relkind = 'r' AND c.relpersistence = 'p' AND EXISTS (SELECT FROM pg_catalog.pg_index x
	JOIN pg_catalog.pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0] AND a.attname = 'token'
	WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid AND x.indimmediate AND x.indnkeyatts = 1 AND x.indpred IS NULL))`

var (
	errOtherLedger  = errors.New("the ledger was changed, or dropped and made again since: its rows do not tell")
	errLedgerHidden = errors.New("it was made, and search_path does not find it")
	errLedgerUnfit  = errors.New("the table pgpooled_ledger is of no use, see LedgerSchema: it has to be an ordinary table, " +
		"neither partitioned nor unlogged nor temporary, with a primary key of token alone")
)

var errLedgerTooOld = fmt.Errorf("the ledger can be asked for %s after the COMMIT only", ledgerKeeps)

// ledger is what a pool knows of the table of tokens; guarded by pool.mu.
type ledger struct {
	table  string    // its quoted name, "" = it cannot be used
	oid    string    // tells it from one that is made again under the name
	why    error     // why not
	looked time.Time // when it was looked for
	swept  time.Time // when rows of others were deleted
}

func (p *pool) ledgerNow() ledger {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ledger
}

// forgetLedger makes the next transaction look for the table again.
func (p *pool) forgetLedger(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ledger = ledger{why: why, swept: p.ledger.swept}
}

// prepareLedger finds the table, or makes it, once per pool, and deletes tokens
// that nobody will ask for. It runs before BEGIN: inside the transaction reading
// the table would make serializable transactions conflict with each other.
func (i *interceptor) prepareLedger() error {
	s := i.s
	l := s.pool.ledgerNow()
	if l.table == "" && time.Since(l.looked) >= ledgerAgain {
		ctx := context.Background()
		found, err := ask(ctx, s.base, ledgerLookup)
		l.why = err
		if err == nil && found == "" {
			if _, l.why = s.run("BEGIN READ WRITE; " + LedgerSchema + "; COMMIT"); l.why != nil && !i.connectionFailed(l.why) {
				_, err = s.run("ROLLBACK")
			}
			if err != nil {
				return err
			}
			found, err = ask(ctx, s.base, ledgerLookup)
			switch {
			case err == nil && found != "":
				l.why = nil // perhaps another session was faster
			case l.why == nil && err == nil:
				l.why = errLedgerHidden
			case l.why == nil:
				l.why = err
			}
		}
		if l.oid, l.table, _ = strings.Cut(found, " "); l.oid == "unfit" {
			l.why = errLedgerUnfit
		}
		if l.why != nil && i.connectionFailed(l.why) {
			return l.why
		}
		if l.table == "" {
			if l.why != errLedgerUnfit {
				l.why = fmt.Errorf("the table pgpooled_ledger cannot be made, see LedgerSchema: %w", l.why)
			}
			s.pool.noteNoCheck(l.why)
		}
		s.pool.mu.Lock()
		s.pool.ledger.table, s.pool.ledger.oid, s.pool.ledger.why, s.pool.ledger.looked = l.table, l.oid, l.why, time.Now()
		s.pool.mu.Unlock()
	}
	// Programs that end before a session has that many would never sweep: one
	// transaction in that many does it for them.
	sweep := time.Since(l.swept) >= ledgerSweep && rand.IntN(ledgerBatch) == 0
	if l.table == "" || len(s.tokens) < ledgerBatch && !sweep {
		return nil
	}
	return i.prune(l)
}

// prune deletes the tokens of transactions that are known to be committed, and
// now and then what crashed programs left behind.
func (i *interceptor) prune(l ledger) error {
	s := i.s
	where := "token = ANY ('{" + strings.Join(s.tokens, ",") + "}')"
	s.tokens = s.tokens[:0]
	if time.Since(l.swept) >= ledgerSweep {
		where += " OR written < clock_timestamp() - interval '1 day'"
		s.pool.mu.Lock()
		s.pool.ledger.swept = time.Now()
		s.pool.mu.Unlock()
	}
	_, err := s.run("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = off; DELETE FROM " + l.table + " WHERE " + where + "; COMMIT")
	if err != nil && !i.connectionFailed(err) {
		s.pool.noteNoCheck(fmt.Errorf("old rows of %s stay: %w", l.table, err))
		_, err = s.run("ROLLBACK")
	}
	return err
}

// commitByLedger writes the token and commits in one message: either the server
// has all of it, or the token that askLedger writes comes first and forbids it.
func (i *interceptor) commitByLedger(c *call, t *txn) error {
	tk, s := c.ticket, i.s
	l := s.pool.ledgerNow()
	if l.table == "" {
		tk.why = l.why
		return t.Tx.Commit()
	}
	tk.ledger, tk.token = l, newToken()
	_, err := s.run(savepoint + "INSERT INTO " + l.table + " (token, fence) VALUES ('" + tk.token + "', false)" + release + "; COMMIT")
	if err == nil {
		s.tokens = append(s.tokens, tk.token)
		return nil
	}
	if i.connectionFailed(err) {
		return err
	}
	// Nothing is committed: the token was refused, or COMMIT itself was.
	c.before = s.bytesSent()
	tk.why = err
	if lostToOthers(err) {
		// The transaction itself lost against others. Without its token COMMIT
		// would be refused too, or worse, its answer lost.
		if _, rerr := s.run("ROLLBACK"); rerr != nil {
			s.doomed.Store(true)
		}
		return err
	}
	switch undone := i.undo(err); {
	case undone == nil:
		if sqlState(err) == "42P01" { // it was dropped: look again
			s.pool.forgetLedger(err)
		}
		c.before = s.bytesSent()
		return t.Tx.Commit()
	case i.connectionFailed(undone):
		c.before = s.bytesSent()
		return undone
	}
	return err // COMMIT was refused: there is no transaction to undo anything in
}
