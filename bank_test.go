package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

const (
	bankCallers  = 20
	bankAccounts = 40
	bankOpening  = 1000 // cents in each account at first
)

// Twenty callers move money while connections are cut at random bytes, backends
// are killed and the server is restarted and killed: no cent is lost, and every
// caller knows whether its transfer was made. PGPOOLED_TEST_LONG=1 makes
// two thousand faults of it.
func TestBankTransfersAreMadeOnceOrNotAtAllAndTheCallerKnows(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if v := os.Getenv("PGPOOLED_TEST_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d (PGPOOLED_TEST_SEED=%d draws the same faults and transfers)", seed, seed)
	b := openBank(t)

	limit := 2 * time.Minute // only a hang comes so far
	if long {
		limit = 20 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	work, stop := context.WithCancel(ctx)
	defer stop()
	var callers, others sync.WaitGroup
	for i := range bankCallers {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		callers.Go(func() {
			for n := 0; work.Err() == nil; n++ {
				b.transfer(ctx, b.pools[i%len(b.pools)], drawTransfer(r, fmt.Sprintf("%d-%d", i, n)))
			}
		})
	}
	others.Go(func() {
		for work.Err() == nil {
			b.audit(ctx)
			pauseFor(work, 20*time.Millisecond)
		}
	})
	for i, p := range b.pools {
		r := rand.New(rand.NewPCG(seed, uint64(100+i)))
		others.Go(func() { b.cut(work, p, r) })
	}
	b.trouble(work, rand.New(rand.NewPCG(seed, 200)))
	stop()
	others.Wait()
	for _, p := range b.pools {
		p.proxy.SetScript(nil)
		p.proxy.Disarm()
		p.proxy.Thaw()
	}
	callers.Wait()
	if ctx.Err() != nil {
		t.Errorf("not within %s: %s", limit, b.faults())
	}
	b.close()
	b.audit(t.Context())
	b.settle()
}

// bankPool is one way to reach the bank, over a network of its own.
type bankPool struct {
	name   string // mode and TLS
	ledger bool
	db     *sql.DB
	proxy  *faultnet.Proxy
	app    string
	cutNow atomic.Int64 // connections cut that the proxy does not count
}

type bank struct {
	t     *testing.T
	s     *pgtest.Server
	pools []*bankPool
	open  *sql.DB // to look at the sums with, over no proxy

	// lives counts the restarts and crashes, when they begin and when they are
	// over: it is odd during one.
	lives  atomic.Int64
	audits atomic.Int64

	mu     sync.Mutex // guards the following
	told   map[string]record
	struck map[string]int // faults, by kind; the proxies count their cuts
}

// record is what the caller of one transfer was told at last.
type record struct {
	transfer
	pool  *bankPool
	what  told
	err   error
	asked bool // Commit could not wait, since the context had ended; Resolve told
}

type told int

const (
	toldDone told = iota
	toldNotDone
	toldUnknown
)

func openBank(t *testing.T) *bank {
	t.Helper()
	b := &bank{t: t, told: make(map[string]record), struck: make(map[string]int)}
	b.s = pgtest.StartT(t, pgtest.Options{TLS: true, Params: map[string]string{"deadlock_timeout": "100ms"}})
	// No key on the transfers: a second run would be a second row. COMMIT takes
	// its time, so that a connection can end while it is under way.
	mustExec(t, b.s.Admin(), fmt.Sprintf(`create table accounts (id int primary key, cents bigint not null);
		create table transfers (id text not null, src int not null, dst int not null, cents bigint not null);
		insert into accounts select n, %d from generate_series(0, %d) n;
		create function slowly() returns trigger language plpgsql as 'begin perform pg_sleep(random() * 0.01); return null; end';
		create constraint trigger slowly after insert on transfers deferrable initially deferred for each row execute function slowly()`, bankOpening, bankAccounts-1))
	for _, mode := range []string{"on", "ledger"} {
		for _, tls := range []string{"disable", "require"} {
			p := &bankPool{name: mode + ", sslmode=" + tls, ledger: mode == "ledger", app: app()}
			var err error
			if p.proxy, err = faultnet.New(b.s.Addr()); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { p.proxy.Close() })
			// Fewer sessions than callers, and time enough to outwait each outage.
			p.db, err = pgpooled.Open(b.s.DSN("host", p.proxy.Host(), "port", fmt.Sprint(p.proxy.Port()), "application_name", p.app,
				"sslmode", tls, "commit_check", mode, "max_open_conns", "4", "pool_timeout", "60s", "retry_max_delay", "100ms"), quiet)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { p.db.Close() })
			b.pools = append(b.pools, p)
		}
	}
	b.open, _ = openOn(t, b.s, "pool_timeout", "60s", "max_open_conns", "1")
	return b
}

// transfer is one movement of money, with an id that the program gave it.
type transfer struct {
	id       string
	src, dst int
	cents    int
	runTx    bool // else BeginTx and Commit
	args     bool // with arguments: prepared statements
	opts     sql.TxOptions
	timeout  time.Duration   // of its context, 0 = none
	cut      *faultnet.Fault // counted from before its first COMMIT
}

func drawTransfer(r *rand.Rand, id string) transfer {
	tr := transfer{id: id, src: r.IntN(bankAccounts), cents: 1 + r.IntN(100), runTx: r.IntN(2) == 0, args: r.IntN(2) == 0}
	tr.dst = (tr.src + 1 + r.IntN(bankAccounts-1)) % bankAccounts
	tr.opts.Isolation = []sql.IsolationLevel{sql.LevelSerializable, sql.LevelReadCommitted}[r.IntN(2)]
	if r.IntN(8) == 0 {
		tr.timeout = time.Duration(1+r.IntN(400)) * time.Millisecond
	}
	if r.IntN(12) == 0 {
		f := drawCut(r, 300)
		if r.IntN(2) == 0 { // where COMMIT follows the question for the id
			f.Dir, f.After = faultnet.ToServer, 130+r.IntN(50)
		}
		tr.cut = &f
	}
	return tr
}

// do is the body of the transaction.
func (tr *transfer) do(ctx context.Context, tx *sql.Tx, p *bankPool) error {
	for _, st := range []struct {
		text string
		args []any
	}{
		{"update accounts set cents = cents - $1 where id = $2", []any{tr.cents, tr.src}},
		{"update accounts set cents = cents + $1 where id = $2", []any{tr.cents, tr.dst}},
		{"insert into transfers values ($1, $2, $3, $4)", []any{tr.id, tr.src, tr.dst, tr.cents}},
	} {
		if !tr.args {
			for i, a := range st.args {
				st.text = strings.Replace(st.text, fmt.Sprintf("$%d", i+1), pq.QuoteLiteral(fmt.Sprint(a)), 1)
			}
			st.args = nil
		}
		if _, err := tx.ExecContext(ctx, st.text, st.args...); err != nil {
			return err
		}
	}
	if tr.cut != nil {
		p.proxy.Arm(tr.cut.Dir, tr.cut.After, tr.cut.Do)
		tr.cut = nil
	}
	return nil
}

func (tr *transfer) run(ctx context.Context, p *bankPool) error {
	if tr.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, tr.timeout)
		defer cancel()
	}
	if tr.runTx {
		return pgpooled.RunTx(ctx, p.db, &tr.opts, func(tx *sql.Tx) error { return tr.do(ctx, tx, p) })
	}
	tx, err := p.db.BeginTx(ctx, &tr.opts)
	if err != nil {
		return err
	}
	if err := tr.do(ctx, tx, p); err != nil {
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

// transfer makes one and notes what its caller was told.
func (b *bank) transfer(ctx context.Context, p *bankPool, tr transfer) {
	life := b.lives.Load()
	err := tr.run(ctx, p)
	rec := record{transfer: tr, pool: p, err: err}
	var unknown *pgpooled.OutcomeUnknownError
	switch {
	case err == nil:
		rec.what = toldDone
	case errors.As(err, &unknown):
		b.resolve(ctx, &rec, unknown, life)
	default:
		rec.what = toldNotDone
		if !saysNotDone(err) {
			b.t.Errorf("%s, %+v: told %T %v, which says nothing", p.name, tr, err, err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told[tr.id] = rec
}

// resolve: there are two reasons to be left in the dark, and only one of them
// may last.
func (b *bank) resolve(ctx context.Context, rec *record, unknown *pgpooled.OutcomeUnknownError, life int64) {
	rec.what = toldUnknown
	if unknown.Op != "commit" || unknown.Check == nil {
		b.t.Errorf("%s, %+v: only a checked COMMIT may be unknown: %v", rec.pool.name, rec.transfer, unknown)
	}
	why := unknown.Check
	if unknown.Ctx != nil {
		rec.asked = true
		var committed bool
		if committed, why = unknown.Resolve(ctx); why == nil {
			rec.what = toldNotDone
			if committed {
				rec.what = toldDone
			}
			return
		}
	}
	changed := life%2 == 1 || b.lives.Load() != life
	if rec.pool.ledger || !changed || !strings.Contains(fmt.Sprint(why), "transaction ids no longer tell") {
		b.t.Errorf("%s, %+v: unknown, because %v (the server's life changed: %v): %v", rec.pool.name, rec.transfer, why, changed, unknown)
	}
}

// saysNotDone: every other error has to be one of these.
func saysNotDone(err error) bool {
	var (
		lost   *pgpooled.ConnLostError
		answer *pq.Error
	)
	return errors.As(err, &lost) || errors.As(err, &answer) || errors.Is(err, pgpooled.ErrPoolTimeout) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, sql.ErrTxDone)
}

// audit looks at one moment of the bank: the sum is what it was, and each
// account is what its transfers made of it.
func (b *bank) audit(ctx context.Context) {
	var sum, wrong int64
	err := pgpooled.RunTx(ctx, b.open, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}, func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, "select sum(cents) from accounts").Scan(&sum); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `with moved as (select src as id, -cents as cents from transfers union all select dst, cents from transfers)
			select count(*) from accounts a left join (select id, sum(cents) as cents from moved group by id) m using (id)
			where a.cents <> $1 + coalesce(m.cents, 0)`, bankOpening).Scan(&wrong)
	})
	if err != nil {
		b.t.Errorf("reading the sum: %T %v", err, err) // RunTx outwaits each fault
		return
	}
	if sum != bankAccounts*bankOpening || wrong != 0 {
		b.t.Errorf("the sum is %d of %d, and %d accounts do not agree with their transfers", sum, bankAccounts*bankOpening, wrong)
	}
	b.audits.Add(1)
}

// settle compares what the callers were told with what is there.
func (b *bank) settle() {
	b.t.Helper()
	rows, err := b.s.Admin().QueryContext(testContext(b.t), "select id, count(*) from transfers group by id")
	if err != nil {
		b.t.Fatal(err)
	}
	defer rows.Close()
	there := make(map[string]int)
	for rows.Next() {
		var id string
		var n int
		if err := rows.Scan(&id, &n); err != nil {
			b.t.Fatal(err)
		}
		there[id] = n
	}
	if err := rows.Err(); err != nil {
		b.t.Fatal(err)
	}
	type figures struct{ done, notDone, unknown, asked int }
	count := make(map[*bankPool]*figures)
	for id, r := range b.told {
		f := count[r.pool]
		if f == nil {
			f = &figures{}
			count[r.pool] = f
		}
		n := there[id]
		switch r.what {
		case toldDone:
			f.done++
		case toldNotDone:
			f.notDone++
		case toldUnknown:
			f.unknown++
		}
		if r.asked {
			f.asked++
		}
		if n > 1 || r.what == toldDone && n != 1 || r.what == toldNotDone && n != 0 {
			b.t.Errorf("%s, %+v: %d rows, told %T %v", r.pool.name, r.transfer, n, r.err, r.err)
		}
		delete(there, id)
	}
	if len(there) > 0 {
		b.t.Errorf("%d transfers that nobody made", len(there))
	}
	for _, p := range b.pools {
		s, f := stats(b.t, p.db), count[p]
		b.t.Logf("%-24s %6d transfers made, %d not, %d unknown; COMMITs lost: %d committed, %d not; %d asked for again after their deadline; %d repeated by RunTx",
			p.name, f.done, f.notDone, f.unknown, s.LostCommitted, s.LostAborted, f.asked, s.TxRepeated)
	}
	b.t.Logf("%d audits; faults: %s", b.audits.Load(), b.faults())
}
