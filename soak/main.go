// Soak runs a mixed load on pgpooled for a long time, breaks what is below it at
// random, and fails if a promise is broken or if something grows.
//
//	go run . -duration 1h -write ../docs/soak.md
//
// Thirty callers share two pools, one plain and one under TLS, each behind a
// proxy, on a throwaway PostgreSQL. See docs/soak.md.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/pgpooled/pgpooled/internal/docpage"
)

func main() {
	var cfg config
	flag.DurationVar(&cfg.Duration, "duration", time.Hour, "how long; 20s is the shortest that makes every fault")
	flag.IntVar(&cfg.Callers, "callers", 30, "callers, each with one call at a time")
	flag.IntVar(&cfg.Limit, "limit", 10, "max_open_conns of each of the two pools")
	flag.DurationVar(&cfg.Think, "think", 200*time.Millisecond, "mean pause of a caller before each call")
	flag.Uint64Var(&cfg.Seed, "seed", 0, "seed of the faults and of the callers; 0 = by the clock")
	flag.StringVar(&cfg.CommitCheck, "commit-check", "off", "commit_check of the pools; other than off, the fate of each lost COMMIT has to be found out")
	flag.BoolVar(&cfg.NoFaults, "no-faults", false, "load without faults")
	flag.DurationVar(&cfg.Leak, "leak", 0, "leak a goroutine this often: the run has to fail")
	jsonFile := flag.String("json", "", "file for all figures; empty = none")
	svgFile := flag.String("svg", "", "file for the plot; empty = none")
	write := flag.String("write", "", "page whose part between the marks is replaced, with the plot as img/soak.svg beside it; empty = print only")
	flag.Parse()
	log.SetFlags(0)
	if cfg.Duration < 10*time.Second || cfg.Callers < 1 || cfg.Limit < 1 || flag.NArg() > 0 {
		log.Fatal("soak: -duration is at least 10s, -callers and -limit at least 1, and there are no arguments")
	}
	if cfg.Seed == 0 {
		cfg.Seed = uint64(time.Now().UnixNano())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	fmt.Printf("soak: %s, seed %d\n", short(cfg.Duration), cfg.Seed)
	res, err := soak(ctx, cfg, func(line string) { fmt.Fprintln(os.Stderr, line) })
	if err != nil {
		log.Fatalf("soak: %v", err)
	}
	res.print(os.Stdout)
	if err := save(res, *jsonFile, *svgFile, *write); err != nil {
		log.Fatalf("soak: %v", err)
	}
	if ctx.Err() != nil {
		log.Fatalf("soak: interrupted after %.0f s", res.Seconds)
	}
	if !res.passed() {
		log.Fatalf("soak: FAIL (seed %d)", cfg.Seed)
	}
	fmt.Println("soak: PASS")
}

func save(res *result, jsonFile, svgFile, page string) error {
	if page != "" {
		if err := put(filepath.Join(filepath.Dir(page), filepath.FromSlash(picture())), []byte(plot(res))); err != nil {
			return err
		}
		if err := docpage.Write(page, "make soak", res.page(res.Server, picture())); err != nil {
			return err
		}
	}
	if svgFile != "" {
		if err := put(svgFile, []byte(plot(res))); err != nil {
			return err
		}
	}
	if jsonFile == "" {
		return nil
	}
	b, err := json.MarshalIndent(res, "", "\t")
	if err != nil {
		return err
	}
	return put(jsonFile, append(b, '\n'))
}

func put(file string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}
