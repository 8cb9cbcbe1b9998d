// Failover kills a primary and promotes its standby under plain lib/pq, pgx's
// stdlib and pgpooled, in turn, with the same two hosts and the same callers, and
// writes what they saw as a table.
//
//	go run ./failover -write ../docs/reliability.md
//
// The load is that of pgpooled's own tests (internal/cutmatrix).
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pgpooled/pgpooled/compare/internal/sidebyside"
	"github.com/pgpooled/pgpooled/internal/cutmatrix"
	"github.com/pgpooled/pgpooled/internal/docpage"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// delays are how long it takes whoever watches the primary to promote the
// standby: a person at hand, and a failover manager that makes sure.
var delays = []time.Duration{0, 3 * time.Second}

// sum is what one driver came to with one delay.
type sum struct {
	cutmatrix.RestartResult
	unreplicated   int
	gaps, database []time.Duration
}

func main() {
	write := flag.String("write", "", "file whose part between the markers is replaced; empty = print only")
	rounds := flag.Int("rounds", 5, "failovers of each driver with each delay")
	verbose := flag.Bool("v", false, "print each fault")
	flag.Parse()
	sums := make([][]sum, len(delays)) // by delay and driver
	if err := measure(context.Background(), sums, *rounds, *verbose); err != nil {
		log.Fatal(err)
	}
	var out strings.Builder
	table(&out, sums)
	fmt.Print(out.String())
	if *write != "" {
		if err := docpage.Write(*write, "make failover", out.String()); err != nil {
			log.Fatal(err)
		}
	}
}

// measure runs the drivers in turn on one pair, which is made whole again after
// each failover.
func measure(ctx context.Context, sums [][]sum, rounds int, verbose bool) error {
	primary, err := pgtest.Start(ctx, pgtest.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = primary.Stop() }()
	standby, err := primary.Standby(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = standby.Stop() }()
	for i, delay := range delays {
		sums[i] = make([]sum, len(sidebyside.Drivers))
		for round := range rounds {
			for j, d := range sidebyside.Drivers {
				r, err := failOver(ctx, d, primary, standby, delay)
				if err != nil {
					return fmt.Errorf("%s: %w", d.Name, err)
				}
				sums[i][j].add(r)
				fmt.Fprintf(os.Stderr, "%s, promoted after %s, round %d: gap %s, the database %s\n", d.Name, delay, round+1, r.Gap, r.Database)
				if verbose {
					for _, f := range r.Faults {
						fmt.Fprintln(os.Stderr, "  "+f)
					}
				}
				if err := primary.Follow(ctx, standby); err != nil {
					return err
				}
				primary, standby = standby, primary
			}
		}
	}
	return nil
}

func failOver(ctx context.Context, d cutmatrix.Driver, primary, standby *pgtest.Server, delay time.Duration) (r cutmatrix.FailoverResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	app := cutmatrix.App()
	kv := append(pgtest.Hosts(primary, standby), "application_name", app, "target_session_attrs", "read-write", "connect_timeout", "5")
	db, err := d.Open(primary, cutmatrix.Connections, kv...)
	if err != nil {
		return r, err
	}
	return cutmatrix.Failover(ctx, primary, standby, delay, db, app, d.Says)
}

func (s *sum) add(r cutmatrix.FailoverResult) {
	s.Restarts += r.Restarts
	s.Reads += r.Reads
	s.ReadsFailed += r.ReadsFailed
	s.ReadsPartial += r.ReadsPartial
	s.ReadsShort += r.ReadsShort
	s.Writes += r.Writes
	s.WritesFailed += r.WritesFailed
	s.Unknown += r.Unknown
	s.Lost += r.Lost
	s.Doubled += r.Doubled
	s.FailedDone += r.FailedDone + r.Lied
	s.unreplicated += r.Unreplicated
	s.gaps = append(s.gaps, r.Gap)
	s.database = append(s.database, r.Database)
}

func table(w io.Writer, sums [][]sum) {
	fmt.Fprintf(w, "\nMade by `make failover` with %s on %s/%s, %d CPUs.\n\n|  |", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	for _, d := range sidebyside.Drivers {
		fmt.Fprintf(w, " %s |", d.Name)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", len(sidebyside.Drivers)))
	for i, delay := range delays {
		row := func(what string, cell func(sum) string) {
			fmt.Fprintf(w, "| %s |", what)
			for _, s := range sums[i] {
				fmt.Fprintf(w, " %s |", cell(s))
			}
			fmt.Fprintln(w)
		}
		number := func(what string, n func(sum) int) { row(what, func(s sum) string { return fmt.Sprint(n(s)) }) }
		when := "at once"
		if delay > 0 {
			when = "after " + delay.String()
		}
		row("**Promoted "+when+"**: failovers, reads, writes", func(s sum) string { return fmt.Sprintf("%d, %d, %d", s.Restarts, s.Reads, s.Writes) })
		number("reads that failed before their first row", func(s sum) int { return s.ReadsFailed })
		number("reads that ended early, with an error", func(s sum) int { return s.ReadsPartial })
		number("reads that ended early, without an error", func(s sum) int { return s.ReadsShort })
		number("writes not done, with an error", func(s sum) int { return s.WritesFailed })
		number("writes whose error says that the outcome is unknown", func(s sum) int { return s.Unknown })
		number("writes done, and the error does not say so or denies it", func(s sum) int { return s.FailedDone })
		number("writes done twice", func(s sum) int { return s.Doubled })
		number("writes confirmed, and on the old primary only: not replicated", func(s sum) int { return s.unreplicated })
		number("writes reported as a success and lost otherwise", func(s sum) int { return s.Lost })
		row("longest time that one caller had no success: median, worst", func(s sum) string { return spread(s.gaps) })
		row("what the database itself needed: median, worst", func(s sum) string { return spread(s.database) })
	}
	fmt.Fprintln(w)
}

func spread(d []time.Duration) string {
	d = slices.Sorted(slices.Values(d))
	return fmt.Sprintf("%s, %s", d[len(d)/2].Round(10*time.Millisecond), d[len(d)-1].Round(10*time.Millisecond))
}
