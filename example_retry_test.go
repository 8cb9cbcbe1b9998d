package pgpooled_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// exampleOrders is a table of orders behind a network that loses the next
// answer.
func exampleOrders() (db *sql.DB, loseTheNextAnswer, done func()) {
	proxy, err := faultnet.New(server.Addr())
	if err != nil {
		log.Fatal(err)
	}
	db, err = pgpooled.Open(server.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "application_name", app()), quiet)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := server.Admin().Exec("drop table if exists example_orders; create table example_orders (key text primary key, article text)"); err != nil {
		log.Fatal(err)
	}
	if err := db.Ping(); err != nil {
		log.Fatal(err)
	}
	return db, func() { proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient) }, func() { _ = db.Close(); _ = proxy.Close() }
}

// An INSERT whose answer is lost is not repeated: the order may be there. A key
// that the program chose itself tells.
func ExampleOutcomeUnknownError_aKeyOfOnesOwn() {
	db, loseTheNextAnswer, done := exampleOrders()
	defer done()
	ctx := context.Background()

	loseTheNextAnswer()
	_, err := db.ExecContext(ctx, "insert into example_orders values ($1, $2)", "order-4711", "one bicycle")

	var unknown *pgpooled.OutcomeUnknownError
	if errors.As(err, &unknown) {
		fmt.Println("it may have been done:", unknown.Op)
		// The key makes asking, and trying again, safe.
		_, err = db.ExecContext(ctx, "insert into example_orders values ($1, $2) on conflict (key) do nothing", "order-4711", "one bicycle")
	}
	if err != nil {
		log.Fatal(err)
	}
	var n int
	if err := db.QueryRowContext(ctx, "select count(*) from example_orders").Scan(&n); err != nil {
		log.Fatal(err)
	}
	fmt.Println("orders:", n)
	// Output:
	// it may have been done: exec
	// orders: 1
}

// A statement whose second run changes nothing may be repeated by pgpooled, if
// the program says so.
func ExampleWithIdempotent_lostAnswer() {
	db, loseTheNextAnswer, done := exampleOrders()
	defer done()

	ctx := pgpooled.WithIdempotent(context.Background())
	loseTheNextAnswer()
	_, err := db.ExecContext(ctx, "insert into example_orders values ('order-4712', 'a bell') on conflict (key) do nothing")
	fmt.Println("error:", err)

	var n int
	if err := db.QueryRow("select count(*) from example_orders").Scan(&n); err != nil {
		log.Fatal(err)
	}
	fmt.Println("orders:", n)
	// Output:
	// error: <nil>
	// orders: 1
}
