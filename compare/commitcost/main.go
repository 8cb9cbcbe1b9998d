// Commitcost measures what commit_check costs a transaction of BEGIN, one INSERT
// and COMMIT: plain lib/pq, and pgpooled with commit_check off, on and ledger.
//
//	go run ./commitcost -write ../docs/commit-check.md
//
// All run in turn against the same server, many short rounds, so that what else
// the machine does meets all of them alike; what counts is the median over the
// rounds of each one's rate divided by that of "off" in the same round.
package main

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	_ "github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/docpage"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

const (
	connections = 10
	baseline    = "off"
)

// ways are what is compared.
var ways = []string{"lib/pq", baseline, "on", "ledger"}

func open(s *pgtest.Server, way string) (*sql.DB, error) {
	if way != "lib/pq" {
		return pgpooled.Open(s.DSN("commit_check", way, "max_open_conns", fmt.Sprint(connections)),
			pgpooled.WithLogger(slog.New(slog.DiscardHandler)))
	}
	db, err := sql.Open("postgres", s.DSN())
	if err == nil {
		db.SetMaxOpenConns(connections)
		db.SetMaxIdleConns(connections)
	}
	return db, err
}

// scene is a server and a number of callers.
type scene struct {
	fsync   string
	callers int
	rates   map[string][]float64 // per round, transactions per second
}

func main() {
	write := flag.String("write", "", "file whose part between the markers is replaced; empty = print only")
	rounds := flag.Int("rounds", 200, "rounds of each")
	length := flag.Duration("length", 50*time.Millisecond, "of one round")
	dir := flag.String("dir", os.TempDir(), "where the server that syncs keeps its data: a folder on a disk")
	flag.Parse()
	if err := run(context.Background(), *write, *rounds, *length, *dir); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, write string, rounds int, length time.Duration, dir string) error {
	var scenes []scene
	var version string
	trips := make(map[string]float64)
	for _, fsync := range []string{"on", "off"} {
		o := pgtest.Options{Params: map[string]string{"fsync": fsync}}
		if fsync == "on" {
			o.Dir = dir
		}
		s, err := pgtest.Start(ctx, o)
		if err != nil {
			return err
		}
		defer s.Stop()
		if err := s.Admin().QueryRowContext(ctx, "SHOW server_version").Scan(&version); err != nil {
			return err
		}
		if _, err := s.Admin().ExecContext(ctx, "CREATE TABLE orders (id bigserial PRIMARY KEY, article text)"); err != nil {
			return err
		}
		for _, way := range ways {
			if trips[way], err = roundTrips(ctx, s, way); err != nil {
				return err
			}
		}
		for _, callers := range []int{1, connections} {
			sc, err := measure(ctx, s, callers, rounds, length)
			if err != nil {
				return err
			}
			sc.fsync = fsync
			scenes = append(scenes, sc)
			fmt.Fprintf(os.Stderr, "fsync %s, %d callers: done\n", fsync, callers)
		}
		if err := s.Stop(); err != nil {
			return err
		}
	}
	text := table(scenes, trips, version, rounds, length)
	fmt.Print(text)
	if write == "" {
		return nil
	}
	return docpage.Write(write, "make commit-cost", text)
}

// measure runs all ways in turn, in another order each round.
func measure(ctx context.Context, s *pgtest.Server, callers, rounds int, length time.Duration) (scene, error) {
	sc := scene{callers: callers, rates: make(map[string][]float64)}
	dbs := make(map[string]*sql.DB)
	for _, way := range ways {
		db, err := open(s, way)
		if err != nil {
			return sc, err
		}
		defer db.Close()
		dbs[way] = db
	}
	for round := -1; round < rounds; round++ { // the first one warms up
		for i := range ways {
			way := ways[(i+round+len(ways))%len(ways)]
			rate, err := load(ctx, dbs[way], callers, length)
			if err != nil {
				return sc, fmt.Errorf("%s: %w", way, err)
			}
			if round >= 0 {
				sc.rates[way] = append(sc.rates[way], rate)
			}
		}
	}
	return sc, nil
}

// load is the transactions per second of so many callers without a pause.
func load(ctx context.Context, db *sql.DB, callers int, length time.Duration) (float64, error) {
	counts, errs := make([]int, callers), make([]error, callers)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for time.Since(start) < length && errs[i] == nil {
				errs[i] = order(ctx, db)
				counts[i]++
			}
		})
	}
	wg.Wait()
	took, n := time.Since(start), 0
	for i, err := range errs {
		if err != nil {
			return 0, err
		}
		n += counts[i]
	}
	return float64(n) / took.Seconds(), nil
}

func order(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO orders (article) VALUES ('one bicycle')"); err != nil {
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

func table(scenes []scene, trips map[string]float64, version string, rounds int, length time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nMade by `make commit-cost` on %s with PostgreSQL %s, %s, %s/%s, %d CPUs, client and server on one machine: "+
		"BEGIN, one INSERT, COMMIT; medians of %d rounds of %s, the ways in turn.\n\n",
		time.Now().Format(time.DateOnly), version, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), rounds, length)
	fmt.Fprintf(&b, "| rate of transactions, off = 1 (quartiles) | %s |\n|---|%s\n", strings.Join(ways, " | "), strings.Repeat("---|", len(ways)))
	for _, sc := range scenes {
		fmt.Fprintf(&b, "| fsync %s, %s |", sc.fsync, map[bool]string{true: "1 caller", false: fmt.Sprintf("%d callers on %d connections", sc.callers, connections)}[sc.callers == 1])
		for _, way := range ways {
			if way == baseline {
				fmt.Fprintf(&b, " 1 (%.0f per second) |", quantile(sc.rates[way], 0.5))
				continue
			}
			ratios := make([]float64, 0, rounds)
			for i, rate := range sc.rates[way] {
				ratios = append(ratios, rate/sc.rates[baseline][i])
			}
			fmt.Fprintf(&b, " %.2f (%.2f–%.2f) |", quantile(ratios, 0.5), quantile(ratios, 0.25), quantile(ratios, 0.75))
		}
		b.WriteString("\n")
	}
	b.WriteString("| round trips per transaction, counted on the wire |")
	for _, way := range ways {
		fmt.Fprintf(&b, " %.2f |", trips[way])
	}
	b.WriteString("\n\n")
	return b.String()
}

// quantile is the value below which the share q of the sorted values lies.
func quantile(v []float64, q float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[int(q*float64(len(v)-1)+0.5)]
}
