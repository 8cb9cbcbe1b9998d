package examples

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

// The password is in a file that somebody else renews: a mounted secret, or
// Vault's agent. Each new connection reads it; the DSN has none.
func Example_rotatingCredentials() {
	shop := newShop("password", "")
	defer shop.close()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "password")
	rotate := func(password string) { // what the administrator does
		if _, err := server.Admin().Exec("ALTER ROLE postgres PASSWORD " + pq.QuoteLiteral(password)); err != nil {
			log.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			log.Fatal(err)
		}
	}
	defer rotate("first")
	rotate("first")

	c, err := pgpooled.NewConnector(shop.dsn, pgpooled.WithBeforeConnect(func(_ context.Context, cfg *pq.Config) error {
		password, err := os.ReadFile(file)
		cfg.Password = strings.TrimSpace(string(password))
		return err
	}))
	if err != nil {
		log.Fatal(err)
	}
	db := sql.OpenDB(c)
	defer db.Close()
	fmt.Println("with the first password:", db.Ping())

	rotate("second")
	fmt.Println("a session that is open lives on:", db.Ping(), c.Stats().Opens)
	c.Refresh() // on SIGHUP, say: idle sessions go now, those in use when they come back
	fmt.Println("with the second password:", db.Ping(), c.Stats().Opens)
	// Output:
	// with the first password: <nil>
	// a session that is open lives on: <nil> 1
	// with the second password: <nil> 2
}
