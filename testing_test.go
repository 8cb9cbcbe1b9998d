package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"

	"github.com/pgpooled/pgpooled"
)

// What follows is the code of docs/testing.md.

// mockBase lets pgpooled open go-sqlmock's connections.
type mockBase struct {
	name string
	d    driver.Driver
}

func (b mockBase) Connect(context.Context) (driver.Conn, error) { return b.d.Open(b.name) }
func (b mockBase) Driver() driver.Driver                        { return b.d }

// openMock is pgpooled with go-sqlmock instead of a server.
func openMock(t *testing.T) (*sql.DB, sqlmock.Sqlmock) {
	t.Helper()
	raw, mock, err := sqlmock.NewWithDSN(t.Name()) // a name that no other mock has
	if err != nil {
		t.Fatal(err)
	}
	db, err := pgpooled.Open("host=mock user=mock", pgpooled.WithBase(mockBase{t.Name(), raw.Driver()}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		mock.ExpectClose()
		db.Close()
		raw.Close()
	})
	return db, mock
}

// pay is the code under test: it asks before it pays a second time.
func pay(ctx context.Context, db *sql.DB, key string) error {
	_, err := db.ExecContext(ctx, "INSERT INTO payments VALUES ($1)", key)
	var unknown *pgpooled.OutcomeUnknownError
	if !errors.As(err, &unknown) {
		return err
	}
	var done bool
	if err := db.QueryRowContext(ctx, "SELECT EXISTS (SELECT FROM payments WHERE key = $1)", key).Scan(&done); err != nil {
		return err
	}
	if done {
		return nil
	}
	_, err = db.ExecContext(ctx, "INSERT INTO payments VALUES ($1) ON CONFLICT DO NOTHING", key)
	return err
}

func TestPayAsksBeforeItPaysAgain(t *testing.T) {
	db, mock := openMock(t)
	mock.ExpectExec("INSERT INTO payments").WillReturnError(driver.ErrBadConn) // the answer is lost
	mock.ExpectQuery("SELECT EXISTS").WillReturnRows(sqlmock.NewRows([]string{"exists"}).AddRow(true))
	if err := pay(t.Context(), db, "order-4711"); err != nil {
		t.Error(err)
	}
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}
}

// refusing is a connector of one's own: a server that is not there.
type refusing struct{}

func (refusing) Connect(context.Context) (driver.Conn, error) { return nil, io.ErrUnexpectedEOF }
func (refusing) Driver() driver.Driver                        { return nil }

func TestTheServerIsAway(t *testing.T) {
	db, err := pgpooled.Open("host=fake user=fake pool_timeout=50ms", pgpooled.WithBase(refusing{}))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.PingContext(t.Context()); !errors.Is(err, pgpooled.ErrPoolTimeout) {
		t.Errorf("got %v", err)
	}
}
