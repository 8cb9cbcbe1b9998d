package examples

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

var server *pgtest.Server

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // pgpooled tells of each lost COMMIT
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

// shop is an empty database behind a network of its own.
type shop struct {
	dsn   string
	proxy *faultnet.Proxy
	drop  func()
}

func newShop() *shop {
	name, drop, err := server.CreateDatabase(context.Background())
	if err != nil {
		panic(err)
	}
	proxy, err := faultnet.New(server.Addr())
	if err != nil {
		panic(err)
	}
	dsn := server.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "dbname", name, "commit_check", "ledger")
	return &shop{dsn: dsn, proxy: proxy, drop: drop}
}

func (s *shop) close() {
	_ = s.proxy.Close()
	s.drop()
}

// loseTheAnswer: what is sent next arrives, its answer does not.
func (s *shop) loseTheAnswer() { s.proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient) }

// loseTheMessage: only the first bytes of what is sent next arrive.
func (s *shop) loseTheMessage() { s.proxy.Arm(faultnet.ToServer, 10, faultnet.CutBoth) }
