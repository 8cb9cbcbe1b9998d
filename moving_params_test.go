package pgpooled

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The tables of parameters in docs/moving.md against the parser: each key with
// its example is taken, left out with a notice, or refused, as the row says, and
// the default is ours. Each alias and each key that has a tool's name is there.
func TestTheParametersOfTheGuidesAreTheParsers(t *testing.T) {
	clearEnv(t)
	page, err := os.ReadFile("docs/moving.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	row := regexp.MustCompile("(?m)^\\| `(\\w+)=([^`]*)` \\| [^|]* \\| ([^|]*) \\|([^|]*)\\|")
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		name, value, here, def := m[1], m[2], m[3], strings.Trim(m[4], " `")
		seen[name] = true
		p, _ := lookupParam(name)
		_, isForeign := foreignKeys[name]
		dsn := "user=u " + name + "=" + value
		if name != "host" {
			dsn += " host=h"
		}
		c, err := ParseDSN(dsn)
		switch here {
		case "refused":
			if err == nil || p != nil {
				t.Errorf("%s is not refused", name)
			}
			continue
		case "left out":
			if err != nil || !strings.Contains(strings.Join(c.Notices(), "\n"), name) {
				t.Errorf("%s is not left out with a notice: %v", name, err)
			}
			continue
		}
		if err != nil || len(c.Notices()) > 0 {
			t.Errorf("%s=%s: %v", name, value, err)
		}
		if here == "lib/pq's" {
			if _, known := pqKeys[name]; p != nil || isForeign || !known {
				t.Errorf("%s is not left to lib/pq", name)
			}
			continue
		}
		if p == nil || p.key != strings.Trim(here, "`") {
			t.Errorf("%s does not mean %s", name, here)
			continue
		}
		checkDefault(t, p, def)
	}
	for _, p := range params {
		for _, a := range p.aliases {
			if !seen[a.name] {
				t.Errorf("the page does not have %s of %s", a.name, a.from)
			}
		}
		if p.from == "Prisma" && !seen[p.key] {
			t.Errorf("the page does not have Prisma's %s", p.key)
		}
	}

	setters := regexp.MustCompile("(?m)^\\| `Set\\w+` \\| [^|]* \\| `(\\w+)` \\|([^|]*)\\|$").FindAllStringSubmatch(string(page), -1)
	if len(setters) != 4 {
		t.Errorf("%d setters of sql.DB", len(setters))
	}
	for _, m := range setters {
		if p, _ := lookupParam(m[1]); p == nil {
			t.Errorf("there is no %s", m[1])
		} else {
			checkDefault(t, p, strings.Trim(m[2], " `"))
		}
	}
}

// What the tables say of two keys together.
func TestTheGuidesKnowWhatIsRefusedTogether(t *testing.T) {
	clearEnv(t)
	for _, pair := range []string{
		"pool_min_conns=2 pool_min_idle_conns=3", "pgbouncer=true statement_cache_size=100",
		"pgbouncer=true schema=shop", "sslcert=/certs/ca.pem sslaccept=strict",
	} {
		if _, err := ParseDSN("host=h user=u " + pair); err == nil {
			t.Errorf("%s is taken", pair)
		}
	}
	for _, pair := range []string{
		"pool_min_conns=2 pool_min_idle_conns=2", "pgbouncer=true statement_cache_size=0", "pgbouncer=true schema=public",
	} {
		if _, err := ParseDSN("host=h user=u " + pair); err != nil {
			t.Errorf("%s: %v", pair, err)
		}
	}
	c, err := ParseDSN("postgres://u@localhost/d?host=/var/run/postgresql")
	if err != nil || c.PQ.Host != "/var/run/postgresql" {
		t.Errorf("the directory does not replace the host: %v", err)
	}
}

func checkDefault(t *testing.T, p *param, def string) {
	t.Helper()
	want := p.def
	if p.defText != "" {
		want = p.defText
	} else if want == "" {
		want = "none"
	}
	if def != want {
		t.Errorf("%s: the page says %q, the default is %q", p.key, def, want)
	}
}
