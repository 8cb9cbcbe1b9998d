package examples

import (
	"context"
	"database/sql"
	"fmt"
	"log"

	"github.com/jmoiron/sqlx"

	"github.com/pgpooled/pgpooled"
)

// sqlx does not know which placeholders a new driver has.
func init() { sqlx.BindDriver("pgpooled", sqlx.DOLLAR) }

type order struct {
	ID      int
	Article string
}

// The answer to COMMIT is lost. With commit_check in the DSN sqlx's own Commit
// returns nil: the order is there.
func Example_sqlxLostCommit() {
	shop := newShop("commit_check", "ledger")
	defer shop.close()
	db := sqlx.MustOpen("pgpooled", shop.dsn)
	defer db.Close()
	db.MustExec("CREATE TABLE orders (id int, article text)")

	tx := db.MustBegin()
	if _, err := tx.NamedExec("INSERT INTO orders VALUES (:id, :article)", order{4711, "one bicycle"}); err != nil {
		log.Fatal(err)
	}
	shop.network.LoseAnswer()
	fmt.Println("commit:", tx.Commit())
	stats, _ := pgpooled.StatsOf(db.DB)
	fmt.Println("lost and found to be committed:", stats.LostCommitted)

	var orders []order
	if err := db.Select(&orders, db.Rebind("SELECT * FROM orders WHERE id = ?"), 4711); err != nil {
		log.Fatal(err)
	}
	fmt.Println(orders)
	// Output:
	// commit: <nil>
	// lost and found to be committed: 1
	// [{4711 one bicycle}]
}

// RunTx gives a *sql.Tx; sqlx.Tx around it has sqlx's methods. Such a Tx does not
// know its driver, so a text with names or question marks is bound by db.
func Example_sqlxRunTx() {
	shop := newShop("commit_check", "ledger")
	defer shop.close()
	db := sqlx.MustOpen("pgpooled", shop.dsn)
	defer db.Close()
	db.MustExec("CREATE TABLE orders (id int, article text)")

	attempts := 0
	err := pgpooled.RunTx(context.Background(), db.DB, nil, func(sqltx *sql.Tx) error {
		tx := &sqlx.Tx{Tx: sqltx, Mapper: db.Mapper}
		text, args, err := db.BindNamed("INSERT INTO orders VALUES (:id, :article)", order{4711, "one bicycle"})
		if err != nil {
			return err
		}
		if _, err := tx.Exec(text, args...); err != nil {
			return err
		}
		var inserted order
		if err := tx.Get(&inserted, "SELECT * FROM orders WHERE id = $1", 4711); err != nil {
			return err
		}
		if attempts++; attempts == 1 {
			shop.network.LoseMessage() // COMMIT does not arrive
		}
		return nil
	})
	fmt.Println("error:", err, "attempts:", attempts)

	var n int
	if err := db.Get(&n, "SELECT count(*) FROM orders"); err != nil {
		log.Fatal(err)
	}
	fmt.Println("orders:", n)
	// Output:
	// error: <nil> attempts: 2
	// orders: 1
}
