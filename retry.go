package pgpooled

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/lib/pq"
	"github.com/sethvargo/go-retry"
)

// RetryPolicy says how [Retry] repeats a function. Its zero value has the
// defaults.
type RetryPolicy struct {
	MaxAttempts int              // calls in all, 0 = 3, 1 = no repetition
	BaseDelay   time.Duration    // before the second call, then doubled each time; 0 = 1 s
	MaxDelay    time.Duration    // the longest delay, 0 = no cap
	FullJitter  bool             // draw each delay between 0 and its value
	Retryable   func(error) bool // what is worth another call, nil = [Retryable]
	Logger      *slog.Logger     // gets a line at Warn per repetition, nil = slog.Default()
}

// AttemptsError is the error of the last of several attempts.
type AttemptsError struct {
	Attempts int   // how many there were
	Err      error // of the last one; if the context ended the wait, its error is joined
}

func (e *AttemptsError) Error() string {
	return fmt.Sprintf("pgpooled: gave up after %d attempts: %v", e.Attempts, e.Err)
}

// Unwrap gives the last attempt's error.
func (e *AttemptsError) Unwrap() error { return e.Err }

// Retry calls op until it succeeds, fails in a way that another call cannot
// mend, or the policy or the context ends it. The function is called again as a
// whole: what it did outside the database is the caller's business.
//
// An error of the only attempt is returned as it is; that of the last of
// several is wrapped in an [AttemptsError].
func Retry(ctx context.Context, policy RetryPolicy, op func(context.Context) error) error {
	_, err := RetryValue(ctx, policy, func(ctx context.Context) (struct{}, error) { return struct{}{}, op(ctx) })
	return err
}

// RetryValue is [Retry] for a function that returns a value. On an error the
// value is zero.
func RetryValue[T any](ctx context.Context, policy RetryPolicy, op func(context.Context) (T, error)) (T, error) {
	var (
		attempts int
		last     error
	)
	policy = policy.withDefaults()
	backoff := policy.backoff(func(delay time.Duration) {
		policy.Logger.LogAttrs(ctx, slog.LevelWarn, "pgpooled: attempt failed, trying again",
			slog.Int("attempt", attempts), slog.Duration("delay", delay), slog.String("error", last.Error()))
	})
	v, err := retry.DoValue(ctx, backoff, func(ctx context.Context) (T, error) {
		attempts++
		v, err := op(ctx)
		last = err
		if err != nil && policy.Retryable(err) {
			return v, retry.RetryableError(err)
		}
		return v, err
	})
	switch {
	case err == nil:
		return v, nil
	case last == nil:
	case attempts > 1 && ctx.Err() != nil && !errors.Is(last, ctx.Err()):
		err = errors.Join(last, ctx.Err())
	default:
		err = last
	}
	var zero T
	if attempts > 1 {
		return zero, &AttemptsError{Attempts: attempts, Err: err}
	}
	return zero, err
}

func (r RetryPolicy) withDefaults() RetryPolicy {
	if r.MaxAttempts <= 0 {
		r.MaxAttempts = 3
	}
	if r.BaseDelay <= 0 {
		r.BaseDelay = time.Second
	}
	if r.Retryable == nil {
		r.Retryable = Retryable
	}
	if r.Logger == nil {
		r.Logger = slog.Default()
	}
	return r
}

// backoff makes go-retry's; again hears of each repetition.
func (r RetryPolicy) backoff(again func(time.Duration)) retry.Backoff {
	b := exponential(r.BaseDelay, r.MaxDelay, r.FullJitter)
	b = retry.WithMaxRetries(uint64(r.MaxAttempts-1), b) // at least 1
	return retry.BackoffFunc(func() (time.Duration, bool) {
		delay, stop := b.Next()
		if !stop {
			again(delay)
		}
		return delay, stop
	})
}

func exponential(base, limit time.Duration, jitter bool) retry.Backoff {
	b := retry.NewExponential(base)
	if limit > 0 {
		b = retry.WithCappedDuration(limit, b)
	}
	if jitter {
		b = retry.WithFullJitter(b)
	}
	return b
}

// Retryable says whether doing the whole thing again is safe and may help. It
// judges by type and SQLSTATE, never by a message's text:
//
//   - yes: a connection that could not be opened for a reason that can pass, a
//     [ConnLostError] (nothing was done), a [PoolTimeoutError], a server that is
//     full (53300), starts up or shuts down (57P01 to 57P03), a transaction that
//     it rolled back as a serialization failure (40001) or a deadlock (40P01);
//   - no: an [OutcomeUnknownError] (it may have been done), a context that has
//     ended, statement_timeout and lock_timeout (again would add to the load),
//     [ErrClosed], and everything else.
func Retryable(err error) bool {
	var (
		unknown *OutcomeUnknownError
		lost    *ConnLostError
		pool    *PoolTimeoutError
		opening *connectError
		answer  *pq.Error
		op      *net.OpError
	)
	switch {
	case err == nil, errors.As(err, &unknown), errors.Is(err, ErrClosed),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &opening):
		return false
	case errors.As(err, &lost):
		return lost.Ctx == nil
	case errors.As(err, &pool):
		return pool.Ctx == nil
	case errors.As(err, &opening):
		return passing(err, true)
	case errors.As(err, &answer):
		switch answer.Code {
		case "40001", "40P01", "53300", "57P01", "57P02", "57P03":
			return true
		}
		return false
	case errors.As(err, &op):
		return op.Op == "dial" && passing(err, true)
	}
	return false
}
