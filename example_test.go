package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"expvar"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

// A program that has database/sql changes the driver's name and the DSN, and
// nothing else. The import registers the driver.
func Example() {
	db, err := sql.Open("pgpooled", "postgres://app:secret@db.example.com/shop?max_open_conns=20&pool_timeout=5s")
	if err != nil {
		log.Fatal(err) // a misspelt key, a value out of range: nothing was dialled
	}
	defer db.Close()

	var n int
	if err := db.QueryRow("SELECT count(*) FROM orders WHERE customer = $1", 42).Scan(&n); err != nil {
		log.Print(err)
	}
}

// Open is sql.Open with options.
func ExampleOpen() {
	db, err := pgpooled.Open(os.Getenv("DATABASE_URL"),
		pgpooled.WithLogger(slog.New(slog.NewJSONHandler(os.Stderr, nil))))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
}

// A connector is what sql.OpenDB and most tracing wrappers take.
func ExampleNewConnector() {
	c, err := pgpooled.NewConnector("host=/var/run/postgresql dbname=shop max_open_conns=20 leak_detection_threshold=1m")
	if err != nil {
		log.Fatal(err)
	}
	db := sql.OpenDB(c)
	defer db.Close() // closes the pool too
}

// The limits of a running pool can be moved, through a plain *sql.DB.
func ExampleConnectorOf() {
	db, err := sql.Open("pgpooled", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	if c, ok := pgpooled.ConnectorOf(db); ok {
		c.SetMaxOpenConns(40) // at once
		c.SetMaxIdleConns(10)
		c.SetConnMaxIdleTime(time.Minute)
		c.SetConnMaxLifetime(15 * time.Minute)
	}
}

// The password of each new connection comes from somewhere that renews it.
func ExampleWithBeforeConnect() {
	token := func(context.Context) (string, error) { return "…", nil } // IAM, Vault

	db, err := pgpooled.Open("host=db.example.com user=app dbname=shop",
		pgpooled.WithBeforeConnect(func(ctx context.Context, cfg *pq.Config) (err error) {
			cfg.Password, err = token(ctx)
			return err
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
}

// The statistics of the pool, as a page of /debug/vars.
func ExampleStatsOf() {
	db, err := sql.Open("pgpooled", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	expvar.Publish("pgpooled", expvar.Func(func() any {
		s, _ := pgpooled.StatsOf(db) // db.Stats() shows leases only
		return s
	}))
}

// Is the database there? A pool that is only busy is healthy and saturated.
func ExampleCheckHealth() {
	db, err := sql.Open("pgpooled", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	h := pgpooled.CheckHealth(context.Background(), db)
	if !h.Healthy {
		log.Fatal(pgpooled.HealthReason(h.Error)) // "refused", "auth", …
	}
	fmt.Println("answered in", h.Latency, "sessions in use:", h.Pool.InUse)
}

// The same as a page: 200 or 503, and nothing on it that names the server.
func ExampleHealthHandler() {
	db, err := sql.Open("pgpooled", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	http.Handle("/health/db", pgpooled.HealthHandler(db))
}

// Eight instances at most run at a time: does the server have room for the pools
// of all of them?
func ExampleCheckCapacity() {
	db, err := sql.Open("pgpooled", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	c, err := pgpooled.CheckCapacity(context.Background(), db, 8)
	if err != nil {
		log.Fatal(err)
	}
	if !c.Fits {
		log.Print(c) // 8 × max_open_conns 20 = 160 sessions do not fit: there is room for 91 (…): set max_open_conns=11, or raise max_connections
	}
	for _, u := range c.Users {
		fmt.Println(u.Role, u.Database, u.Application, u.Sessions)
	}
}

// A program that shall not start with a wrong password, nor make its first
// caller wait for a connection.
func ExampleStatusHandler() {
	db, err := sql.Open("pgpooled", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	// For operators, as net/http/pprof: on an address that is not public.
	debug := http.NewServeMux()
	debug.Handle("/debug/pgpooled", pgpooled.StatusHandler(db))
	log.Print(http.ListenAndServe("localhost:6060", debug))
}

func ExampleWarm() {
	db, err := sql.Open("pgpooled", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	if err := pgpooled.Warm(context.Background(), db); err != nil {
		log.Fatal(err)
	}
}

// All sessions were in use, or the server was away, for as long as
// pool_timeout.
func ExamplePoolTimeoutError() {
	db, err := sql.Open("pgpooled", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	err = db.Ping()
	if errors.Is(err, pgpooled.ErrPoolTimeout) {
		var pt *pgpooled.PoolTimeoutError
		errors.As(err, &pt)
		fmt.Println("waited", pt.Waited, "in use", pt.InUse, "of", pt.Limit, "last connect error", pt.Connect)
	}
}

// A function of the program's own is called again as a whole: up to three times
// with the zero policy, the first delay is a second.
func ExampleRetry() {
	db, err := sql.Open("pgpooled", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	err = pgpooled.Retry(context.Background(), pgpooled.RetryPolicy{}, func(ctx context.Context) error {
		tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(ctx, "UPDATE accounts SET balance = balance - 10 WHERE id = 1"); err != nil {
			return err
		}
		return tx.Commit()
	})
	if err != nil {
		log.Print(err)
	}
}

// lib/pq's own functions want lib/pq's own connection.
func ExamplePQConn() {
	db, err := sql.Open("pgpooled", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	ctx := context.Background()
	conn, err := db.Conn(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close() // also removes the handler
	err = conn.Raw(func(driverConn any) error {
		pq.SetNoticeHandler(pgpooled.PQConn(driverConn), func(n *pq.Error) { log.Print(n.Message) })
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	_, _ = conn.ExecContext(ctx, "VACUUM VERBOSE orders")
}

// One DSN serves pgpooled and the tools that do not know its keys.
func ExampleConfig_PlainDSN() {
	cfg, err := pgpooled.ParseDSN("postgres://app:secret@db.example.com:5432/shop?sslmode=verify-full&max_open_conns=20&pool_timeout=5s")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("for logs:   ", cfg)
	fmt.Println("for psql:   ", cfg.PlainDSN())
	// Output:
	// for logs:    host=db.example.com:5432 user=app dbname=shop password=xxxxx sslmode=verify-full max_open_conns=20 pool_timeout=5s
	// for psql:    postgres://app:secret@db.example.com:5432/shop?sslmode=verify-full
}

// A key that is not known is an error at open, and so is a value out of range.
func ExampleDSNError() {
	_, err := sql.Open("pgpooled", "host=localhost dbname=shop max_open_cons=20")
	var bad *pgpooled.DSNError
	fmt.Println(errors.As(err, &bad), err)
	// Output: true pgpooled: DSN: parameter 3 is not a known key; did you mean max_open_conns?
}
