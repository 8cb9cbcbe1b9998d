package examples

import (
	"context"
	"database/sql"
	"fmt"
	"log"

	"github.com/pgpooled/pgpooled"
)

// Two clerks sell the last bicycles at the same time. Under REPEATABLE READ the
// server refuses the second one (40001); RunTx runs it again, and it sees what is
// left by then.
func Example_runTx() {
	shop := newShop()
	defer shop.close()
	db, err := sql.Open("pgpooled", shop.dsn)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE TABLE stock (article text PRIMARY KEY, n int); INSERT INTO stock VALUES ('bicycle', 3)"); err != nil {
		log.Fatal(err)
	}

	ctx, runs := context.Background(), 0
	err = pgpooled.RunTx(ctx, db, &sql.TxOptions{Isolation: sql.LevelRepeatableRead}, func(tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, "SELECT n FROM stock WHERE article = 'bicycle'").Scan(&n); err != nil {
			return err
		}
		fmt.Println("in stock:", n)
		if runs++; runs == 1 { // the other clerk
			if _, err := db.ExecContext(ctx, "UPDATE stock SET n = n - 1"); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, "UPDATE stock SET n = $1 WHERE article = 'bicycle'", n-1)
		return err
	})
	fmt.Println("error:", err)

	var n int
	if err := db.QueryRow("SELECT n FROM stock").Scan(&n); err != nil {
		log.Fatal(err)
	}
	fmt.Println("left:", n)
	// Output:
	// in stock: 3
	// in stock: 2
	// error: <nil>
	// left: 1
}
