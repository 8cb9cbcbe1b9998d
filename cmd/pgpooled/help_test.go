package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/pgpooled/pgpooled/internal/docpage"
)

var update = flag.Bool("update", false, "write the help texts into docs/command.md")

const (
	commandPage = "../../docs/command.md"
	helpMarker  = "go test -run TestHelpTextsAreThoseOfThePage"
)

func TestHelpTextsAreThoseOfThePage(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for _, c := range []string{"", "check", "load", "watch", "demo"} {
		var out, errOut bytes.Buffer
		args := strings.Fields(c + " --help")
		if status := dispatch(context.Background(), args, &out, &errOut); status != exitOK || errOut.Len() > 0 {
			t.Fatalf("%q: exit status %d, %s", args, status, &errOut)
		}
		if c != "" && !strings.Contains(out.String(), "Examples:") {
			t.Errorf("%s has no examples", c)
		}
		for line := range strings.Lines(out.String()) {
			if len([]rune(line)) > 160 {
				t.Errorf("%s: a line of %d characters: %s", c, len(line), line)
			}
		}
		b.WriteString("```text\n$ pgpooled " + strings.Join(args, " ") + "\n" + out.String() + "```\n\n")
	}
	if *update {
		if err := docpage.Write(commandPage, helpMarker, b.String()); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(commandPage)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "<!-- begin: "+helpMarker+" -->\n"+b.String()+"<!-- end") {
		t.Error("docs/command.md has other help texts; go test -run TestHelpTextsAreThoseOfThePage . -update writes these")
	}
}
