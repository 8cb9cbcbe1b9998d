package pgpooled

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/parameters.md and the parameters in doc.go")

func TestParametersDoc(t *testing.T) {
	path, want := filepath.Join("docs", "parameters.md"), parametersMarkdown()
	if *update {
		if err := os.MkdirAll("docs", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is stale; run go test -run TestParametersDoc -update .", path)
	}
}

func TestParametersInThePackageComment(t *testing.T) {
	const heading = "// # Parameters\n"
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	before, after, ok := strings.Cut(string(text), heading)
	if !ok {
		t.Fatalf("doc.go has no %q; write the line, then run go test -run TestParameters -update .", strings.TrimSpace(heading))
	}
	end := strings.Index(after, "//\n// # ")
	if end < 0 {
		end = strings.Index(after, "package ")
	}
	want := parametersComment()
	if heading+after[:end] == want {
		return
	}
	if !*update {
		t.Fatal("the parameters in doc.go are stale; run go test -run TestParameters -update .")
	}
	if err := os.WriteFile("doc.go", []byte(before+want+after[end:]), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTheTableIsConsistent(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, p := range params {
		all := []string{p.key}
		for _, a := range p.aliases {
			all = append(all, a.name)
		}
		for _, name := range all {
			if names[name] {
				t.Errorf("%s names two settings", name)
			}
			names[name] = true
			if _, of := pqKeys[name]; of && name != "connect_timeout" {
				t.Errorf("%s is lib/pq's", name)
			}
			if serverSettings[name] {
				t.Errorf("%s is the server's", name)
			}
			if _, is := foreignKeys[name]; is {
				t.Errorf("%s is in foreignKeys too", name)
			}
		}
		if p.doc == "" || !strings.HasSuffix(p.doc, ".") {
			t.Errorf("%s: the meaning is missing or is no sentence", p.key)
		}
	}
	for name := range foreignKeys {
		if _, of := pqKeys[name]; of || serverSettings[name] {
			t.Errorf("%s is lib/pq's or the server's, and in foreignKeys", name)
		}
	}
}
