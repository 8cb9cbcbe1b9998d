// Twice shows how plain lib/pq under database/sql turns one INSERT into two
// rows, and what pgpooled makes of the same moment.
//
//	go run ./twice
//
// It starts a throwaway PostgreSQL and puts a proxy in front of it. The proxy
// lets the INSERT through and ends the connection when the answer comes, as a
// load balancer does that is restarted at the wrong moment.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log"
	"os"

	_ "github.com/lib/pq"

	_ "github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	server, err := pgtest.Start(ctx, pgtest.Options{})
	if err != nil {
		return err
	}
	defer server.Stop()
	for _, driver := range []string{"postgres", "pgpooled"} { // lib/pq calls itself postgres
		rows, told, err := insertOnce(ctx, server, driver)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: one db.Exec(\"INSERT ...\"), the answer is lost\n", driver)
		fmt.Fprintf(out, "  the program was told: %v\n", told)
		fmt.Fprintf(out, "  rows in the table:    %d\n", rows)
	}
	return nil
}

// insertOnce makes one INSERT whose answer is lost.
func insertOnce(ctx context.Context, server *pgtest.Server, driver string) (rows int, told, err error) {
	admin := server.Admin()
	if _, err := admin.ExecContext(ctx, "DROP TABLE IF EXISTS orders; CREATE TABLE orders (article text)"); err != nil {
		return 0, nil, err
	}
	proxy, err := faultnet.New(server.Addr())
	if err != nil {
		return 0, nil, err
	}
	defer proxy.Close()
	db, err := sql.Open(driver, server.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "application_name", "twice"))
	if err != nil {
		return 0, nil, err
	}
	defer db.Close()
	if err := db.PingContext(ctx); err != nil {
		return 0, nil, err
	}

	proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	_, told = db.ExecContext(ctx, "INSERT INTO orders VALUES ('one bicycle')")

	if err := db.Close(); err != nil {
		return 0, nil, err
	}
	if err := server.AwaitSessions(ctx, "twice", 0); err != nil {
		return 0, nil, err
	}
	err = admin.QueryRowContext(ctx, "SELECT count(*) FROM orders").Scan(&rows)
	return rows, told, err
}
