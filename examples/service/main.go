// Command service is an HTTP service on pgpooled as one would run it: accounts
// and transfers between them, with migrations at start, probes, metrics,
// structured logs and a shutdown that drops nothing. README.md has the tour.
package main

import (
	"context"
	"expvar"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/pgpooled/pgpooled"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Getenv, os.Stdout))
}

// run returns the exit status: 0 after a clean shutdown, 1 if the service could
// not start or had to cut something, 2 if its configuration is wrong.
func run(ctx context.Context, getenv func(string) string, out io.Writer) int {
	cfg, err := loadConfig(getenv)
	log := slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: cfg.logLevel}))
	if err != nil {
		log.Error("configuration", "error", err.Error())
		return 2
	}
	db, err := pgpooled.Open(cfg.databaseURL, pgpooled.WithLogger(log))
	if err != nil {
		log.Error("DATABASE_URL or a PGPOOLED_ variable", "error", err.Error()) // names the key, not its value
		return 2
	}
	s := newService(cfg, db, log)
	expvar.Publish("pgpooled", expvar.Func(func() any {
		stats, _ := pgpooled.StatsOf(db)
		return stats
	}))
	expvar.Publish("requests", s.requests)
	if err := s.serve(ctx); err != nil {
		log.Error("ended", "error", err.Error())
		return 1
	}
	log.Info("ended")
	return 0
}
