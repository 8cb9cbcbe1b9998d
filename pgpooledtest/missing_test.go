package pgpooledtest

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// recorder is a TB that remembers how it failed.
type recorder struct{ fatal string }

func (*recorder) Helper()             {}
func (*recorder) Logf(string, ...any) {}
func (*recorder) Cleanup(func())      {}
func (r *recorder) Fatalf(format string, args ...any) {
	r.fatal = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// A folder without the programs stands for a machine without PostgreSQL, where
// Start would find those of this one.
func TestAMissingServerFailsTheTest(t *testing.T) {
	t.Setenv("PGPOOLED_TEST_PG_BIN", t.TempDir())
	r, done := &recorder{}, make(chan struct{})
	go func() {
		defer close(done)
		Start(r)
	}()
	<-done
	if !strings.Contains(r.fatal, "PGPOOLED_TEST_PG_BIN") {
		t.Errorf("the test ended with %q", r.fatal)
	}
}

func TestTheErrorOfAMissingServerSaysHowToInstallOne(t *testing.T) {
	err := explain(fmt.Errorf("%w: run something of this project's", pgtest.ErrNoServer))
	for _, part := range []string{"apt-get install", "brew install", "PGPOOLED_TEST_PG_BIN"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("nothing of %s in: %v", part, err)
		}
	}
	if err := explain(errors.New("pgtest: disk full")); !strings.Contains(err.Error(), "disk full") {
		t.Errorf("another error: %v", err)
	}
}

func TestADatabaseOfAServerThatIsDownIsRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	s := Start(t)
	refused := func() string {
		r, done := &recorder{}, make(chan struct{})
		go func() {
			defer close(done)
			s.Database(r)
		}()
		<-done
		return r.fatal
	}
	if err := s.Stop(Fast); err != nil {
		t.Fatal(err)
	}
	if got := refused(); !strings.Contains(got, "the server is down") {
		t.Errorf("while it is down: %q", got)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := refused(); got != "" {
		t.Errorf("after its start: %q", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := refused(); !strings.Contains(got, "stopped for good") {
		t.Errorf("after Close: %q", got)
	}
}
