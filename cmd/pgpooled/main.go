// Command pgpooled checks a database's set-up, puts load on it and shows what
// the pgpooled driver does meanwhile.
//
//	pgpooled check [DSN]
//	pgpooled load [DSN]
//	pgpooled watch [DSN]
//	pgpooled demo
//
// pgpooled --help and pgpooled COMMAND --help say the rest.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit statuses. exitFailed is also what a criterion that is not met gives.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitWarnings    = 3
	exitInterrupted = 130
)

// status ends a command with an exit status. What is to be said has been said,
// unless there is an error.
type status struct {
	code int
	err  error
}

func (s *status) Error() string {
	if s.err == nil {
		return fmt.Sprintf("exit status %d", s.code)
	}
	return s.err.Error()
}

// done is nil for exitOK.
func done(code int) error {
	if code == exitOK {
		return nil
	}
	return &status{code: code}
}

func failed(err error) error      { return &status{exitFailed, err} }
func usageError(err error) error  { return &status{exitUsage, err} }
func usage(text string) error     { return usageError(errors.New(text)) }
func interrupted(err error) error { return &status{exitInterrupted, err} }

func main() {
	// Nobody reads this: sockets that break raise it too. It is caught so that a
	// write to a reader that went away (pgpooled load | head) is an error.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, cancel := context.WithCancel(context.Background())
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup pgpooled load
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(ctx, ends...)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process
	code := dispatch(ctx, os.Args[1:], output{os.Stdout, cancel}, output{os.Stderr, cancel})
	stop()
	cancel()
	os.Exit(code)
}

// output ends the command, as Ctrl-C does, when its reader has gone, so that it
// tidies up.
type output struct {
	*os.File
	gone context.CancelFunc
}

func (o output) Write(b []byte) (int, error) {
	n, err := o.File.Write(b)
	if err != nil {
		o.gone()
	}
	return n, err
}

// terminalOf is the terminal that w writes to, nil if it is something else.
func terminalOf(w io.Writer) *os.File {
	o, ok := w.(output)
	if !ok || !term.IsTerminal(int(o.Fd())) || os.Getenv("TERM") == "dumb" { //nolint:gosec // a descriptor is small
		return nil
	}
	return o.File
}

const rootAbout = `pgpooled checks the set-up of a PostgreSQL database, puts load on it and shows
what the pgpooled driver does meanwhile.

A DSN is a URL (postgres://app@db/shop?max_open_conns=20) or key=value text, with
the keys of docs/parameters.md. Without one, DATABASE_URL is taken, else the
variables of libpq (PGHOST, PGUSER, PGPASSWORD ...). Other users of a machine can
see the arguments of a command: a password is better kept in DATABASE_URL,
PGPASSWORD or ~/.pgpass. No output shows it.`

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "pgpooled",
		Short:         "check, load and watch a PostgreSQL database through pgpooled",
		Long:          rootAbout,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(c *cobra.Command, _ []string) error {
			c.SetOut(c.ErrOrStderr())
			_ = c.Help()
			return done(exitUsage)
		},
	}
	root.AddCommand(newCheck(), newLoadCommand(), newWatch(), newDemo())
	return root
}

// dispatch runs a command and returns its exit status.
func dispatch(ctx context.Context, args []string, out, errOut io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	c, err := root.ExecuteContextC(ctx)
	var s *status
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &s):
		if s.err != nil {
			fmt.Fprintf(errOut, "pgpooled: %s\n", printableLines(strings.TrimPrefix(s.err.Error(), "pgpooled: ")))
		}
		return s.code
	}
	fmt.Fprintf(errOut, "pgpooled: %s\n%s --help says more.\n", harmless(err.Error(), args), c.CommandPath())
	return exitUsage
}

// harmless is a complaint about arguments without those that may be a DSN: cobra
// and pflag repeat them.
func harmless(complaint string, args []string) string {
	suspect := func(s string) bool { return strings.ContainsAny(s, "/@ =:") }
	for _, arg := range args {
		for _, piece := range []string{arg, strings.TrimLeft(arg, "-")} {
			if _, value, ok := strings.Cut(piece, "="); ok && value != "" && strings.HasPrefix(arg, "--") {
				piece = value
			}
			if suspect(piece) {
				complaint = strings.ReplaceAll(complaint, piece, "...")
			}
		}
	}
	if before, _, ok := strings.Cut(complaint, " in -"); ok && strings.HasPrefix(complaint, "unknown shorthand flag") {
		complaint = before // psql and mysql have passwords behind such flags
	}
	if strings.Contains(complaint, "://") || strings.Contains(complaint, "password") {
		return "the arguments are not understood" // quoting has changed what was to be left out
	}
	if strings.Contains(complaint, `command "..."`) {
		complaint += "\nA DSN comes after a command: pgpooled check DSN"
	}
	return complaint
}

// findDSN returns the DSN that a command is to use and where it was.
func findDSN(args []string) (dsn, where string, err error) {
	if len(args) > 0 {
		if args[0] == "" {
			return "", "", usage("the DSN is empty")
		}
		return args[0], "argument", nil
	}
	if dsn = os.Getenv("DATABASE_URL"); dsn != "" {
		return dsn, "DATABASE_URL", nil
	}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "PGPOOLED_") {
			return "", "PG* variables", nil
		}
	}
	return "", "", usage("no database: give a DSN, or set DATABASE_URL or PGHOST and its sisters")
}
