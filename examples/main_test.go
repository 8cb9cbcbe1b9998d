package examples

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"testing"

	"github.com/pgpooled/pgpooled/pgpooledtest"
)

// server has a password, which one of the examples changes.
var server *pgpooledtest.Server

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // pgpooled tells of each lost COMMIT
	var err error
	if server, err = pgpooledtest.New(context.Background(), pgpooledtest.WithPassword("first")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := server.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// shop is an empty database behind a network of its own. It has a test's methods
// that pgpooledtest asks for, which an Example has not.
type shop struct {
	dsn     string
	network *pgpooledtest.Proxy
	ends    []func()
}

func newShop(kv ...string) *shop {
	s := &shop{}
	s.network = server.Proxy(s)
	s.dsn = server.Database(s, s.network.Via(kv...)...)
	return s
}

func (s *shop) Helper()                           {}
func (s *shop) Logf(format string, args ...any)   { log.Printf(format, args...) }
func (s *shop) Fatalf(format string, args ...any) { log.Fatalf(format, args...) }
func (s *shop) Cleanup(f func())                  { s.ends = append(s.ends, f) }

func (s *shop) close() {
	for i := len(s.ends) - 1; i >= 0; i-- {
		s.ends[i]()
	}
}
