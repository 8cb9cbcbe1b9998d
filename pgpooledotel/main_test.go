package pgpooledotel_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

var (
	server *pgtest.Server
	update = flag.Bool("update", false, "write testdata/metrics.txt")
)

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if server, err = pgtest.Start(context.Background(), pgtest.Options{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := server.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
