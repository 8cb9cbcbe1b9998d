package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

// What follows is the code of docs/moving.md; TestTheCodeOfTheGuidesIsRun holds
// page and file together.

// openDatabase opens the one pool of the program.
func openDatabase(ctx context.Context, dsn string) (*sql.DB, error) {
	db, err := sql.Open("pgpooled", dsn)
	if err != nil {
		return nil, err // a prisma:// URL, a misspelt key: nothing was dialled
	}
	if err := pgpooled.Warm(ctx, db); err != nil {
		db.Close()
		return nil, err // a wrong password at once, a silent server after pool_timeout
	}
	return db, nil
}

// ordersOf reads with up to three attempts, 1 s and 2 s apart.
func ordersOf(ctx context.Context, db *sql.DB, customer int) ([]string, error) {
	return pgpooled.RetryValue(ctx, pgpooled.RetryPolicy{}, func(ctx context.Context) ([]string, error) {
		rows, err := db.QueryContext(ctx, "SELECT item FROM moved_orders WHERE customer = $1 ORDER BY id", customer)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		var items []string
		for rows.Next() {
			var item string
			if err := rows.Scan(&item); err != nil {
				return nil, err
			}
			items = append(items, item)
		}
		return items, rows.Err()
	})
}

// warmed opens the pool's sessions before the first request is served.
func warmed(db *sql.DB, next http.Handler) http.Handler {
	var warm atomic.Bool
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !warm.Load() {
			if err := pgpooled.Warm(r.Context(), db); err != nil {
				http.Error(w, "the database is not there yet", http.StatusServiceUnavailable)
				return
			}
			warm.Store(true)
		}
		next.ServeHTTP(w, r)
	})
}

// load is n users who ask at the same time.
func load(ctx context.Context, db *sql.DB, users int) (time.Duration, error) {
	start, errs := time.Now(), make([]error, users)
	var wg sync.WaitGroup
	for i := range users {
		wg.Go(func() {
			var n int
			errs[i] = db.QueryRowContext(ctx, "SELECT $1::int", i).Scan(&n)
		})
	}
	wg.Wait()
	return time.Since(start), errors.Join(errs...)
}

// transferCents is pgx.BeginFunc: the whole function runs again after a conflict.
func transferCents(ctx context.Context, db *sql.DB, from, to, cents int) error {
	opts := &sql.TxOptions{Isolation: sql.LevelSerializable}
	return pgpooled.RunTx(ctx, db, opts, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "UPDATE moved_accounts SET cents = cents - $1 WHERE id = $2", cents, from); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "UPDATE moved_accounts SET cents = cents + $1 WHERE id = $2", cents, to)
		return err
	})
}

// insertMany is pgx.Batch for rows of one table: one statement, one round trip.
func insertMany(ctx context.Context, db *sql.DB, customers []int64, items []string) error {
	_, err := db.ExecContext(ctx, "INSERT INTO moved_orders (customer, item) SELECT * FROM unnest($1::int[], $2::text[])",
		pq.Array(customers), pq.Array(items))
	return err
}

// copyIn is pgxpool's CopyFrom.
func copyIn(ctx context.Context, db *sql.DB, items []string) error {
	return pgpooled.RunTx(ctx, db, nil, func(tx *sql.Tx) error {
		st, err := tx.PrepareContext(ctx, "COPY moved_orders (customer, item) FROM STDIN")
		if err != nil {
			return err
		}
		defer st.Close()
		for i, item := range items {
			if _, err := st.ExecContext(ctx, i, item); err != nil {
				return err
			}
		}
		_, err = st.ExecContext(ctx) // the end of the data
		return err
	})
}

// listen waits for notifications on a connection of its own, which is lib/pq's.
func listen(dsn, channel string) (*pq.Listener, error) {
	cfg, err := pgpooled.ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	l := pq.NewListener(cfg.PlainDSN(), 100*time.Millisecond, time.Minute, nil)
	if err := l.Listen(channel); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// limits is what db.SetMaxOpenConns and its sisters were, where code sets them.
func limits(db *sql.DB) {
	if c, ok := pgpooled.ConnectorOf(db); ok {
		c.SetMaxOpenConns(20)
		c.SetMaxIdleConns(20)
		c.SetConnMaxIdleTime(2 * time.Minute)
		c.SetConnMaxLifetime(30 * time.Minute)
	}
}

func movedDB(t *testing.T) *sql.DB {
	t.Helper()
	db, err := openDatabase(testContext(t), server.URL("application_name", app(), "connection_limit", "4", "pool_timeout", "10"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestTheSeedsCodeTranslated(t *testing.T) {
	t.Parallel()
	db := movedDB(t)
	ctx := testContext(t)
	mustExec(t, server.Admin(), "drop table if exists moved_orders, moved_accounts; create table moved_orders (id serial primary key, customer int, item text)")
	mustExec(t, server.Admin(), "create table moved_accounts (id int primary key, cents int)")
	mustExec(t, server.Admin(), "insert into moved_accounts values (1, 100), (2, 0)")

	if s := stats(t, db); s.Open != 1 {
		t.Errorf("Warm left %d sessions open", s.Open)
	}
	if err := insertMany(ctx, db, []int64{7, 7}, []string{"pen", "ink"}); err != nil {
		t.Fatal(err)
	}
	if items, err := ordersOf(ctx, db, 7); err != nil || strings.Join(items, " ") != "pen ink" {
		t.Errorf("%q %v", items, err)
	}
	if err := copyIn(ctx, db, []string{"a", "b", "c"}); err != nil {
		t.Fatal(err)
	}
	if n := queryInt(t, db, "select count(*) from moved_orders"); n != 5 {
		t.Errorf("%d orders", n)
	}
	if err := transferCents(ctx, db, 1, 2, 30); err != nil {
		t.Fatal(err)
	}
	if n := queryInt(t, db, "select cents from moved_accounts where id = 2"); n != 30 {
		t.Errorf("%d cents", n)
	}
	if took, err := load(ctx, db, 50); err != nil || took <= 0 {
		t.Errorf("%v %v", took, err)
	}
	if s := stats(t, db); s.Open > 4 || s.InUse != 0 {
		t.Errorf("%+v", s)
	}
	limits(db)
	if s := stats(t, db); s.MaxOpenConns != 20 {
		t.Errorf("the limit is %d", s.MaxOpenConns)
	}

	mux := http.NewServeMux()
	mux.Handle("GET /api/health/db", pgpooled.HealthHandler(db))
	for range 2 {
		w := httptest.NewRecorder()
		warmed(db, mux).ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/health/db", nil))
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"healthy":true`) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
}

func TestTheWarmingMiddlewareSaysSoWhileTheServerIsAway(t *testing.T) {
	t.Parallel()
	db, err := pgpooled.Open("host="+t.TempDir()+" user=u pool_timeout=50ms", quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	w := httptest.NewRecorder()
	warmed(db, http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequestWithContext(testContext(t), http.MethodGet, "/", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestTheListenerOfTheGuideHears(t *testing.T) {
	t.Parallel()
	name := app()
	l, err := listen(server.DSN("application_name", name, "max_open_conns", "2"), "moved")
	if err != nil {
		t.Fatal(err)
	}
	defer eventually(t, "the listener's session ends", func() bool {
		return queryInt(t, server.Admin(), "select count(*) from pg_stat_activity where application_name = $1", name) == 0
	})
	defer l.Close()
	mustExec(t, server.Admin(), "select pg_notify('moved', 'here')")
	select {
	case n := <-l.Notify:
		if n == nil || n.Extra != "here" {
			t.Errorf("%+v", n)
		}
	case <-testContext(t).Done():
		t.Error("nothing was heard")
	}
}

func TestAnAcceleratorsURLIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := openDatabase(testContext(t), "prisma+postgres://accelerate.example.com/?api_key=secret"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

// pgxpool and Prisma fall back to plain text where no sslmode is given; here TLS
// is required, and the error says that the server has none.
func TestWithoutSSLModeTLSIsRequired(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, 8)) // SSLRequest
			_, _ = c.Write([]byte("N"))
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
		asked <- err
	}()
	db, err := pgpooled.Open("host=127.0.0.1 user=u pool_timeout=1m port="+strconv.Itoa(l.Addr().(*net.TCPAddr).Port), quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.PingContext(testContext(t)); !errors.Is(err, pq.ErrSSLNotSupported) {
		t.Errorf("got %v", err)
	}
	l.Close()
	if err := <-asked; err != nil {
		t.Error(err)
	}
}

// The guides' SQL is accepted by a server.
func TestTheSQLOfTheGuidesRuns(t *testing.T) {
	t.Parallel()
	db := open(t)
	n := 0
	for _, part := range strings.Split(readFile(t, "docs/moving.md"), "```sql\n")[1:] {
		text, _, _ := strings.Cut(part, "```")
		mustExec(t, db, text)
		n++
	}
	if n < 2 {
		t.Errorf("only %d statements", n)
	}
}

// Each Go block of the guides is, but for its indentation, a piece of a test file
// here, so that it compiles and runs.
func TestTheCodeOfTheGuidesIsRun(t *testing.T) {
	t.Parallel()
	flat := func(s string) string {
		lines := strings.Split(strings.TrimSpace(s), "\n")
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		return strings.Join(lines, "\n")
	}
	var tests strings.Builder
	for _, name := range []string{"moving_test.go", "testing_test.go"} {
		tests.WriteString(flat(readFile(t, name)) + "\n")
	}
	for _, page := range []string{"docs/moving.md", "docs/testing.md"} {
		blocks := goBlock.FindAllStringSubmatch(readFile(t, page), -1)
		if len(blocks) < 2 {
			t.Errorf("%s has %d Go blocks", page, len(blocks))
		}
		for _, b := range blocks {
			if !strings.Contains(tests.String(), flat(b[1])) {
				t.Errorf("%s: not in moving_test.go or testing_test.go:\n%s", page, b[1])
			}
		}
	}
}
