package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Standby starts a hot standby of s, with its options and a port of its own, that
// streams from s. It returns when the standby answers
// queries and has caught up. Replication is asynchronous until Synchronous.
func (s *Server) Standby(ctx context.Context) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	sb, err := start(ctx, s.opts, s)
	if err != nil {
		return nil, err
	}
	if err := sb.caughtUp(ctx, s); err != nil {
		_ = sb.Stop()
		return nil, err
	}
	return sb, nil
}

// Follow makes s, which has to be down, a standby of primary: its data becomes a
// new copy of primary's, its port stays. What s had and primary has not is lost.
func (s *Server) Follow(ctx context.Context, primary *Server) error {
	s.mu.Lock()
	up := s.proc != nil
	s.mu.Unlock()
	if up {
		return errors.New("pgtest: Follow takes a server that is down")
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := removeAll(s.dataDir()); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	if err := s.copyFrom(ctx, primary); err != nil {
		return err
	}
	if err := s.configure(); err != nil {
		return fmt.Errorf("pgtest: configuration: %w", err)
	}
	if err := s.Up(ctx); err != nil {
		return err
	}
	return s.caughtUp(ctx, primary)
}

// Synchronous lets no commit on s return before a standby has it on disk. It
// waits until there is one. A copy of s does not inherit it.
func (s *Server) Synchronous(ctx context.Context) error {
	for _, q := range []string{"ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"} {
		if _, err := s.admin.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("pgtest: synchronous replication: %w", err)
		}
	}
	return s.await(ctx, "a synchronous standby", "SELECT count(*) > 0 FROM pg_stat_replication WHERE sync_state = 'sync'")
}

// Promote makes a standby a primary and returns when it is one: it takes writes.
func (s *Server) Promote(ctx context.Context) error {
	// Waiting inside pg_promote would round up to a tenth of a second.
	if _, err := s.admin.ExecContext(ctx, "SELECT pg_promote(false)"); err != nil {
		return fmt.Errorf("pgtest: promote: %w", err)
	}
	return s.await(ctx, "the promotion", "SELECT NOT pg_is_in_recovery()")
}

// caughtUp waits until the standby s has replayed what primary has now.
func (s *Server) caughtUp(ctx context.Context, primary *Server) error {
	var lsn string
	if err := primary.admin.QueryRowContext(ctx, "SELECT pg_current_wal_lsn()").Scan(&lsn); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	return s.await(ctx, "the standby", "SELECT pg_last_wal_replay_lsn() >= '"+lsn+"'::pg_lsn AND EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')")
}

// await asks until the answer is true. A server that does not answer yet is
// asked again.
func (s *Server) await(ctx context.Context, what, query string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		var yes sql.NullBool
		err := s.admin.QueryRowContext(ctx, query).Scan(&yes)
		if err == nil && yes.Bool {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("pgtest: waiting for %s: %w (last answer: %v); the server says:\n%s", what, ctx.Err(), err, s.logTail(0))
		}
	}
}

// PairT starts a primary and a standby for a test and stops them at the end.
func PairT(t TB, o Options) (primary, standby *Server) {
	t.Helper()
	primary = StartT(t, o)
	standby, err := primary.Standby(context.Background())
	if err != nil {
		t.Fatalf("no standby for this test: %v", err)
	}
	t.Cleanup(func() {
		if err := standby.Stop(); err != nil {
			t.Logf("%v", err)
		}
	})
	return primary, standby
}

// Hosts are the settings host and port of several servers, for DSN.
func Hosts(servers ...*Server) (kv []string) {
	var hosts, ports string
	for i, s := range servers {
		if i > 0 {
			hosts, ports = hosts+",", ports+","
		}
		hosts, ports = hosts+"127.0.0.1", ports+strconv.Itoa(s.port)
	}
	return []string{"host", hosts, "port", ports}
}
