package compat

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The list of libraries in docs/compat.md has every module that this one
// requires itself, in that version, with a test that exists here: a row that says
// pass is a test that make test runs on both drivers.
func TestTheListOfLibrariesIsTrue(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/compat.md")
	must(t, err)
	mod, err := os.ReadFile("go.mod")
	must(t, err)
	var tests strings.Builder
	files, err := os.ReadDir(".")
	must(t, err)
	for _, f := range files {
		if strings.HasSuffix(f.Name(), "_test.go") {
			text, err := os.ReadFile(f.Name())
			must(t, err)
			tests.Write(text)
		}
	}

	required := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^(?:require)?\s+(\S+) (v\S+)$`).FindAllStringSubmatch(string(mod), -1) {
		required[m[1]] = m[2]
	}
	delete(required, "github.com/pgpooled/pgpooled")
	delete(required, "go.opentelemetry.io/otel/sdk") // counts otelsql's spans

	row := regexp.MustCompile("(?m)^\\| `(\\S+)` \\| (\\S+) \\| (\\S+) \\| (\\S+) \\| .* \\| (\\S+) \\|$")
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		name, version, lib, ours, test := m[1], m[2], m[3], m[4], m[5]
		if required[name] != version {
			t.Errorf("the page has %s %s, go.mod %q", name, version, required[name])
		}
		delete(required, name)
		if lib != "pass" || ours != "pass" {
			t.Errorf("%s: %s and %s; every test here passes on both or fails", name, lib, ours)
		}
		if !strings.Contains(tests.String(), "func "+test+"(t *testing.T)") {
			t.Errorf("%s: there is no %s", name, test)
		}
	}
	for name, version := range required {
		t.Errorf("the page has no row for %s %s", name, version)
	}
	if n := strings.Count(string(page), "\n| `"); n != len(row.FindAllString(string(page), -1)) {
		t.Errorf("of %d rows some are not as they should be", n)
	}
}
