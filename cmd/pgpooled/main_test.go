package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

func TestDispatch(t *testing.T) {
	tests := []struct {
		name   string
		args   []string
		status int
		out    string // somewhere in what it prints
		errOut string
	}{
		{"no command shows the usage and fails", nil, exitUsage, "", "Available Commands:"},
		{"help lists the commands", []string{"help"}, exitOK, "  demo ", ""},
		{"-h is help", []string{"-h"}, exitOK, "  demo ", ""},
		{"an unknown command shows the usage and fails", []string{"dmeo"}, exitUsage, "", "Did you mean this?\n\tdemo"},
		{"a command's flags are listed", []string{"demo", "-h"}, exitOK, "--users", ""},
		{"an unknown flag", []string{"demo", "--user", "3"}, exitUsage, "", "unknown flag: --user"},
		{"an argument that is no flag", []string{"demo", "now"}, exitUsage, "", `unknown command "now"`},
		{"no users", []string{"demo", "--users", "0"}, exitUsage, "", "--users"},
		{"no limit to check", []string{"demo", "--limit", "0"}, exitUsage, "", "--limit"},
		{"too short to see anything", []string{"demo", "--duration", "10ms"}, exitUsage, "", "--duration"},
		{"no time to wait", []string{"demo", "--pool-timeout", "0"}, exitUsage, "", "--pool-timeout"},
		{"a way to stop that does not exist", []string{"demo", "--restart", "slow"}, exitUsage, "", "--restart"},
		{"a DSN in the place of a command is not repeated", []string{"postgres://u:hush-hush@h/d"}, exitUsage, "", "pgpooled check DSN"},
		{"nor is one in the place of a flag", []string{"check", "-postgres://u:hush-hush@h/d"}, exitUsage, "", "unknown shorthand flag"},
		{"nor a password behind a flag of psql or mysql", []string{"check", "-phush-hush"}, exitUsage, "", "unknown shorthand flag"},
		{"nor a flag's value", []string{"check", "--instances=postgres://u:hush-hush@h/d"}, exitUsage, "", "instances"},
		{"nor a second argument", []string{"demo", "host=h password=hush-hush"}, exitUsage, "", "..."},
		{"no instances", []string{"check", "--instances", "0", "host=h"}, exitUsage, "", "--instances"},
		{"an empty DSN", []string{"check", ""}, exitUsage, "", "empty"},
		{"a DSN with a misspelt key", []string{"check", "host=h password=hush-hush max_open_con=1"}, exitUsage, "", "did you mean max_open_conns"},
		{"a DSN that is none", []string{"demo", "--dsn", "mysql://u:hush-hush@h/d"}, exitFailed, "", "postgres://"},
		{"a DSN without a limit", []string{"demo", "--dsn", "host=h max_open_conns=0"}, exitFailed, "", "--limit"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out, errOut bytes.Buffer
			if got := dispatch(context.Background(), tt.args, &out, &errOut); got != tt.status {
				t.Errorf("exit status %d, want %d", got, tt.status)
			}
			if !strings.Contains(out.String(), tt.out) || !strings.Contains(errOut.String(), tt.errOut) {
				t.Errorf("want %q on stdout and %q on stderr, got:\n%s\nand:\n%s", tt.out, tt.errOut, &out, &errOut)
			}
			if strings.Contains(out.String()+errOut.String(), "hush-hush") {
				t.Error("it prints the password")
			}
		})
	}
}
