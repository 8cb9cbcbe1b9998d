package compat

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
	"github.com/riverqueue/river/rivermigrate"
)

type billArgs struct {
	Customer int `json:"customer"`
	Cents    int `json:"cents"`
}

// Kind is the name of the job.
func (billArgs) Kind() string { return "bill" }

type biller struct {
	river.WorkerDefaults[billArgs]
	db *sql.DB
}

// Work writes its effect and the job's end in one transaction.
func (b *biller) Work(ctx context.Context, job *river.Job[billArgs]) error {
	if job.Args.Cents < 0 {
		return errors.New("a negative bill")
	}
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, "INSERT INTO bills (customer, cents) VALUES ($1, $2)", job.Args.Customer, job.Args.Cents); err != nil {
		return err
	}
	if _, err := river.JobCompleteTx[*riverdatabasesql.Driver](ctx, tx, job); err != nil {
		return err
	}
	return tx.Commit()
}

// River over database/sql has no listener: it polls, by default once a second,
// which FetchPollInterval shortens here.
func TestRiver(t *testing.T) {
	both(t, func(t *testing.T, s *side) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // only a hang is this slow
		defer cancel()
		db := s.open(t)
		_, err := db.Exec("CREATE TABLE bills (customer int, cents int)")
		must(t, err)
		drv := riverdatabasesql.New(db)
		migrator, err := rivermigrate.New(drv, &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
		must(t, err)
		done, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
		must(t, err)
		s.see("migrated", len(done.Versions))
		again, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
		must(t, err)
		s.see("nothing left", len(again.Versions))

		workers := river.NewWorkers()
		river.AddWorker(workers, &biller{db: db})
		client, err := river.NewClient(drv, &river.Config{
			Logger:            slog.New(slog.DiscardHandler),
			Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 3}},
			Workers:           workers,
			FetchCooldown:     5 * time.Millisecond,
			FetchPollInterval: 20 * time.Millisecond,
		})
		must(t, err)

		one, err := client.Insert(ctx, billArgs{1, 100}, nil)
		must(t, err)
		s.see("inserted", one.Job.Kind, string(one.Job.State), string(one.Job.EncodedArgs))
		bad, err := client.Insert(ctx, billArgs{2, -1}, &river.InsertOpts{MaxAttempts: 1})
		must(t, err)
		many, err := client.InsertMany(ctx, []river.InsertManyParams{{Args: billArgs{3, 300}}, {Args: billArgs{4, 400}}})
		must(t, err)
		s.see("many", len(many))
		only := &river.InsertOpts{UniqueOpts: river.UniqueOpts{ByArgs: true}}
		for range 2 {
			res, err := client.Insert(ctx, billArgs{5, 500}, only)
			must(t, err)
			s.see("unique", res.UniqueSkippedAsDuplicate)
		}
		for _, end := range []func(*sql.Tx) error{(*sql.Tx).Rollback, (*sql.Tx).Commit} {
			tx, err := db.BeginTx(ctx, nil)
			must(t, err)
			_, err = client.InsertTx(ctx, tx, billArgs{6, 600}, nil)
			must(t, err)
			s.see("in a transaction", end(tx))
		}

		must(t, client.Start(ctx))
		within(t, "every job has ended", func() bool {
			var open int
			return db.QueryRow("SELECT count(*) FROM river_job WHERE finalized_at IS NULL").Scan(&open) == nil && open == 0
		})
		must(t, client.Stop(ctx))

		failed, err := client.JobGet(ctx, bad.Job.ID)
		must(t, err)
		s.see("failed", string(failed.State), failed.Attempt, failed.Errors[0].Error)
		rows, err := db.Query("SELECT state, attempt, args::text FROM river_job ORDER BY args::text")
		s.result("jobs", rows, err)
		rows, err = db.Query("SELECT * FROM bills ORDER BY customer")
		s.result("bills", rows, err)
	})
}
