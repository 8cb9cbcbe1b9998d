package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"time"
)

// binVariable names a folder with initdb and postgres; it goes before the search.
const binVariable = "PGPOOLED_TEST_PG_BIN"

// wellKnown are the folders of the packages that do not put initdb on the
// PATH: Debian, Red Hat, SUSE, Alpine, Homebrew, Postgres.app, FreeBSD and
// source builds. scripts/install.sh has the same list.
var wellKnown = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/usr/lib/postgresql*/bin",
	"/usr/libexec/postgresql*",
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
	"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/usr/local/pgsql/bin",
	"/usr/local/bin",
}

// ErrNoServer says that no PostgreSQL server is installed where Start looks.
var ErrNoServer = errors.New("pgtest: no PostgreSQL server found (initdb and postgres)")

// findBinaries returns the folder with initdb and postgres: $PGPOOLED_TEST_PG_BIN,
// the PATH, what pg_config says, then the newest of the well-known folders.
func findBinaries() (string, error) {
	if dir := os.Getenv(binVariable); dir != "" {
		if !hasServer(dir) {
			return "", fmt.Errorf("pgtest: %s is set, but the folder it names has no initdb and postgres", binVariable)
		}
		return filepath.Abs(dir)
	}
	if p, err := exec.LookPath("initdb"); err == nil {
		if p, err = filepath.Abs(p); err == nil && hasServer(filepath.Dir(p)) {
			return filepath.Dir(p), nil
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		if dir := strings.TrimSpace(string(out)); hasServer(dir) {
			return dir, nil
		}
	}
	var found []string
	for _, pattern := range wellKnown {
		dirs, _ := filepath.Glob(pattern)
		for _, dir := range dirs {
			if hasServer(dir) {
				found = append(found, dir)
			}
		}
	}
	if len(found) == 0 {
		return "", fmt.Errorf("%w: run `make postgres`, which installs one, or name the folder of its programs in %s", ErrNoServer, binVariable)
	}
	sort.SliceStable(found, func(i, j int) bool { return folderVersion(found[i]) > folderVersion(found[j]) })
	return found[0], nil
}

func hasServer(dir string) bool {
	suffix := ""
	if runtime.GOOS == "windows" {
		suffix = ".exe"
	}
	for _, name := range []string{"initdb", "postgres"} {
		if fi, err := os.Stat(filepath.Join(dir, name+suffix)); err != nil || fi.IsDir() {
			return false
		}
	}
	return true
}

var digits = regexp.MustCompile(`\d+(\.\d+)?`)

// folderVersion reads 15 out of /usr/lib/postgresql/15/bin, 0 if there is none.
func folderVersion(dir string) float64 {
	v, _ := strconv.ParseFloat(digits.FindString(dir), 64)
	return v
}
