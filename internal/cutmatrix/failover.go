package cutmatrix

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// pause is what a caller leaves between two calls, so that a driver that fails
// at once does not make more of them than one that waits.
const pause = 2 * time.Millisecond

// FailoverResult is what callers saw of one failover.
type FailoverResult struct {
	RestartResult
	// Unreplicated writes were confirmed, and only the old primary has them:
	// asynchronous replication may lose them. They are not counted in Lost.
	Unreplicated int

	Gap      time.Duration // the longest time that one caller had no success
	Database time.Duration // from the kill to the first write that a new, direct connection made
}

// Failover runs twenty callers that read and write on db, kills the primary with
// SIGKILL, promotes its standby when whoever watches would have noticed, and
// returns when the callers have gone on for a while. It closes db, whose sessions
// are called app; then it has the servers count what is there. The old primary is
// down at the end.
func Failover(ctx context.Context, primary, standby *pgtest.Server, noticed time.Duration, db *sql.DB, app string, says func(error) Claim) (FailoverResult, error) {
	r := FailoverResult{RestartResult: RestartResult{Restarts: 1}}
	defer db.Close()
	table := fmt.Sprintf("failover_%d", apps.Add(1))
	if _, err := primary.Admin().ExecContext(ctx, "create table "+table+" (id int)"); err != nil {
		return r, err
	}
	l := &load{db: db, table: table, told: make(map[int]error), result: &r}
	done, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() { l.call(ctx, done, caller) })
	}
	err := l.progress(ctx, 200)
	if err == nil {
		err = l.failOver(ctx, primary, standby, noticed)
	}
	if err == nil {
		err = l.progress(ctx, 200)
	}
	stop()
	wg.Wait()
	if err != nil {
		return r, err
	}
	if err := db.Close(); err != nil {
		r.fault("close: %v", err)
	}
	if err := standby.AwaitSessions(ctx, app, 0); err != nil {
		return r, err
	}
	if err := r.judge(ctx, standby, Driver{Says: says}, table, l.told); err != nil || r.Lost == 0 {
		return r, err
	}
	return r, r.unreplicated(ctx, primary, standby, table, l.told)
}

// unreplicated looks for what is lost on the old primary.
func (r *FailoverResult) unreplicated(ctx context.Context, primary, standby *pgtest.Server, table string, told map[int]error) error {
	if err := primary.Up(ctx); err != nil {
		return err
	}
	before, err := ids(ctx, primary, table)
	after, err2 := ids(ctx, standby, table)
	if err := errors.Join(err, err2, primary.Down("immediate")); err != nil {
		return err
	}
	for id, err := range told {
		if err == nil && before[id] && !after[id] {
			r.Unreplicated++
			r.Lost--
		}
	}
	return nil
}

func ids(ctx context.Context, s *pgtest.Server, table string) (map[int]bool, error) {
	rows, err := s.Admin().QueryContext(ctx, "select id from "+table)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	there := make(map[int]bool)
	for rows.Next() {
		var id int
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		there[id] = true
	}
	return there, rows.Err()
}

// load is the callers' work.
type load struct {
	db    *sql.DB
	table string
	ids   atomic.Int64
	done  atomic.Int64 // writes that succeeded

	mu     sync.Mutex // guards what follows
	told   map[int]error
	result *FailoverResult
}

// call reads and writes in turn until done ends.
func (l *load) call(ctx, done context.Context, caller int) {
	last := time.Now()
	for i := caller; done.Err() == nil; i++ {
		var err error
		if i%2 == 0 {
			var n int
			n, err = count(l.db.QueryContext(ctx, "select generate_series(1, $1::int)", rowsRead))
			l.mu.Lock()
			l.result.read(n, err)
		} else {
			id := int(l.ids.Add(1))
			if _, err = l.db.ExecContext(ctx, fmt.Sprintf("insert into %s values (%d)", l.table, id)); err == nil {
				l.done.Add(1)
			}
			l.mu.Lock()
			l.told[id] = err
		}
		if now := time.Now(); err == nil {
			l.result.Gap = max(l.result.Gap, now.Sub(last))
			last = now
		}
		l.mu.Unlock()
		select {
		case <-time.After(pause):
		case <-done.Done():
		}
	}
}

// progress waits until so many more writes have succeeded.
func (l *load) progress(ctx context.Context, n int64) error {
	for from := l.done.Load(); l.done.Load() < from+n; {
		select {
		case <-ctx.Done():
			return fmt.Errorf("no progress: %w", ctx.Err())
		case <-time.After(pause):
		}
	}
	return nil
}

// failOver kills one server and promotes the other. Beside it a probe tries to
// write on the new one, each time on the connection of a superuser that has
// nothing to do with the driver.
func (l *load) failOver(ctx context.Context, primary, standby *pgtest.Server, noticed time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := time.Now()
	wrote := make(chan time.Duration, 1)
	go func() {
		defer close(wrote)
		for ctx.Err() == nil {
			if _, err := standby.Admin().ExecContext(ctx, "insert into "+l.table+" values (0)"); err == nil {
				wrote <- time.Since(start)
				return
			}
			<-time.After(pause)
		}
	}()
	err := primary.Down("kill")
	if err == nil {
		<-time.After(noticed - time.Since(start))
		err = standby.Promote(ctx)
	}
	if err != nil {
		cancel()
		<-wrote
		return err
	}
	took, ok := <-wrote
	if !ok {
		return errors.Join(ctx.Err(), errors.New("the probe did not write"))
	}
	l.mu.Lock()
	l.result.Database = took
	l.mu.Unlock()
	return nil
}
