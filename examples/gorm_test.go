package examples

import (
	"context"
	"database/sql"
	"fmt"
	"log"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/pgpooled/pgpooled"
)

// Order is a GORM model.
type Order struct {
	ID      int
	Article string
}

func openGORM(dsn string) (db *gorm.DB, done func()) {
	db, err := gorm.Open(postgres.New(postgres.Config{DriverName: "pgpooled", DSN: dsn}), &gorm.Config{Logger: logger.Discard})
	if err != nil {
		log.Fatal(err)
	}
	pool, err := db.DB()
	if err != nil {
		log.Fatal(err)
	}
	if err := db.AutoMigrate(&Order{}); err != nil {
		log.Fatal(err)
	}
	return db, func() { _ = pool.Close() }
}

// The answer to COMMIT is lost. With commit_check in the DSN GORM's Transaction
// returns nil: the order is there.
func Example_gormLostCommit() {
	shop := newShop("commit_check", "ledger")
	defer shop.close()
	db, done := openGORM(shop.dsn)
	defer done()

	err := db.Transaction(func(tx *gorm.DB) error {
		if err := tx.Create(&Order{ID: 4711, Article: "one bicycle"}).Error; err != nil {
			return err
		}
		shop.network.LoseAnswer()
		return nil
	})
	fmt.Println("transaction:", err)
	pool, err := db.DB()
	if err != nil {
		log.Fatal(err)
	}
	stats, _ := pgpooled.StatsOf(pool)
	fmt.Println("lost and found to be committed:", stats.LostCommitted)

	var orders []Order
	if err := db.Find(&orders, "id = ?", 4711).Error; err != nil {
		log.Fatal(err)
	}
	fmt.Println(orders)
	// Output:
	// transaction: <nil>
	// lost and found to be committed: 1
	// [{4711 one bicycle}]
}

// RunTx gives a *sql.Tx; GORM takes it as the connection of a gorm.DB that lives
// as long as the transaction.
func Example_gormRunTx() {
	shop := newShop("commit_check", "ledger")
	defer shop.close()
	db, done := openGORM(shop.dsn)
	defer done()
	pool, err := db.DB()
	if err != nil {
		log.Fatal(err)
	}

	attempts := 0
	ctx := context.Background()
	err = pgpooled.RunTx(ctx, pool, nil, func(sqltx *sql.Tx) error {
		tx, err := gorm.Open(postgres.New(postgres.Config{DriverName: "pgpooled", Conn: sqltx}), &gorm.Config{Logger: logger.Discard})
		if err != nil {
			return err
		}
		if err := tx.WithContext(ctx).Create(&Order{ID: 4711, Article: "one bicycle"}).Error; err != nil {
			return err
		}
		if attempts++; attempts == 1 {
			shop.network.LoseMessage() // COMMIT does not arrive
		}
		return nil
	})
	fmt.Println("error:", err, "attempts:", attempts)

	var n int64
	if err := db.Model(&Order{}).Count(&n).Error; err != nil {
		log.Fatal(err)
	}
	fmt.Println("orders:", n)
	// Output:
	// error: <nil> attempts: 2
	// orders: 1
}
