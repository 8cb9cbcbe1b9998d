package pgpooledtest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/pgpooledtest"
)

// exampleT stands in for a test's t, which Examples do not have.
type exampleT struct{ ends []func() }

func (*exampleT) Helper()                           {}
func (*exampleT) Logf(format string, args ...any)   { log.Printf(format, args...) }
func (*exampleT) Fatalf(format string, args ...any) { log.Fatalf(format, args...) }
func (t *exampleT) Cleanup(f func())                { t.ends = append(t.ends, f) }
func (t *exampleT) end() {
	for i := len(t.ends) - 1; i >= 0; i-- {
		t.ends[i]()
	}
}

// A test of what a program does when the answer to its INSERT is lost.
func Example() {
	t := &exampleT{} // in a test: its own t
	defer t.end()

	s := pgpooledtest.Start(t)
	network := s.Proxy(t)
	db, err := sql.Open("pgpooled", s.Database(t, network.Via("max_open_conns", "2")...))
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE TABLE orders (id int)"); err != nil {
		t.Fatalf("%v", err)
	}

	network.LoseAnswer()
	_, err = db.Exec("INSERT INTO orders VALUES (4711)")
	var unknown *pgpooled.OutcomeUnknownError
	fmt.Println("unknown:", errors.As(err, &unknown))

	var n int
	if err := db.QueryRow("SELECT count(*) FROM orders").Scan(&n); err != nil {
		t.Fatalf("%v", err)
	}
	fmt.Println("rows:", n)
	// Output:
	// unknown: true
	// rows: 1
}

// A restart is invisible to calls that begin after it.
func ExampleServer_Restart() {
	t := &exampleT{}
	defer t.end()

	s := pgpooledtest.Start(t)
	db, err := sql.Open("pgpooled", s.Database(t))
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer db.Close()
	fmt.Println("before:", db.Ping())
	if err := s.Restart(context.Background(), pgpooledtest.Fast); err != nil {
		t.Fatalf("%v", err)
	}
	fmt.Println("after: ", db.Ping())
	// Output:
	// before: <nil>
	// after:  <nil>
}
