package main

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/pgpooled/pgpooled"
)

//go:embed migrations/*.sql
var migrations embed.FS

// prepare reaches the database and brings its schema up to date. A database that
// is away is waited for; a wrong password, or a migration that fails, ends the
// process, and whoever runs it sees that in the exit status.
func (s *service) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.startTimeout)
	defer cancel()
	policy := pgpooled.RetryPolicy{MaxAttempts: 1000, MaxDelay: 5 * time.Second, Logger: s.log}
	if err := pgpooled.Retry(ctx, policy, func(ctx context.Context) error { return pgpooled.Warm(ctx, s.db) }); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	if err := s.migrate(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// migrate takes an advisory lock, so that of several replicas that start at once
// one migrates and the others wait and find nothing to do. The lock belongs to a
// session: through a transaction pooler, migrate with a URL that goes around it.
func (s *service) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	everySecond, times := uint64(1), uint64(s.cfg.startTimeout/time.Second)
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(everySecond, max(times, 1)))
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, s.db, files, goose.WithSessionLocker(locker))
	if err != nil {
		return err
	}
	s.log.Info("migrating")
	done, err := p.Up(ctx)
	for _, m := range done {
		s.log.Info("migrated", "version", m.Source.Version, "duration", m.Duration.String())
	}
	return err
}
