package main

import (
	"context"
	"strings"
	"testing"
)

// The story of docs/retry.md, as its program prints it.
func TestTheProgramShowsTwoRowsForLibPQAndOneForPgpooled(t *testing.T) {
	var out strings.Builder
	if err := run(context.Background(), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"told: <nil>\n  rows in the table:    2\n", "outcome unknown", "rows in the table:    1\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}
