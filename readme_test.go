package pgpooled_test

import (
	"encoding/json"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	goBlock    = regexp.MustCompile("(?s)```go\n(.*?)```")
	codeBlock  = regexp.MustCompile("(?s)```.*?```")
	codeSpan   = regexp.MustCompile("`[^`\n]*`")
	link       = regexp.MustCompile(`\[([^\]]*)\]\(([^)\s]+)\)`)
	testName   = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*`)
	exported   = regexp.MustCompile(`\bpgpooled\.([A-Z]\w*)`)
	mdHeading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notAnchor  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	declaresIt = func(name string) *regexp.Regexp { return regexp.MustCompile(`(?m)^func ` + name + `\(`) }
)

// pages are README.md and what lies in docs, by name.
func pages(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := make(map[string]string)
	for _, name := range append(names, "README.md") {
		texts[name] = readFile(t, name)
	}
	return texts
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The program on README's first screen, built as a package of this module that
// exists in an overlay only: nothing is written into the source tree.
func TestTheQuickStartOfTheREADMECompiles(t *testing.T) {
	t.Parallel()
	found := goBlock.FindStringSubmatch(readFile(t, "README.md"))
	if found == nil {
		t.Fatal("README.md has no Go block")
	}
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	source, overlay := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json")
	plan, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, "quickstart_of_readme", "main.go"): source}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{source: []byte(found[1]), overlay: plan} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(testContext(t), "go", "build", "-overlay", overlay,
		"-o", filepath.Join(dir, "quickstart.exe"), "./quickstart_of_readme")
	cmd.Env = append(os.Environ(), "GOPROXY=off", "GOFLAGS=-mod=readonly")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go build: %v\n%s", err, out)
	}
	if tidy, err := format.Source([]byte(found[1])); err != nil || string(tidy) != found[1] {
		t.Errorf("it is not in gofmt's shape (%v)", err)
	}
}

// The other Go blocks are pieces of programs: they parse at least.
func TestTheGoBlocksOfTheDocumentationParse(t *testing.T) {
	t.Parallel()
	for name, text := range pages(t) {
		for _, block := range goBlock.FindAllStringSubmatch(text, -1) {
			_, asFile := parser.ParseFile(token.NewFileSet(), name, block[1], parser.SkipObjectResolution)
			_, asBody := parser.ParseFile(token.NewFileSet(), name, "package p\nfunc _() {\n"+block[1]+"}", parser.SkipObjectResolution)
			_, asDecls := parser.ParseFile(token.NewFileSet(), name, "package p\n"+block[1], parser.SkipObjectResolution)
			if asFile != nil && asBody != nil && asDecls != nil {
				t.Errorf("%s: neither a file, nor declarations, nor the body of a function: %v\n%s", name, asBody, block[1])
			}
		}
	}
}

func TestTheLinksOfTheDocumentationLeadSomewhere(t *testing.T) {
	t.Parallel()
	links := 0
	for name, text := range pages(t) {
		for _, l := range link.FindAllStringSubmatch(codeSpan.ReplaceAllString(codeBlock.ReplaceAllString(text, ""), "code"), -1) {
			target, anchor, _ := strings.Cut(l[2], "#")
			if strings.Contains(target, "://") {
				continue
			}
			links++
			path := name
			if target != "" {
				path = filepath.Join(filepath.Dir(name), target)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: %s leads nowhere", name, l[0])
			} else if anchor != "" && !slices.Contains(anchors(readFile(t, path)), anchor) {
				t.Errorf("%s: %s: there is no such heading", name, l[0])
			}
		}
	}
	if links < 10 {
		t.Errorf("only %d links were looked at", links)
	}
}

// anchors are the headings as GitHub makes link targets of them.
func anchors(text string) []string {
	var all []string
	for _, h := range mdHeading.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
		all = append(all, strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-"))
	}
	return all
}

// A row of README's table links a test by its file: the test is there. And every
// test that any page names exists somewhere.
func TestTheTestsThatTheDocumentationNamesExist(t *testing.T) {
	t.Parallel()
	proofs := 0
	for _, l := range link.FindAllStringSubmatch(readFile(t, "README.md"), -1) {
		name := strings.Trim(l[1], "`")
		if !testName.MatchString(name) {
			continue
		}
		proofs++
		if !strings.HasSuffix(l[2], "_test.go") || !declaresIt(name).MatchString(readFile(t, l[2])) {
			t.Errorf("README.md: %s is not in %s", name, l[2])
		}
	}
	if proofs < 5 {
		t.Errorf("README.md names only %d tests", proofs)
	}

	var tests strings.Builder
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			tests.WriteString(readFile(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for page, text := range pages(t) {
		for _, name := range testName.FindAllString(text, -1) {
			if !declaresIt(name).MatchString(tests.String()) {
				t.Errorf("%s names %s, which does not exist", page, name)
			}
		}
	}
}

// What a page calls pgpooled.X is exported by the package.
func TestTheNamesInTheDocumentationAreExported(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				names[d.Name.Name] = names[d.Name.Name] || d.Recv == nil
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						names[s.Name.Name] = true
					case *ast.ValueSpec:
						for _, n := range s.Names {
							names[n.Name] = true
						}
					}
				}
			}
		}
	}
	for page, text := range pages(t) {
		for _, m := range exported.FindAllStringSubmatch(text, -1) {
			if !names[m[1]] {
				t.Errorf("%s: there is no pgpooled.%s", page, m[1])
			}
		}
	}
}
