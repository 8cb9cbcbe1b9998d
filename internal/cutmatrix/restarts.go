package cutmatrix

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// RestartModes are the ways to restart a server: told to, told to at once, one
// backend killed (the others follow), the postmaster killed, everything killed.
var RestartModes = []string{"fast", "immediate", "kill -9 of a backend", "kill -9 of the postmaster", "kill -9 of all"}

const callers = 20

// RestartResult counts what twenty callers on ten connections saw.
type RestartResult struct {
	Restarts     int
	Reads        int
	ReadsFailed  int // before their first row
	ReadsPartial int // after it
	ReadsShort   int // nil, and rows missing
	Writes       int // calls, each with a number of its own
	WritesFailed int // not done, with an error that says so or says nothing
	Unknown      int // the error says that it is unknown
	Lost         int // nil, and not there at the end
	Doubled      int
	Lied         int // the error says that it was not done, and it was
	FailedDone   int // done, with an error that does not say

	Faults []string
}

func (r *RestartResult) fault(format string, args ...any) {
	if len(r.Faults) < 10 {
		r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
	}
}

// Connections is how many a driver has in Restarts.
const Connections = 10

// Restarts runs callers that read and write without a pause, and restarts the
// server under them in each of the modes in turn. The server is the caller's
// own.
func Restarts(ctx context.Context, s *pgtest.Server, d Driver, tls bool, modes []string) (RestartResult, error) {
	r := RestartResult{Restarts: len(modes)}
	table := fmt.Sprintf("restarts_%d", apps.Add(1))
	if _, err := s.Admin().ExecContext(ctx, "create table "+table+" (id int)"); err != nil {
		return r, err
	}
	mode := "disable"
	if tls {
		mode = "require"
	}
	app := App()
	db, err := d.Open(s, Connections, "application_name", app, "sslmode", mode)
	if err != nil {
		return r, err
	}
	defer db.Close()

	var (
		mu   sync.Mutex // guards r and told
		told = make(map[int]error)
		ids  atomic.Int64
		wg   sync.WaitGroup
	)
	done, stop := context.WithCancel(ctx)
	defer stop()
	for caller := range callers {
		wg.Go(func() {
			for i := caller; done.Err() == nil; i++ {
				if i%2 == 0 {
					n, err := count(db.QueryContext(ctx, "select generate_series(1, $1::int)", rowsRead))
					mu.Lock()
					r.read(n, err)
					mu.Unlock()
				} else {
					id := int(ids.Add(1))
					_, err := db.ExecContext(ctx, fmt.Sprintf("insert into %s values (%d)", table, id))
					mu.Lock()
					told[id] = err
					mu.Unlock()
				}
			}
		})
	}
	progress := func(n int64) error {
		for from := ids.Load(); ids.Load() < from+n; {
			select {
			case <-ctx.Done():
				return fmt.Errorf("no progress: %w", ctx.Err())
			case <-time.After(2 * time.Millisecond):
			}
		}
		return nil
	}
	for _, m := range modes {
		if err = progress(100); err != nil {
			break
		}
		if err = Restart(ctx, s, m); err != nil {
			err = fmt.Errorf("%s: %w", m, err)
			break
		}
	}
	if err == nil {
		err = progress(100)
	}
	stop()
	wg.Wait()
	if err != nil {
		return r, err
	}
	if err := db.Close(); err != nil {
		r.fault("close: %v", err)
	}
	if err := s.AwaitSessions(ctx, app, 0); err != nil {
		return r, err
	}
	return r, r.judge(ctx, s, d, table, told)
}

func (r *RestartResult) read(n int, err error) {
	r.Reads++
	switch {
	case err == nil && n == rowsRead:
	case err == nil:
		r.ReadsShort++
		r.fault("a read of %d rows of %d, and nil", n, rowsRead)
	case n > 0:
		r.ReadsPartial++
	default:
		r.ReadsFailed++
		r.fault("a read failed: %T %v", err, err)
	}
}

func (r *RestartResult) judge(ctx context.Context, s *pgtest.Server, d Driver, table string, told map[int]error) error {
	rows, err := s.Admin().QueryContext(ctx, "select id, count(*) from "+table+" group by id")
	if err != nil {
		return err
	}
	defer rows.Close()
	there := make(map[int]int)
	for rows.Next() {
		var id, n int
		if err := rows.Scan(&id, &n); err != nil {
			return err
		}
		there[id] = n
	}
	for id, err := range told {
		n, claim := there[id], Silent
		if err != nil {
			claim = d.Says(err)
		}
		r.Writes++
		switch {
		case n > 1:
			r.Doubled++
			r.fault("write %d is there %d times, told %v", id, n, err)
		case err == nil && n == 0:
			r.Lost++
			r.fault("write %d is lost", id)
		case err == nil:
		case claim == Unknown:
			r.Unknown++
		case n == 0:
			r.WritesFailed++
		case claim == NotDone:
			r.Lied++
			r.fault("write %d is done, told %T %v", id, err, err)
		default:
			r.FailedDone++
		}
	}
	return rows.Err()
}

// Restart restarts a server in one of RestartModes and returns when it takes
// connections again. The backend that is killed is one whose application_name
// begins with test-.
func Restart(ctx context.Context, s *pgtest.Server, mode string) error {
	switch mode {
	case "fast", "immediate":
		return s.Restart(ctx, mode)
	case "kill -9 of all":
		return s.Restart(ctx, "kill")
	case "kill -9 of a backend":
		return killBackend(ctx, s)
	}
	if err := kill(s.Pid()); err != nil {
		return err
	}
	for s.Pid() != 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	// The other processes end by themselves; until then the server cannot start.
	for {
		err := s.Up(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		<-time.After(20 * time.Millisecond)
	}
}

// killBackend kills one that works for the callers. The postmaster ends the
// others and recovers. A backend that was just ending by itself takes no notice
// of it: then another one is killed.
func killBackend(ctx context.Context, s *pgtest.Server) error {
	started := time.Now()
	for ctx.Err() == nil {
		var pid sql.NullInt64
		err := s.Admin().QueryRowContext(ctx, `select max(pid) from pg_stat_activity
			where backend_type = 'client backend' and application_name like 'test-%'`).Scan(&pid)
		switch {
		case err == nil && !pid.Valid:
			return errors.New("there is no backend to kill")
		case err == nil:
			err = kill(int(pid.Int64))
		}
		if err == nil && recovered(ctx, s, started) {
			return nil
		}
	}
	return errors.Join(ctx.Err(), errors.New("the server did not recover"))
}

// recovered waits a while: somebody has connected since.
func recovered(ctx context.Context, s *pgtest.Server, started time.Time) bool {
	for begun := time.Now(); time.Since(begun) < 2*time.Second && ctx.Err() == nil; {
		var fresh sql.NullBool
		err := s.Admin().QueryRowContext(ctx, `select bool_or(backend_start > to_timestamp($1)) from pg_stat_activity
			where backend_type = 'checkpointer'`, float64(started.UnixNano())/1e9).Scan(&fresh)
		if err == nil && fresh.Bool {
			return true
		}
		<-time.After(2 * time.Millisecond)
	}
	return false
}

// kill is kill -9.
func kill(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}
