package pgpooled_test

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/pgpooled/pgpooled"
)

var (
	docSection = regexp.MustCompile(`(?m)^## `)
	docDSN     = regexp.MustCompile(`(?m)^postgres://\S+$`)
)

// Each DSN of docs/poolers.md is understood, without a notice, and each of its
// parameters has a row below it that says why.
func TestTheDSNsOfThePoolersPageAreUnderstoodAndExplained(t *testing.T) {
	t.Parallel()
	found := 0
	for _, section := range docSection.Split(readFile(t, "docs/poolers.md"), -1) {
		title, _, _ := strings.Cut(section, "\n")
		for _, dsn := range docDSN.FindAllString(section, -1) {
			found++
			cfg, err := pgpooled.ParseDSN(dsn)
			if err != nil {
				t.Errorf("%s: %v", title, err)
				continue
			}
			if n := cfg.Notices(); len(n) > 0 {
				t.Errorf("%s: %q", title, n)
			}
			u, err := url.Parse(dsn)
			must(t, err)
			_, rows, _ := strings.Cut(section, dsn)
			pairs := strings.Split(u.RawQuery, "&")
			for _, pair := range pairs {
				if !strings.Contains(rows, "| `"+pair+"` |") {
					t.Errorf("%s: no row says why %s", title, pair)
				}
			}
			if n := strings.Count(rows, "\n| `"); n != len(pairs) {
				t.Errorf("%s: %d rows for %d parameters", title, n, len(pairs))
			}
			if strings.Contains(section, "transaction mode") && !strings.Contains(title, "session mode") && !cfg.PgBouncer {
				t.Errorf("%s: transaction mode without pgbouncer=true", title)
			}
		}
	}
	if found != 10 {
		t.Errorf("%d DSNs, want 10", found)
	}
}
