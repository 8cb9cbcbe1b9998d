package examples

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"time"

	"github.com/pgpooled/pgpooled"
)

// A program that opens its connections before it says that it is ready: its first
// callers do not wait for them, and a wrong password shows at once.
func Example_warmStart() {
	shop := newShop("min_idle_conns", "3")
	defer shop.close()
	db, err := sql.Open("pgpooled", shop.dsn)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := pgpooled.Warm(ctx, db); err != nil {
		log.Fatal(err)
	}
	stats, _ := pgpooled.StatsOf(db)
	fmt.Println("three or more are idle:", stats.Idle >= 3)

	var one int
	fmt.Println("first call:", db.QueryRow("SELECT 1").Scan(&one))
	// Output:
	// three or more are idle: true
	// first call: <nil>
}
