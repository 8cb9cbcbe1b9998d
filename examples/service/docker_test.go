package main

import (
	"debug/elf"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// The Dockerfile's first stage without Docker: what it copies is copied, the line
// that builds is run, and what that makes needs no libc.
func TestTheDockerfileBuildsAStaticBinary(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	stages := strings.Split(strings.ReplaceAll(string(text), "\\\n", " "), "\nFROM ")
	if len(stages) != 3 {
		t.Fatalf("%d parts, want a comment and two stages", len(stages))
	}
	image, dir, built := t.TempDir(), "/", false
	inside := func(p string) string {
		if !path.IsAbs(p) {
			p = path.Join(dir, p)
		}
		return filepath.Join(image, filepath.FromSlash(p))
	}
	for line := range strings.Lines(stages[1]) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(line, "#"):
		case words[0] == "WORKDIR":
			dir = path.Join(dir, words[1])
			if path.IsAbs(words[1]) {
				dir = words[1]
			}
		case words[0] == "COPY":
			copyInto(t, words[1:len(words)-1], inside(words[len(words)-1]), strings.HasSuffix(words[len(words)-1], "/"))
		case words[0] == "RUN" && strings.Contains(line, "go build"):
			command := strings.ReplaceAll(strings.TrimPrefix(strings.TrimSpace(line), "RUN "), "/out/", filepath.ToSlash(image)+"/out/")
			cmd := exec.Command("sh", "-c", command)
			cmd.Dir = inside(dir)
			cmd.Env = append(os.Environ(), "GOPROXY=off", "GOWORK=off", "GOFLAGS=-mod=readonly -buildvcs=false", "GOOS=linux")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", command, err, out)
			}
			built = true
		}
	}
	if !built {
		t.Fatal("no line builds anything")
	}
	binary, err := elf.Open(filepath.Join(image, "out", "service"))
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	if binary.Section(".interp") != nil || binary.Section(".dynamic") != nil {
		t.Error("it is not static")
	}
	for _, want := range []string{"COPY --from=build /out/service /service\n", "USER 65532:65532\n", `ENTRYPOINT ["/service"]` + "\n"} {
		if !strings.Contains(stages[2], want) {
			t.Errorf("the second stage has no %s", want)
		}
	}
}

// copyInto copies as COPY does, from the root of the repository.
func copyInto(t *testing.T, sources []string, to string, asFolder bool) {
	t.Helper()
	for _, source := range sources {
		found, err := filepath.Glob(filepath.Join("..", "..", filepath.FromSlash(source)))
		if err != nil || len(found) == 0 {
			t.Fatalf("COPY %s: there is no such file (%v)", source, err)
		}
		for _, from := range found {
			fi, err := os.Stat(from)
			if err != nil {
				t.Fatal(err)
			}
			target := to
			if asFolder || len(found) > 1 {
				target = filepath.Join(to, filepath.Base(from))
			}
			if !fi.IsDir() {
				copyFile(t, from, target)
			} else {
				copyFolder(t, from, to)
			}
		}
	}
}

func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, name)
		copyFile(t, name, filepath.Join(to, rel))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
