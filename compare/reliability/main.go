// Reliability breaks connections under plain lib/pq, pgx's stdlib and pgpooled,
// in one run and in the same ways, and writes what happened as a table.
//
//	go run ./reliability -write ../docs/reliability.md
//
// The code is that of pgpooled's own tests (internal/cutmatrix).
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/pgpooled/pgpooled/compare/internal/sidebyside"
	"github.com/pgpooled/pgpooled/internal/cutmatrix"
	"github.com/pgpooled/pgpooled/internal/docpage"
	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// totals are what one driver came to.
type totals struct {
	name     string
	cut      cutmatrix.Result
	silence  [2]cutmatrix.SilenceResult // plain, TLS
	restarts cutmatrix.RestartResult
}

func main() {
	write := flag.String("write", "", "file whose part between the markers is replaced; empty = print only")
	step := flag.Int("step", 1, "distance between two bytes at which a plain connection is cut")
	tlsStep := flag.Int("tls-step", 5, "the same under TLS")
	verbose := flag.Bool("v", false, "print each fault")
	flag.Parse()
	start := time.Now()
	var all []totals
	for _, d := range sidebyside.Drivers {
		t, err := measure(context.Background(), d, *step, *tlsStep)
		if err != nil {
			log.Fatalf("%s: %v", d.Name, err)
		}
		all = append(all, t)
		fmt.Fprintf(os.Stderr, "%s: %d calls cut, %s so far\n", d.Name, t.cut.Cuts, time.Since(start).Round(time.Second))
		if *verbose {
			for _, f := range append(t.cut.Faults, t.restarts.Faults...) {
				fmt.Fprintln(os.Stderr, "  "+f)
			}
		}
	}
	var out strings.Builder
	table(&out, all, *step, *tlsStep)
	fmt.Print(out.String())
	if *write != "" {
		if err := docpage.Write(*write, "make compare", out.String()); err != nil {
			log.Fatal(err)
		}
	}
}

func measure(ctx context.Context, d cutmatrix.Driver, step, tlsStep int) (totals, error) {
	t := totals{name: d.Name}
	s, err := pgtest.Start(ctx, pgtest.Options{TLS: true})
	if err != nil {
		return t, err
	}
	defer s.Stop()
	if t.cut, err = cuts(ctx, s, d, step, tlsStep); err != nil {
		return t, err
	}
	for i, tls := range []bool{false, true} {
		if t.silence[i], err = cutmatrix.Silence(ctx, s, d, tls); err != nil {
			return t, err
		}
	}
	t.restarts, err = cutmatrix.Restarts(ctx, s, d, false, cutmatrix.RestartModes)
	return t, err
}

// cuts runs all cells, a few at a time.
func cuts(ctx context.Context, s *pgtest.Server, d cutmatrix.Driver, step, tlsStep int) (sum cutmatrix.Result, first error) {
	type outcome struct {
		r   cutmatrix.Result
		err error
	}
	outcomes, slots, n := make(chan outcome), make(chan struct{}, 2*runtime.NumCPU()), 0
	for _, kind := range cutmatrix.Kinds() {
		if kind.Copy && d.NoCopy {
			continue
		}
		for _, tls := range []bool{false, true} {
			for _, action := range []faultnet.Action{faultnet.CutClient, faultnet.ResetClient} {
				for _, dir := range []faultnet.Direction{faultnet.ToServer, faultnet.ToClient} {
					c := cutmatrix.Cell{Kind: kind, TLS: tls, Dir: dir, Action: action, Step: step}
					if tls {
						c.Step = tlsStep
					}
					n++
					go func() {
						slots <- struct{}{}
						defer func() { <-slots }()
						r, err := cutmatrix.Run(ctx, s, d, c)
						outcomes <- outcome{r, err}
					}()
				}
			}
		}
	}
	for range n {
		o := <-outcomes
		sum.Add(o.r)
		if first == nil {
			first = o.err
		}
	}
	return sum, first
}

func table(w io.Writer, all []totals, step, tlsStep int) {
	row := func(what string, cell func(totals) string) {
		fmt.Fprintf(w, "| %s |", what)
		for _, t := range all {
			fmt.Fprintf(w, " %s |", cell(t))
		}
		fmt.Fprintln(w)
	}
	number := func(what string, n func(totals) int) {
		row(what, func(t totals) string { return fmt.Sprint(n(t)) })
	}
	fmt.Fprintf(w, "\nMade by `make compare` with %s on %s/%s, %d CPUs: plain connections cut at %s, under TLS at %s.\n\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), nth(step), nth(tlsStep))
	row("", func(t totals) string { return t.name })
	fmt.Fprintf(w, "|---|%s\n", strings.Repeat("---|", len(all)))
	row("**Connection cut**: calls, of these cut", func(t totals) string { return fmt.Sprintf("%d, %d", t.cut.Calls, t.cut.Cuts) })
	row("writes done twice (of these reported as a success)", func(t totals) string { return fmt.Sprintf("%d (%d)", t.cut.Twice, t.cut.TwiceNil) })
	number("writes reported as a success and not done", func(t totals) int { return t.cut.FalseNil })
	number("writes done, and the error says they were not", func(t totals) int { return t.cut.Lied })
	number("writes done, and the error does not say they may have been", func(t totals) int { return t.cut.FailedDone })
	number("writes whose error says that the outcome is unknown", func(t totals) int { return t.cut.Unknown })
	number("writes not done, with an error", func(t totals) int { return t.cut.Failed })
	number("reads that failed before their first row", func(t totals) int { return t.cut.NoRows })
	number("reads that ended early, with an error", func(t totals) int { return t.cut.Partial })
	number("reads that ended early or wrong, without an error", func(t totals) int { return t.cut.Short })
	number("calls that hung, pools of no use afterwards", func(t totals) int { return t.cut.Hung + t.cut.Dead })
	row("**Network silent**, context of 1 s: kinds of call that had not returned 5 s after its end, plain", late(0))
	row("the same under TLS", late(1))
	row("the slowest of the others, after the end", func(t totals) string {
		if len(t.silence[0].Late)+len(t.silence[1].Late) == t.silence[0].Kinds+t.silence[1].Kinds {
			return "none"
		}
		return max(t.silence[0].Slowest, t.silence[1].Slowest).Round(10 * time.Millisecond).String()
	})
	row("**Restarts** under 20 callers on 10 connections: restarts, reads, writes", func(t totals) string {
		return fmt.Sprintf("%d, %d, %d", t.restarts.Restarts, t.restarts.Reads, t.restarts.Writes)
	})
	number("reads that failed before their first row", func(t totals) int { return t.restarts.ReadsFailed })
	number("writes not done, with an error", func(t totals) int { return t.restarts.WritesFailed })
	number("writes done twice", func(t totals) int { return t.restarts.Doubled })
	number("writes reported as a success and lost", func(t totals) int { return t.restarts.Lost })
	number("writes done, and the error does not say so or denies it", func(t totals) int { return t.restarts.FailedDone + t.restarts.Lied })
	number("writes whose error says that the outcome is unknown", func(t totals) int { return t.restarts.Unknown })
	fmt.Fprintln(w)
}

func nth(n int) string {
	if n == 1 {
		return "every byte"
	}
	return fmt.Sprintf("one byte in %d", n)
}

func late(i int) func(totals) string {
	return func(t totals) string {
		return fmt.Sprintf("%d of %d", len(t.silence[i].Late), t.silence[i].Kinds)
	}
}
