package pgpooled_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

var errLock = &pq.Error{Code: "40P01", Message: "deadlock detected"}

// retried runs Retry on a fake clock with a function that fails with these
// errors in turn, then succeeds; it returns when the calls were made.
func retried(ctx context.Context, policy pgpooled.RetryPolicy, fails ...error) (at []time.Duration, err error) {
	start := time.Now()
	if policy.Logger == nil {
		policy.Logger = slog.New(slog.DiscardHandler)
	}
	err = pgpooled.Retry(ctx, policy, func(context.Context) error {
		at = append(at, time.Since(start))
		if n := len(at); n <= len(fails) {
			return fails[n-1]
		}
		return nil
	})
	return at, err
}

// The seed's withRetry: three calls, one second, then two.
func TestRetryHasTheDefaultsOfTheSeed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, tt := range map[string]struct {
			policy pgpooled.RetryPolicy
			fails  int
			want   []time.Duration
		}{
			"at once":            {pgpooled.RetryPolicy{}, 0, []time.Duration{0}},
			"once more":          {pgpooled.RetryPolicy{}, 1, []time.Duration{0, time.Second}},
			"three calls in all": {pgpooled.RetryPolicy{}, 9, []time.Duration{0, time.Second, 3 * time.Second}},
			"no repetition":      {pgpooled.RetryPolicy{MaxAttempts: 1}, 9, []time.Duration{0}},
			"doubled to a cap": {pgpooled.RetryPolicy{MaxAttempts: 5, BaseDelay: time.Second, MaxDelay: 3 * time.Second}, 9,
				[]time.Duration{0, time.Second, 3 * time.Second, 6 * time.Second, 9 * time.Second}},
		} {
			at, err := retried(t.Context(), tt.policy, slices.Repeat([]error{errLock}, tt.fails)...)
			if !slices.Equal(at, tt.want) {
				t.Errorf("%s: called at %v, want %v", name, at, tt.want)
			}
			var many *pgpooled.AttemptsError
			switch {
			case tt.fails < len(tt.want) && err != nil:
				t.Errorf("%s: %v", name, err)
			case tt.fails > len(tt.want) && len(tt.want) > 1 &&
				(!errors.As(err, &many) || many.Attempts != len(tt.want) || many.Err != error(errLock) || !errors.Is(err, errLock)):
				t.Errorf("%s: %T %v", name, err, err)
			case len(tt.want) == 1 && tt.fails > 0 && err != error(errLock): // the very one
				t.Errorf("%s: %T %v", name, err, err)
			}
		}
		for range 100 {
			at, _ := retried(t.Context(), pgpooled.RetryPolicy{FullJitter: true}, errLock)
			if len(at) != 2 || at[1] > time.Second {
				t.Fatalf("jitter: %v", at)
			}
		}
	})
}

func TestRetryReturnsWhatCannotPassUntouched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		duplicate := &pq.Error{Code: "23505"}
		at, err := retried(t.Context(), pgpooled.RetryPolicy{}, duplicate)
		if len(at) != 1 || err != error(duplicate) {
			t.Errorf("%v %T %v", at, err, err)
		}
		at, err = retried(t.Context(), pgpooled.RetryPolicy{}, errLock, duplicate)
		var many *pgpooled.AttemptsError
		if len(at) != 2 || !errors.As(err, &many) || many.Attempts != 2 || many.Err != error(duplicate) {
			t.Errorf("%v %T %v", at, err, err)
		}
		own := errors.New("own")
		at, err = retried(t.Context(), pgpooled.RetryPolicy{Retryable: func(err error) bool { return err == own }}, own, own)
		if len(at) != 3 || err != nil {
			t.Errorf("%v %v", at, err)
		}
		// The only attempt's error is returned as it is, also if the context ended
		// during it.
		ctx, cancel := context.WithCancel(t.Context())
		err = pgpooled.Retry(ctx, pgpooled.RetryPolicy{}, func(context.Context) error { cancel(); return duplicate })
		if err != error(duplicate) {
			t.Errorf("%T %v", err, err)
		}
	})
}

func TestRetryEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		start := time.Now()
		at, err := retried(ctx, pgpooled.RetryPolicy{MaxAttempts: 10}, slices.Repeat([]error{errLock}, 10)...)
		if len(at) != 2 || time.Since(start) != 2500*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errLock) {
			t.Errorf("called at %v, ended after %s: %v", at, time.Since(start), err)
		}
		if at, err := retried(ctx, pgpooled.RetryPolicy{}); len(at) != 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("called at %v with an ended context: %v", at, err)
		}
	})
}

func TestRetryValueReturnsTheValueAndLogsEachRepetition(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, n := &journal{}, 0
		v, err := pgpooled.RetryValue(t.Context(), pgpooled.RetryPolicy{Logger: slog.New(log)}, func(context.Context) (string, error) {
			if n++; n < 3 {
				return "half done", errLock
			}
			return "done", nil
		})
		if v != "done" || err != nil {
			t.Errorf("%q %v", v, err)
		}
		want := []string{"attempt=1 delay=1s", "attempt=2 delay=2s"}
		lines := log.with("attempt failed")
		if len(lines) != 2 || !strings.Contains(lines[0], want[0]) || !strings.Contains(lines[1], want[1]) || !strings.Contains(lines[0], "WARN") {
			t.Errorf("%v", lines)
		}
		v, err = pgpooled.RetryValue(t.Context(), pgpooled.RetryPolicy{MaxAttempts: 2, Logger: slog.New(log)}, func(context.Context) (string, error) { return "half done", errLock })
		if v != "" || err == nil {
			t.Errorf("%q %v", v, err)
		}
	})
}

func TestRetryableByTypeAndState(t *testing.T) {
	t.Parallel()
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"nil", nil, false},
		{"a text that says connection", errors.New("connection timeout ECONNREFUSED"), false},
		{"serialization failure", &pq.Error{Code: "40001"}, true},
		{"deadlock", errLock, true},
		{"deadlock, wrapped", fmt.Errorf("load: %w", errLock), true},
		{"too many connections", &pq.Error{Code: "53300"}, true},
		{"starting up", &pq.Error{Code: "57P03"}, true},
		{"unique violation", &pq.Error{Code: "23505"}, false},
		{"statement_timeout", &pq.Error{Code: "57014"}, false},
		{"lock_timeout", &pq.Error{Code: "55P03"}, false},
		{"wrong password", &pq.Error{Code: "28P01"}, false},
		{"temp_file_limit, which a second run meets as well", &pq.Error{Code: "53400"}, false},
		{"refused", refused, true},
		{"unknown host that may come back", &net.OpError{Op: "dial", Err: &net.DNSError{IsTemporary: true}}, true},
		{"a read that failed", &net.OpError{Op: "read", Err: syscall.ECONNRESET}, false},
		{"EOF", io.EOF, false},
		{"bad connection", driver.ErrBadConn, false},
		{"outcome unknown", &pgpooled.OutcomeUnknownError{Cause: io.EOF}, false},
		{"outcome unknown, a deadlock beside it", errors.Join(errLock, &pgpooled.OutcomeUnknownError{}), false},
		{"connection lost", &pgpooled.ConnLostError{Cause: io.EOF}, true},
		{"connection lost in a transaction", &pgpooled.ConnLostError{InTx: true, Cause: io.EOF}, true},
		{"connection lost, context over", &pgpooled.ConnLostError{Ctx: context.Canceled}, false},
		{"pool timeout", &pgpooled.PoolTimeoutError{}, true},
		{"pool timeout during an outage", &pgpooled.PoolTimeoutError{Connect: refused}, true},
		{"context over while waiting", &pgpooled.PoolTimeoutError{Ctx: context.DeadlineExceeded}, false},
		{"attempts at what can pass", &pgpooled.AttemptsError{Err: errLock}, true},
		{"deadline", context.DeadlineExceeded, false},
		{"cancelled", context.Canceled, false},
		{"closed", pgpooled.ErrClosed, false},
	} {
		if got := pgpooled.Retryable(tt.err); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A statement that runs into a limit of its own (53400) does so again.
func TestAStatementThatExceedsTempFileLimitIsNotRetryable(t *testing.T) {
	t.Parallel()
	db := open(t)
	c, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	mustExec(t, c, "set temp_file_limit = '1MB'; set work_mem = '64kB'")
	_, err = c.ExecContext(testContext(t), "select count(*) from (select i from generate_series(1, 300000) i order by i desc offset 1) x")
	if answer, ok := err.(*pq.Error); !ok || answer.Code != "53400" {
		t.Fatalf("got %T %v", err, err)
	}
	if pgpooled.Retryable(err) {
		t.Errorf("retryable: %v", err)
	}
}
