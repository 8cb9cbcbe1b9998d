// Bench measures pgpooled beside plain lib/pq, pgx and, as the limit, pgbench,
// on a throwaway PostgreSQL and in one run: the rivals take turns, each for a
// short while, several times over, and what counts is the ratio within a round.
//
//	go run . -write ../docs/benchmarks.md
//	go run . -only 'select*,tx' -rounds 3
//	go run . -only select -time 5s -profile /tmp/profiles
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/pgpooled/pgpooled/internal/docpage"
)

func main() {
	if runProxy() {
		return
	}
	cfg := config{crowd: 10_000, latency: 2 * time.Millisecond}
	flag.IntVar(&cfg.rounds, "rounds", 5, "how often each rival is measured at each work")
	flag.DurationVar(&cfg.time, "time", 700*time.Millisecond, "length of one measurement")
	flag.IntVar(&cfg.callers, "callers", 50, "callers of the works that have several")
	flag.IntVar(&cfg.conns, "conns", 10, "connections of each pool")
	only := flag.String("only", "", "names of works, with * for any text, separated by commas; empty = all. -list shows them")
	among := flag.String("rivals", "", "names of rivals, separated by commas; empty = all")
	list := flag.Bool("list", false, "print the names of works and rivals")
	jsonFile := flag.String("json", "", "file for all figures of all rounds")
	write := flag.String("write", "", "Markdown file whose part between the markers is replaced; the plots go into img beside it")
	profileDir := flag.String("profile", "", "folder for a CPU and an allocation profile of pgpooled (or of -rivals) at each work; nothing else is measured")
	flag.Parse()
	cfg.only, cfg.rivals = split(*only), split(*among)
	cfg.log = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	if *list {
		names(os.Stdout, cfg)
		return
	}
	if *profileDir != "" {
		runtime.MemProfileRate = 0
	}
	if err := run(context.Background(), cfg, *jsonFile, *write, *profileDir); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, cfg config, jsonFile, write, profileDir string) error {
	b, err := newBench(ctx, cfg)
	if err != nil {
		return err
	}
	defer b.close()
	if profileDir != "" {
		return b.profile(ctx, profileDir)
	}
	rep := &report{Command: command()}
	if err := b.describe(ctx, rep); err != nil {
		return err
	}
	if err := b.all(ctx, rep); err != nil {
		return err
	}
	var out strings.Builder
	rep.markdown(&out)
	fmt.Print(out.String())
	if jsonFile != "" {
		if err := rep.writeJSON(jsonFile); err != nil {
			return err
		}
	}
	if write == "" {
		return nil
	}
	if err := docpage.Write(write, "make bench", out.String()); err != nil {
		return err
	}
	return rep.plots(filepath.Join(filepath.Dir(write), "img"))
}

// command is what made the figures; make calls it as the documentation has it.
func command() string {
	if c := os.Getenv("PGPOOLED_TEST_BENCH_COMMAND"); c != "" {
		return c
	}
	return strings.TrimSpace("go run . " + strings.Join(os.Args[1:], " "))
}

func split(list string) []string {
	var out []string
	for s := range strings.SplitSeq(list, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

func names(w *os.File, cfg config) {
	for _, x := range works(cfg.callers, cfg.conns) {
		fmt.Fprintf(w, "%-20s %s, %s\n", x.name, x.what, count(x.callers, "caller"))
	}
	for _, x := range (&bench{cfg: cfg, proxy: &proxy{}}).specials() {
		fmt.Fprintf(w, "%-20s %s\n", x.name, x.what)
	}
	for _, x := range curves(cfg) {
		fmt.Fprintf(w, "%-20s %s\n", x.name, x.what)
	}
	fmt.Fprintln(w)
	for _, r := range rivals {
		fmt.Fprintf(w, "%-20s %s\n", r.name, r.what)
	}
	fmt.Fprintf(w, "%-20s %s\n", limit, "PostgreSQL's own load tool, with prepared statements: the limit")
}
