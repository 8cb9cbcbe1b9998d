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

// exampleAccounts are two accounts behind a network that can be told to break.
func exampleAccounts(kv ...string) (db *sql.DB, proxy *faultnet.Proxy, done func()) {
	dbname, drop, err := server.CreateDatabase(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	proxy, err = faultnet.New(server.Addr())
	if err != nil {
		log.Fatal(err)
	}
	db, err = pgpooled.Open(server.DSN(append([]string{"host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "dbname", dbname, "application_name", app()}, kv...)...), quiet)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := db.Exec("create table accounts (id int primary key, cents int); insert into accounts values (1, 1000), (2, 1000)"); err != nil {
		log.Fatal(err)
	}
	return db, proxy, func() { _ = db.Close(); _ = proxy.Close(); drop() }
}

func exampleMove(ctx context.Context, tx *sql.Tx, cents int) error {
	if _, err := tx.ExecContext(ctx, "update accounts set cents = cents - $1 where id = 1", cents); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, "update accounts set cents = cents + $1 where id = 2", cents)
	return err
}

func exampleCents(db *sql.DB) (a, b int) {
	err := db.QueryRow("select (select cents from accounts where id = 1), (select cents from accounts where id = 2)").Scan(&a, &b)
	if err != nil {
		log.Fatal(err)
	}
	return a, b
}

// RunTx runs the function again when its transaction was rolled back for a reason
// that can pass. Here the connection breaks before COMMIT is there.
func ExampleRunTx() {
	db, proxy, done := exampleAccounts()
	defer done()

	ctx, runs := context.Background(), 0
	err := pgpooled.RunTx(ctx, db, &sql.TxOptions{Isolation: sql.LevelSerializable}, func(tx *sql.Tx) error {
		if err := exampleMove(ctx, tx, 250); err != nil {
			return err
		}
		if runs++; runs == 1 {
			proxy.Arm(faultnet.ToServer, 10, faultnet.CutBoth)
		}
		return nil
	})
	fmt.Println("error:", err, "runs:", runs)
	fmt.Println(exampleCents(db))
	// Output:
	// error: <nil> runs: 2
	// 750 1250
}

// exampleLoseCommit returns a function after which the next COMMIT loses its
// answer, 18 bytes: all that Commit is answered is as long as in a transaction
// before.
func exampleLoseCommit(ctx context.Context, db *sql.DB, proxy *faultnet.Proxy) func() {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := exampleMove(ctx, tx, 0); err != nil {
		log.Fatal(err)
	}
	before := counted(proxy, faultnet.ToClient)
	if err := tx.Commit(); err != nil {
		log.Fatal(err)
	}
	answer := counted(proxy, faultnet.ToClient) - before
	return func() { proxy.Arm(faultnet.ToClient, answer-9, faultnet.CutClient) }
}

// The answer to COMMIT is lost. Commit asks another session what became of it.
func ExampleWithCommitCheck() {
	db, proxy, done := exampleAccounts()
	defer done()

	ctx := pgpooled.WithCommitCheck(context.Background()) // or commit_check=on in the DSN
	loseTheAnswer := exampleLoseCommit(ctx, db, proxy)

	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Rollback()
	if err := exampleMove(ctx, tx, 250); err != nil {
		log.Fatal(err)
	}
	loseTheAnswer()
	fmt.Println("error:", tx.Commit())

	stats, _ := pgpooled.StatsOf(db)
	fmt.Println("lost and found to be committed:", stats.LostCommitted)
	fmt.Println(exampleCents(db))
	// Output:
	// error: <nil>
	// lost and found to be committed: 1
	// 750 1250
}

// Commit could not wait: the context ended while the network was silent. Whoever
// has time asks again.
func ExampleOutcomeUnknownError_Resolve() {
	db, proxy, done := exampleAccounts("commit_check", "ledger", "cancel_grace", "50ms")
	defer done()

	ctx, cancel := context.WithCancel(context.Background())
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := exampleMove(ctx, tx, 250); err != nil {
		log.Fatal(err)
	}
	fired := proxy.Fired()
	proxy.Arm(faultnet.ToClient, 0, faultnet.Stall) // COMMIT arrives, its answer does not
	go func() {
		_ = proxy.AwaitFired(context.Background(), fired+1)
		proxy.Freeze()
		cancel()
	}()
	err = tx.Commit()
	fmt.Println("cancelled:", errors.Is(err, context.Canceled))

	proxy.Thaw() // the network is back
	var unknown *pgpooled.OutcomeUnknownError
	if errors.As(err, &unknown) {
		committed, err := unknown.Resolve(context.Background())
		fmt.Println("committed:", committed, err)
	}
	fmt.Println(exampleCents(db))
	// Output:
	// cancelled: true
	// committed: true <nil>
	// 750 1250
}
