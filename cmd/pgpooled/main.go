// Command pgpooled shows and measures the pgpooled driver.
//
//	pgpooled help
//	pgpooled demo [flags]
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit statuses. exitFailed is also what a criterion that is not met gives.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// command is a subcommand, in a file of its own. run gets what follows the
// name and returns the exit status.
type command struct {
	name  string
	about string
	run   func(ctx context.Context, args []string, out, errOut io.Writer) int
}

var commands = []command{
	{"demo", "see the pool work on a throwaway PostgreSQL, with a verdict at the end", demo},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process
	status := dispatch(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

func dispatch(ctx context.Context, args []string, out, errOut io.Writer) int {
	if len(args) == 0 {
		usage(errOut)
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		usage(out)
		return exitOK
	}
	for _, c := range commands {
		if c.name == args[0] {
			return c.run(ctx, args[1:], out, errOut)
		}
	}
	fmt.Fprintf(errOut, "pgpooled: no such command: %q\n\n", args[0])
	usage(errOut)
	return exitUsage
}

func usage(w io.Writer) {
	fmt.Fprint(w, "usage: pgpooled command [flags]\n\ncommands:\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  %-8s %s\n", c.name, c.about)
	}
	fmt.Fprintf(w, "  %-8s %s\n\npgpooled command -h lists a command's flags.\n", "help", "show this")
}
