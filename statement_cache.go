package pgpooled

import (
	"context"
	"database/sql/driver"
	"errors"
	"log/slog"
	"strings"

	"github.com/lib/pq"
)

// stmtCache keeps a session's prepared statements, so that a text with arguments
// takes one round trip instead of two, and one without them need not be parsed
// and planned each time. A text gets in when the session has seen it often
// enough: one that never repeats costs nothing. Once the cache is full, when it
// is seen much more often than the one that has to go. It belongs to its
// session's interceptor and is used by one goroutine at a time.
type stmtCache struct {
	limit  int
	direct proof
	wanted bool // a text came for the second time: the proof is worth its round trip

	byText         map[string]*cachedStmt
	newest, oldest *cachedStmt
	spent          []*cachedStmt // out of date, not closed yet
	sights         sights
	epoch          uint64 // grows with everything in the session that may change plans
	unsettled      change // what the end of a transaction may take back
	begun          bool   // a text of this lease may have begun a transaction
	told           [16]told
}

// cachedStmt is one prepared statement; lib/pq has given it a name.
type cachedStmt struct {
	text         string
	st           cachedDriverStmt
	epoch        uint64
	pins         int  // db.Prepare has it, so often
	changes      bool // running it may change plans
	rowless      bool // it returns none itself, but a rule may: see returnsRows
	uses         int  // lately, as sights has it
	newer, older *cachedStmt
}

type cachedDriverStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// told is what changeBy has said of a text.
type told struct {
	text string
	by   change
}

// changeBy remembers what it said of a few texts, those that were the last of
// their length: a program has its texts again and again.
func (k *stmtCache) changeBy(query string) change {
	if len(query) > maxCachedText {
		return changeBy(query)
	}
	t := &k.told[len(query)%len(k.told)]
	if t.text != query {
		*t = told{query, changeBy(query)}
	}
	return t.by
}

// proof says whether the session's statements are its own: behind a transaction
// pooler statement 1 may be somebody else's.
type proof int

const (
	unproven proof = iota
	isDirect
	notDirect
)

// maxCachedText is the longest text that is kept, in bytes.
const maxCachedText = 64 << 10

func newStmtCache(capacity int) *stmtCache {
	c := &stmtCache{limit: capacity, direct: isDirect}
	if capacity < 0 {
		c.limit, c.direct = defaultStmtCache, unproven
	}
	if c.limit == 0 {
		return nil
	}
	c.byText = make(map[string]*cachedStmt)
	c.sights = newSights(8 * c.limit)
	return c
}

const defaultStmtCache = 256

// cachedStmt returns the prepared statement for a text, or nil: then the text
// goes the plain way. An error is that of preparing; c then says that nothing but
// that was sent.
func (i *interceptor) cachedStmt(ctx context.Context, c *call, query string, w worth) (*cachedStmt, error) {
	k := i.cache
	if k == nil || k.direct == notDirect || i.s.replayOf != nil || i.s.pool == nil || i.s.pool.noStatements.Load() {
		return nil, nil
	}
	if w == noArgs && (i.tx != nil || k.begun || len(query) > maxCachedText) {
		return nil, nil // what is out of date costs a transaction
	}
	epoch := i.planEpoch()
	e := k.byText[query]
	asked := w == noArgs && c.op == "query" // for rows
	if e != nil && (w == noArgs && e.st.NumInput() != 0 || asked && e.rowless) {
		return nil, nil // the server shall say what is missing, or send what a rule adds
	}
	if e != nil && e.epoch != epoch {
		if e.pins > 0 {
			return nil, nil // whoever has prepared it keeps it as it is
		}
		k.drop(e, true)
		e = nil
	}
	if k.sights.tick() {
		k.age()
	}
	if e != nil {
		e.uses++
		k.touch(e)
		return e, nil
	}
	seen := k.sights.note(query)
	switch {
	case w == byPrepare:
		seen = max(seen, onceAndAgain)
	case seen < 2, w == noArgs && seen < k.noArgsSights():
		return nil, nil
	}
	if len(query) > maxCachedText || !cacheable(query) {
		return nil, nil
	}
	rowless := !returnsRows(query)
	if w == noArgs && (!single(query) || k.changeBy(query) != changesNothing) || asked && rowless {
		return nil, nil // what changes plans would be out of date each time
	}
	if k.wanted = true; k.direct == unproven {
		return nil, nil // proven before the next call that can take it
	}
	op := c.op
	c.op = "prepare"
	room, err := i.makeRoom(seen)
	if err != nil {
		return nil, err
	}
	if !room {
		c.op = op
		return nil, nil
	}
	st, err := i.s.base.(driver.ConnPrepareContext).PrepareContext(ctx, query)
	if sqlState(err) == "42P05" {
		// The name is taken, and not by this session: there is a pooler.
		i.s.pool.stopStatements(err)
		if i.tx == nil {
			c.op, err = op, nil
		}
	}
	if w == noArgs && strings.HasPrefix(sqlState(err), "42") {
		// As it is it has run, maybe, so that is what decides.
		k.sights.forget(query)
		c.op, c.before, err = op, i.s.bytesSent(), nil
	}
	if err != nil {
		return nil, err
	}
	if st == nil {
		return nil, nil
	}
	c.op = op
	e = &cachedStmt{text: query, st: st.(cachedDriverStmt), epoch: epoch, changes: changeBy(query) != changesNothing, rowless: rowless, uses: seen}
	k.byText[query] = e
	k.touch(e)
	c.before = i.s.bytesSent() // the statement itself is not among it
	return e, nil
}

// touch makes e the newest.
func (k *stmtCache) touch(e *cachedStmt) {
	if k.newest == e {
		return
	}
	k.unlink(e)
	e.older, k.newest = k.newest, e
	if e.older != nil {
		e.older.newer = e
	} else {
		k.oldest = e
	}
}

func (k *stmtCache) unlink(e *cachedStmt) {
	if e.newer != nil {
		e.newer.older = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	}
	if k.oldest == e {
		k.oldest = e.newer
	}
	if k.newest == e {
		k.newest = e.older
	}
	e.newer, e.older = nil, nil
}

// drop takes e out. exists: the server still has it.
func (k *stmtCache) drop(e *cachedStmt, exists bool) {
	if k.byText[e.text] != e {
		return
	}
	delete(k.byText, e.text)
	k.sights.forget(e.text)
	k.unlink(e)
	if exists {
		k.spent = append(k.spent, e)
	}
}

// makeRoom closes a statement if there is no room for one more that was seen so
// often, one that is out of date first. room is false if all shall stay.
func (i *interceptor) makeRoom(seen int) (room bool, err error) {
	k := i.cache
	if len(k.byText)+len(k.spent) < k.limit {
		return true, nil
	}
	for n, e := range k.spent {
		if e.pins == 0 {
			k.spent = append(k.spent[:n], k.spent[n+1:]...)
			return true, e.st.Close()
		}
	}
	e := k.oldest
	for e != nil && e.pins > 0 {
		e = e.newer
	}
	if e == nil || e.epoch == i.planEpoch() && !displaces(seen, e.uses) {
		return false, nil
	}
	k.drop(e, false)
	return true, e.st.Close()
}

// outdated says whether err means that the prepared statement no longer fits the
// database, and that the text itself may run, once, the plain way: the server
// has refused before it did anything.
func (i *interceptor) outdated(e *cachedStmt, err error) bool {
	if e.changes {
		i.planChanged(changesSession)
	}
	if err == nil {
		return false
	}
	var answer *pq.Error // here, because it escapes
	if !errors.As(err, &answer) || answer.InternalQuery != "" {
		return false
	}
	switch {
	case answer.Code.Class() == "22" && strings.HasPrefix(answer.Where, argumentOf):
		// The column may have got another type since; a wrong argument fails again.
		i.cache.drop(e, true)
	case answer.Where != "":
		return false
	case answer.Code == "26000" && answer.Routine == "FetchPreparedStatement":
		if e.epoch == i.planEpoch() {
			// Nobody here has deallocated it: there is a pooler.
			i.s.pool.stopStatements(answer)
		}
		i.cache.drop(e, false)
	case answer.Code == "0A000" && answer.Routine == "RevalidateCachedQuery",
		answer.Code.Class() == "42" && answer.Position != "": // read again, since a table has changed
		i.cache.drop(e, true)
		i.s.pool.planEpoch.Add(1)
	default:
		return false
	}
	return i.tx == nil // else the transaction has failed
}

// argumentOf begins the context of an argument that the server cannot take, by
// its type of when the statement was prepared. Nothing has run yet.
const argumentOf = "unnamed portal parameter $"

// ExecContext runs the statement, or its text if the statement is out of date.
func (e *cachedStmt) ExecContext(ctx context.Context, i *interceptor, args []driver.NamedValue) (driver.Result, error) {
	res, err := e.st.ExecContext(ctx, args)
	if i.outdated(e, err) {
		if again, aerr := i.s.base.(driver.ExecerContext).ExecContext(ctx, e.text, args); sqlState(aerr) != "25P02" {
			return again, aerr
		}
	}
	return res, err
}

// QueryContext is ExecContext for rows.
func (e *cachedStmt) QueryContext(ctx context.Context, i *interceptor, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := e.st.QueryContext(ctx, args)
	if i.outdated(e, err) {
		if again, aerr := i.s.base.(driver.QueryerContext).QueryContext(ctx, e.text, args); sqlState(aerr) != "25P02" {
			return again, aerr
		}
	}
	return rows, err
}

// stopStatements turns the caches of the pool off.
func (p *pool) stopStatements(answer error) {
	if p.noStatements.Swap(true) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.logLocked(slog.LevelWarn, "pgpooled: a prepared statement was gone, or not ours: the statement cache is off from now on; "+
		"behind a pooler in transaction mode set pgbouncer=true", slog.String("error", answer.Error()))
}

// planEpoch is the age of a statement that fits now.
func (i *interceptor) planEpoch() uint64 { return i.cache.epoch + i.s.pool.planEpoch.Load() }

// noteChange makes the cache forget what a statement of the session may have
// changed the meaning of, or taken back a change of.
func (i *interceptor) noteChange(query string) {
	k := i.cache
	if k == nil {
		return
	}
	k.begun = k.begun || mayBeginTx(query)
	if by := k.changeBy(query); by != changesNothing {
		i.planChanged(by)
	} else if k.unsettled != changesNothing && endWords[firstWord(query)] {
		i.planChanged(k.unsettled) // also back to a savepoint
		if mayEndTx(query) {
			k.unsettled = changesNothing
		}
	}
}

// planChanged makes the cache forget. The end of the transaction may take the
// change back, or show it to others.
func (i *interceptor) planChanged(by change) {
	k := i.cache
	k.epoch++
	k.unsettled = max(k.unsettled, by)
	if by == changesTables && i.s.pool != nil {
		i.s.pool.planEpoch.Add(1)
	}
}

// settle is for the end of a transaction.
func (i *interceptor) settle() {
	if k := i.cache; k != nil && k.unsettled != changesNothing {
		i.planChanged(k.unsettled)
		k.unsettled = changesNothing
	}
}
