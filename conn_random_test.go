package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// 6 callers do what comes to their minds on connections of their own, pinned by
// db.Conn, while the network breaks. Nobody is told something wrong: of a row, of
// a value, of what was set on the session before.
func TestPinnedConnectionsTellTheTruthOnABrokenNetwork(t *testing.T) {
	t.Parallel()
	turns := 40
	if long {
		turns *= 25
	}
	for _, tls := range []string{"disable", "require"} {
		t.Run(tls, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			table := looseTable(t)
			db, proxy := through(t, server, "sslmode", tls, "max_open_conns", "4", "cancel_grace", "200ms", "pool_timeout", "50s", "connect_timeout", "2s", "socket_timeout", "1s")
			var (
				wg    sync.WaitGroup
				calls atomic.Int64
				ids   atomic.Int64
				book  = fates{told: map[int]error{}}
			)
			over := make(chan struct{})
			for caller := range 6 {
				wg.Go(func() {
					p := owner{t: t, random: rand.New(rand.NewPCG(seed, uint64(caller))), table: table, calls: &calls, ids: &ids, book: &book}
					for range turns {
						p.turn(db)
					}
				})
			}
			go func() { wg.Wait(); close(over) }()
			breakAll(proxy, rand.New(rand.NewPCG(seed, 99)), &calls, over)
			eventually(t, "the pool is well again", func() bool { return db.Ping() == nil && stats(t, db).InUse == 0 })
			if s := stats(t, db); s.Opens != int64(s.InUse+s.Idle)+closedSessions(s) {
				t.Errorf("%+v", s)
			}
			must(t, db.Close())
			if not := checkFates(t, server.Admin(), table, book.told); not == 0 || not == len(book.told) {
				t.Errorf("%d of %d not done: nothing to tell", not, len(book.told))
			}
		})
	}
}

// breakAll breaks connections every few calls, until over.
func breakAll(proxy *faultnet.Proxy, random *rand.Rand, calls *atomic.Int64, over <-chan struct{}) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	defer proxy.Thaw()
	defer func() { _ = proxy.Refuse(false) }()
	defer proxy.Disarm()
	cuts := []faultnet.Action{faultnet.CutClient, faultnet.CutServer, faultnet.CutBoth, faultnet.ResetClient, faultnet.ResetServer, faultnet.ResetBoth}
	next, until := int64(0), time.Time{}
	for {
		select {
		case <-over:
			return
		case <-tick.C:
		}
		if n := calls.Load(); n < next && time.Now().Before(until) {
			continue
		}
		_ = proxy.Refuse(false)
		proxy.Thaw()
		next, until = calls.Load()+int64(random.IntN(60)), time.Now().Add(300*time.Millisecond)
		switch dir := []faultnet.Direction{faultnet.ToServer, faultnet.ToClient}[random.IntN(2)]; random.IntN(6) {
		case 0:
			proxy.Cut(cuts[random.IntN(len(cuts))])
		case 1:
			_ = proxy.Refuse(true)
			proxy.CutAll(random.IntN(2) == 0)
			until = time.Now().Add(50 * time.Millisecond)
		case 2:
			proxy.Freeze()
			until = time.Now().Add(30 * time.Millisecond)
		default:
			proxy.Arm(dir, random.IntN(400), cuts[random.IntN(len(cuts))])
		}
	}
}

// owner is a caller with a connection of its own.
type owner struct {
	t          *testing.T
	random     *rand.Rand
	table      string
	calls, ids *atomic.Int64
	book       *fates

	conn *sql.Conn
	set  string // what was set on the session, empty = nothing
}

func (p *owner) turn(db *sql.DB) {
	ctx := context.Background()
	conn, err := db.Conn(ctx)
	if err != nil {
		p.t.Errorf("no connection: %v", err)
		return
	}
	defer conn.Close()
	p.conn, p.set = conn, ""
	for range p.random.IntN(10) {
		ctx, cancel := ctx, func() {}
		if p.random.IntN(8) == 0 {
			ctx, cancel = context.WithTimeout(ctx, time.Duration(p.random.IntN(3000))*time.Microsecond)
		}
		p.calls.Add(1)
		switch p.random.IntN(9) {
		case 0, 1:
			p.read(ctx, conn)
		case 2:
			id := p.id()
			p.book.tell(p.fine(p.write(ctx, conn, id)), id)
		case 3:
			p.transaction(ctx)
		case 4:
			p.byText(ctx)
		case 5:
			p.rows(ctx)
		case 6:
			p.remember(ctx)
		case 7:
			p.prepared(ctx)
		case 8:
			p.fine(conn.PingContext(ctx))
		}
		cancel()
	}
}

func (p *owner) id() int { return int(p.ids.Add(1)) }

// fine is an error that explains itself.
func (p *owner) fine(err error) error {
	if err == driver.ErrBadConn { //nolint:errorlint // naked
		p.t.Errorf("a naked %v", err)
	}
	return err
}

type querier interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}

func (p *owner) read(ctx context.Context, q querier) {
	want, got := p.id(), 0
	text, args := "select $1::int", []any{want}
	if p.random.IntN(2) == 0 {
		text, args = fmt.Sprint("select ", want), nil
	}
	if err := p.fine(q.QueryRowContext(ctx, text, args...).Scan(&got)); err == nil && got != want {
		p.t.Errorf("read %d, want %d", got, want)
	}
}

func (p *owner) write(ctx context.Context, q querier, id int) error {
	switch p.random.IntN(3) {
	case 0:
		_, err := q.ExecContext(ctx, fmt.Sprintf("insert into %s values (%d)", p.table, id))
		return err
	case 1:
		_, err := q.ExecContext(ctx, "insert into "+p.table+" values ($1)", id)
		return err
	}
	_, err := q.ExecContext(ctx, "insert into "+p.table+" select $1 where $2", id, true)
	return err
}

// remember sets something on the session, or looks whether it is still there.
func (p *owner) remember(ctx context.Context) {
	if p.set == "" {
		want := fmt.Sprint(p.id())
		if _, err := p.conn.ExecContext(ctx, "select set_config('my.own', $1, false)", want); p.fine(err) == nil {
			p.set = want
		}
		return
	}
	var got sql.NullString
	if err := p.conn.QueryRowContext(ctx, "select current_setting('my.own', true)").Scan(&got); p.fine(err) == nil && got.String != p.set {
		p.t.Errorf("the session has forgotten %s: %v", p.set, got)
	}
}

func (p *owner) transaction(ctx context.Context) {
	tx, err := p.conn.BeginTx(ctx, nil)
	if p.fine(err) != nil {
		return
	}
	var ids []int
	for range p.random.IntN(4) {
		id := p.id()
		ids = append(ids, id)
		if err = p.fine(p.write(ctx, tx, id)); err != nil {
			break
		}
		p.read(ctx, tx)
	}
	if err != nil || p.random.IntN(4) == 0 {
		_ = p.fine(tx.Rollback())
		p.book.tell(errRolledBack, ids...)
		return
	}
	p.book.tell(p.fine(tx.Commit()), ids...)
}

// byText is a transaction of texts. Once a call of it has failed, nothing of it may
// be done, and what follows on the connection is no part of it.
func (p *owner) byText(ctx context.Context) {
	if _, err := p.conn.ExecContext(ctx, "begin"); p.fine(err) != nil {
		return
	}
	id := p.id()
	err := p.fine(p.write(ctx, p.conn, id))
	end := "commit"
	if err != nil || p.random.IntN(4) == 0 {
		end = "rollback"
	}
	_, ended := p.conn.ExecContext(context.Background(), end)
	p.fine(ended)
	switch {
	case err != nil:
		p.book.tell(err, id)
	case end == "rollback":
		p.book.tell(errRolledBack, id)
	default:
		p.book.tell(ended, id)
	}
}

func (p *owner) rows(ctx context.Context) {
	n := p.random.IntN(2000)
	rows, err := p.conn.QueryContext(ctx, "select generate_series(1, $1)", n)
	if p.fine(err) != nil {
		return
	}
	defer rows.Close()
	stop, seen := p.random.IntN(2*n+1), 0
	for seen < stop && rows.Next() {
		seen++
		var got int
		switch err := rows.Scan(&got); {
		case err != nil && ctx.Err() == nil:
			p.t.Errorf("row %d: %v", seen, err)
		case err != nil:
			return
		case got != seen:
			p.t.Errorf("row %d is %d", seen, got)
		}
	}
	if seen < stop && p.fine(rows.Err()) == nil && seen != n {
		p.t.Errorf("%d rows of %d, and no error", seen, n)
	}
	if seen < stop || seen == 0 {
		return
	}
	id := p.id() // beside the open rows
	p.book.tell(p.fine(p.write(ctx, p.conn, id)), id)
}

func (p *owner) prepared(ctx context.Context) {
	st, err := p.conn.PrepareContext(ctx, "insert into "+p.table+" values ($1) returning id")
	if p.fine(err) != nil {
		return
	}
	defer st.Close()
	for range p.random.IntN(4) {
		id, got := p.id(), 0
		err := p.fine(st.QueryRowContext(ctx, id).Scan(&got))
		if err == nil && got != id {
			p.t.Errorf("inserted %d, returned %d", id, got)
		}
		if ctx.Err() != nil { // database/sql may tell the context's error of an answer that has come
			return
		}
		p.book.tell(err, id)
	}
}

var errRolledBack = errors.New("rolled back")

// fates is what callers were told of their rows.
type fates struct {
	mu   sync.Mutex // guards told
	told map[int]error
}

func (f *fates) tell(err error, ids ...int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		f.told[id] = err
	}
}

// closedSessions adds up why sessions were closed.
func closedSessions(s pgpooled.Stats) (n int64) {
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if strings.HasPrefix(v.Type().Field(i).Name, "Closed") {
			n += v.Field(i).Int()
		}
	}
	return n
}
