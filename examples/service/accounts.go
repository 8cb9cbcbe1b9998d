package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"unicode/utf8"

	"github.com/pgpooled/pgpooled"
)

// requestError is the caller's fault.
type requestError struct {
	status int
	text   string
}

func (e *requestError) Error() string { return e.text }

type account struct {
	ID    int64 `json:"id"`
	Cents int64 `json:"cents"`
}

// getAccount is one SELECT: pgpooled repeats it if its answer is lost.
func (s *service) getAccount(ctx context.Context, r *http.Request) (int, any, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return 0, nil, &requestError{http.StatusBadRequest, "the account's id is a number"}
	}
	a := account{ID: id}
	err = s.db.QueryRowContext(ctx, "SELECT cents FROM accounts WHERE id = $1", id).Scan(&a.Cents)
	if errors.Is(err, sql.ErrNoRows) {
		err = &requestError{http.StatusNotFound, "no such account"}
	}
	return http.StatusOK, a, err
}

type transfer struct {
	Key   string `json:"key"`
	From  int64  `json:"from"`
	To    int64  `json:"to"`
	Cents int64  `json:"cents"`
}

// postTransfer books a transfer once, however often it is sent: the caller gives
// it a key, in the header Idempotency-Key. 201 if it was booked now, 200 if it
// had been before.
func (s *service) postTransfer(ctx context.Context, r *http.Request) (int, any, error) {
	var t transfer
	// All of the body, and not its first value: {"cents":1}00 moves nothing.
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, 4096))
	if err != nil || json.Unmarshal(body, &t) != nil {
		return 0, nil, &requestError{http.StatusBadRequest, "the body is no transfer"}
	}
	t.Key = r.Header.Get("Idempotency-Key")
	if t.Key == "" || len(t.Key) > 100 || !utf8.ValidString(t.Key) || t.Cents <= 0 || t.From == t.To {
		return 0, nil, &requestError{http.StatusBadRequest, "a transfer needs the header Idempotency-Key (up to 100 bytes of UTF-8), two accounts and a positive amount"}
	}
	booked, err := s.book(ctx, t)
	if booked {
		return http.StatusCreated, t, err
	}
	return http.StatusOK, t, err
}

// book repeats a transaction whose outcome is unknown: its key makes that safe. If
// the lost one is still running the second one waits for it, and then finds its
// row.
func (s *service) book(ctx context.Context, t transfer) (booked bool, err error) {
	for try := 1; ; try++ {
		booked, err = s.bookOnce(ctx, t)
		var unknown *pgpooled.OutcomeUnknownError
		if !errors.As(err, &unknown) || ctx.Err() != nil || try == 3 {
			return booked, err
		}
	}
}

func (s *service) bookOnce(ctx context.Context, t transfer) (booked bool, err error) {
	err = pgpooled.RunTx(ctx, s.db, nil, func(tx *sql.Tx) error {
		booked = false // it may run several times
		result, err := tx.ExecContext(ctx, `INSERT INTO transfers (key, from_account, to_account, cents)
			VALUES ($1, $2, $3, $4) ON CONFLICT (key) DO NOTHING`, t.Key, t.From, t.To, t.Cents)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, isSame(ctx, tx, t))
		}
		booked = true
		// Locked in one order by everybody, and not against the foreign keys above: no
		// deadlocks.
		if _, err := tx.ExecContext(ctx, "SELECT FROM accounts WHERE id IN ($1, $2) ORDER BY id FOR NO KEY UPDATE", t.From, t.To); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE accounts SET cents = cents + CASE id WHEN $1 THEN -$3::bigint ELSE $3 END
			WHERE id IN ($1, $2)`, t.From, t.To, t.Cents)
		return err
	})
	return booked, err
}

// isSame refuses a key that was used for something else.
func isSame(ctx context.Context, tx *sql.Tx, t transfer) error {
	var same bool
	err := tx.QueryRowContext(ctx, `SELECT (from_account, to_account, cents) = ($2::bigint, $3::bigint, $4::bigint)
		FROM transfers WHERE key = $1`, t.Key, t.From, t.To, t.Cents).Scan(&same)
	if err == nil && !same {
		return &requestError{http.StatusUnprocessableEntity, "the key was used for another transfer"}
	}
	return err
}
