package pgpooledotel_test

import (
	"flag"
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
	os.Exit(pgtest.Main(m, &server))
}
