// Package cutmatrix breaks the connection under every kind of call, at every
// byte, and compares what the caller was told with what the server did. It
// takes any database/sql driver, so that pgpooled's tests and the comparison
// with other drivers run the same code.
//
// Every write has a number of its own and no unique key, and the server's rows
// are counted only when its last session of the cell is gone: a statement that
// runs late, or twice, is seen.
package cutmatrix

import (
	"context"
	"database/sql"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

const (
	// hangLimit is how long a call on a cut connection may take.
	hangLimit = 20 * time.Second

	// slack is how many bytes the measured length of an exchange may lack: the
	// proxy counts them just after the driver can have them.
	slack = 1000
)

// Claim is what an error says of the statement's effect.
type Claim uint8

// The claims.
const (
	Silent  Claim = iota // it does not say
	NotDone              // it says that there is no effect
	Unknown              // it says that there may be one
)

// Driver is a driver under test.
type Driver struct {
	Name string

	// Open opens a database with at most limit connections. kv are settings that
	// every PostgreSQL driver knows, in pairs.
	Open func(s *pgtest.Server, limit int, kv ...string) (*sql.DB, error)

	// Says reads an error.
	Says func(error) Claim

	// Typed says whether an error tells that rows are missing because the
	// connection was lost.
	Typed func(error) bool

	// NoCopy: the driver has no COPY below database/sql.
	NoCopy bool
}

// Cell is one kind of call, cut in one way at one byte after the other.
type Cell struct {
	Kind   Kind
	TLS    bool
	Dir    faultnet.Direction
	Action faultnet.Action

	// First is the first byte, Step the distance between two.
	First, Step int
}

func (c Cell) String() string {
	tls, action := "plain", "FIN"
	if c.TLS {
		tls = "TLS"
	}
	if c.Action == faultnet.ResetClient {
		action = "RST"
	}
	return fmt.Sprintf("%s/%s/%s/%v", tls, c.Kind.Name, action, c.Dir)
}

// Result counts what happened in a cell.
type Result struct {
	Calls, Cuts int

	// Writes.
	Done       int // nil, and done once
	Unknown    int // the error says that it is unknown
	Failed     int // another error, and not done
	FailedDone int // another error that does not say, and done once
	Twice      int // done more than once, whatever the caller was told
	TwiceNil   int // of those, told that all is well
	FalseNil   int // nil, and not done
	Lied       int // the error says that it was not done, and it was

	// Reads.
	Read     int // all rows and nil
	NoRows   int // an error before the first row
	Partial  int // some rows, then an error that says so
	Untyped  int // some rows, then an error that does not
	Short    int // too few or wrong rows, and nil
	ReadInTx int // an error before the first row, of a read inside a transaction

	Hung int // did not return
	Dead int // the pool was of no use afterwards

	Faults []string // the first few that should not be, in words
}

// Add sums two results.
func (r *Result) Add(o Result) {
	for _, f := range []struct{ to, from *int }{
		{&r.Calls, &o.Calls}, {&r.Cuts, &o.Cuts}, {&r.Done, &o.Done}, {&r.Unknown, &o.Unknown}, {&r.Failed, &o.Failed},
		{&r.FailedDone, &o.FailedDone}, {&r.Twice, &o.Twice}, {&r.TwiceNil, &o.TwiceNil}, {&r.FalseNil, &o.FalseNil}, {&r.Lied, &o.Lied},
		{&r.Read, &o.Read}, {&r.NoRows, &o.NoRows}, {&r.Partial, &o.Partial}, {&r.Untyped, &o.Untyped}, {&r.Short, &o.Short},
		{&r.ReadInTx, &o.ReadInTx}, {&r.Hung, &o.Hung}, {&r.Dead, &o.Dead},
	} {
		*f.to += *f.from
	}
	r.Faults = append(r.Faults, o.Faults...)
}

func (r *Result) fault(format string, args ...any) {
	if len(r.Faults) < 5 {
		r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
	}
}

// call is one call and what the caller was told.
type call struct {
	id, after int
	rows      int
	err       error
}

var apps atomic.Int64

// App is an application_name that no other cell has.
func App() string { return fmt.Sprintf("test-matrix-%d", apps.Add(1)) }

// Run runs one cell. Its error is a failure of the harness, not of the driver.
func Run(ctx context.Context, s *pgtest.Server, d Driver, c Cell) (Result, error) {
	var r Result
	app := App()
	proxy, err := faultnet.New(s.Addr())
	if err != nil {
		return r, err
	}
	defer proxy.Close()
	db, err := d.Open(s, 1, Through(proxy, app, c.TLS)...)
	if err != nil {
		return r, err
	}
	defer db.Close()
	table := fmt.Sprintf("matrix_%d", apps.Add(1))
	length, err := measure(ctx, db, proxy, s, c, table)
	if err != nil {
		return r, fmt.Errorf("%v: %w", c, err)
	}
	var calls []call
	for after := c.First; after <= length+slack; after += c.Step {
		if err := alive(ctx, db); err != nil {
			r.Dead++
			r.fault("%v, before byte %d: the pool is of no use: %v", c, after, err)
			break
		}
		k := call{id: firstID + 1 + len(calls), after: after}
		fired := proxy.Fired()
		proxy.Arm(c.Dir, after, c.Action)
		if !within(hangLimit, func() { k.rows, k.err = c.Kind.Do(ctx, db, table, k.id) }) {
			r.Hung++
			r.fault("%v, byte %d: hangs", c, after)
			proxy.Close() // frees it
			break
		}
		proxy.Disarm()
		r.Calls++
		calls = append(calls, k)
		if proxy.Fired() > fired {
			r.Cuts++
		} else if after >= length {
			break // past the end of the exchange
		}
	}
	if r.Hung+r.Dead == 0 {
		if err := alive(ctx, db); err != nil {
			r.Dead++
			r.fault("%v, at the end: the pool is of no use: %v", c, err)
		}
	}
	if err := db.Close(); err != nil {
		r.fault("%v: close: %v", c, err)
	}
	// What the proxy still holds for the server comes to its end by itself.
	if err := s.AwaitSessions(ctx, app, 0); err != nil {
		return r, err
	}
	return r, judge(ctx, s, d, c, table, calls, &r)
}

// Through is where the proxy is, for Open.
func Through(proxy *faultnet.Proxy, app string, tls bool) []string {
	mode := "disable"
	if tls {
		mode = "require"
	}
	return []string{"host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "application_name", app, "sslmode", mode}
}

// alive makes sure that there is a connection, which a driver may need two
// tries for.
func alive(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, hangLimit)
	defer cancel()
	err := db.PingContext(ctx)
	for range 3 {
		if err == nil {
			break
		}
		err = db.PingContext(ctx)
	}
	return err
}

func within(limit time.Duration, do func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// measure makes the table and counts the bytes of one call that is not cut.
func measure(ctx context.Context, db *sql.DB, proxy *faultnet.Proxy, s *pgtest.Server, c Cell, table string) (int, error) {
	if _, err := s.Admin().ExecContext(ctx, prepareTable(table)); err != nil {
		return 0, err
	}
	if err := db.PingContext(ctx); err != nil {
		return 0, err
	}
	before := proxy.Bytes(c.Dir)
	if c.Kind.perID != "" {
		if err := prepareIDs(ctx, s, c.Kind, table, 1); err != nil {
			return 0, err
		}
	}
	if _, err := c.Kind.Do(ctx, db, table, firstID); err != nil {
		return 0, err
	}
	length := proxy.Bytes(c.Dir) - before
	if c.Kind.perID != "" {
		return length, prepareIDs(ctx, s, c.Kind, table, (length+slack)/c.Step+2)
	}
	return length, nil
}

// judge compares what the callers were told with what the server has.
func judge(ctx context.Context, s *pgtest.Server, d Driver, c Cell, table string, calls []call, r *Result) error {
	done := make(map[int]int)
	rows, err := s.Admin().QueryContext(ctx, "select id, count(*) from "+table+" group by id")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id, n int
		if err := rows.Scan(&id, &n); err != nil {
			return err
		}
		done[id] = n
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, k := range calls {
		if c.Kind.Reads {
			r.judgeRead(d, c, k)
		} else {
			r.judgeWrite(d, c, k, done[k.id])
		}
	}
	if _, err := s.Admin().ExecContext(ctx, dropTable(table)); err != nil {
		return err
	}
	return nil
}

func (r *Result) judgeWrite(d Driver, c Cell, k call, n int) {
	claim := Silent
	if k.err != nil {
		claim = d.Says(k.err)
	}
	if claim == NotDone && c.Kind.Disguised && k.rows > 0 {
		claim = Silent // the error is about rows that are missing
	}
	want := c.Kind.rowsBack
	switch {
	case n > 1:
		r.Twice++
		if k.err == nil {
			r.TwiceNil++
		}
		r.fault("%v, byte %d: %d times, told %v", c, k.after, n, k.err)
	case k.err == nil && n == 0:
		r.FalseNil++
		r.fault("%v, byte %d: nil and not done", c, k.after)
	case k.err == nil && k.rows != want:
		r.Short++
		r.fault("%v, byte %d: nil with %d rows of %d", c, k.after, k.rows, want)
	case k.err == nil:
		r.Done++
	case claim == Unknown:
		r.Unknown++
	case n == 0:
		r.Failed++
	case claim == NotDone:
		r.Lied++
		r.fault("%v, byte %d: done, told %T %v", c, k.after, k.err, k.err)
	default:
		r.FailedDone++
	}
}

func (r *Result) judgeRead(d Driver, c Cell, k call) {
	switch {
	case k.err == nil && k.rows == rowsRead:
		r.Read++
	case k.err == nil:
		r.Short++
		r.fault("%v, byte %d: nil with %d rows of %d", c, k.after, k.rows, rowsRead)
	case k.rows == 0 && c.Kind.InTx:
		r.ReadInTx++
	case k.rows == 0:
		r.NoRows++
		r.fault("%v, byte %d: no row, %T %v", c, k.after, k.err, k.err)
	case d.Typed(k.err):
		r.Partial++
	default:
		r.Untyped++
		r.fault("%v, byte %d: %d rows, then %T %v", c, k.after, k.rows, k.err, k.err)
	}
}
