package pgpooled_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"log/slog"
	"math"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/pgpooledtest"
)

// The code of docs/testing.md; TestTheCodeOfTheGuidesIsRun holds page and file
// together.

func TestTheServerRestartsInTheMiddle(t *testing.T) {
	s := pgpooledtest.Start(t)
	db, err := sql.Open("pgpooled", s.Database(t, "max_open_conns", "5")) // an empty database of this test's own
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	// … and in the middle of what the program does:
	if err := s.Restart(t.Context(), pgpooledtest.Fast); err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, "CREATE TABLE orders (id int)")
}

func TestTheNetworkBreaksInTheMiddle(t *testing.T) {
	s := pgpooledtest.Start(t)
	network := s.Proxy(t)
	db, err := sql.Open("pgpooled", s.Database(t, network.Via("max_open_conns", "5")...))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	mustExec(t, db, "CREATE TABLE orders (id int)")
	network.Cut()
	if n := queryInt(t, db, "SELECT count(*) FROM orders"); n != 0 {
		t.Errorf("%d orders", n)
	}
}

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
	db, err := pgpooled.Open("host=mock user=mock", pgpooled.WithBase(mockBase{t.Name(), raw.Driver()}),
		pgpooled.WithLogger(slog.New(slog.DiscardHandler)))
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

// away is a server where nobody listens for a number of connects.
type away struct {
	driver.Connector // for the time afterwards
	failures         atomic.Int64
}

func (a *away) Connect(ctx context.Context) (driver.Conn, error) {
	if a.failures.Add(-1) >= 0 {
		return nil, syscall.ECONNREFUSED
	}
	return a.Connector.Connect(ctx)
}

// openAway is pgpooled on a server that is away for a number of connects.
func openAway(t *testing.T, failures int64, dsn string) *sql.DB {
	t.Helper()
	raw, _, err := sqlmock.NewWithDSN(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	base := &away{Connector: mockBase{t.Name(), raw.Driver()}}
	base.failures.Store(failures)
	db, err := pgpooled.Open(dsn, pgpooled.WithBase(base), pgpooled.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		db.Close()
		raw.Close()
	})
	return db
}

func TestTheServerIsAwayForAMoment(t *testing.T) {
	db := openAway(t, 3, "host=fake user=fake pool_timeout=1m")
	if err := db.PingContext(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTheServerIsAway(t *testing.T) {
	db := openAway(t, math.MaxInt64, "host=fake user=fake pool_timeout=50ms")
	if err := db.PingContext(t.Context()); !errors.Is(err, pgpooled.ErrPoolTimeout) {
		t.Errorf("got %v", err)
	}
}
