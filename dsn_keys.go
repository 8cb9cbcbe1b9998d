package pgpooled

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/lib/pq"
)

const envPrefix = "PGPOOLED_"

// settings is a DSN with its keys sorted by who reads them.
type settings struct {
	own     map[string]ownValue // by canonical key
	pq      map[string]string   // lib/pq's
	runtime map[string]string   // the server's
	inEnv   map[string]bool     // canonical keys that the environment has, even where the DSN wins
	ignored []string
}

type ownValue struct {
	name   string // the key or alias that was written
	source string // what errors call it: name, or the environment variable
	value  string
}

// pqKeys are the keys that lib/pq reads itself, with their environment variables
// ("" = none), from the tags that lib/pq documents.
var pqKeys = func() map[string]string {
	m := make(map[string]string)
	t := reflect.TypeFor[pq.Config]()
	for i := range t.NumField() {
		key, env := t.Field(i).Tag.Get("postgres"), t.Field(i).Tag.Get("env")
		if key == "" || key == "-" {
			continue
		}
		if env == "-" {
			env = ""
		}
		m[key] = env
	}
	return m
}()

func sortPairs(src *source) (*settings, error) {
	s := &settings{
		own:     make(map[string]ownValue),
		pq:      make(map[string]string),
		runtime: make(map[string]string),
		inEnv:   make(map[string]bool),
	}
	fromAuthority := make(map[string]bool)
	for _, p := range src.pairs {
		if p.name == "database" { // lib/pq takes it for dbname
			p.name = "dbname"
		}
		_, ofPQ := pqKeys[p.name]
		own, _ := lookupParam(p.name)
		if p.rawAt && (own == nil && !ofPQ || p.noPath && p.name != "user" && p.name != "host") {
			return nil, &DSNError{"", fmt.Sprintf(`parameter %d has a raw "@"; percent-encode it as %%40, and if the "?" belongs to the password: %s`, p.position, encodeHint)}
		}
		f, isForeign := foreignKeys[p.name]
		if !isForeign {
			if f, isForeign = foreignKeys[strings.ToLower(p.name)]; isForeign {
				p.name = strings.ToLower(p.name)
			}
		}
		switch {
		case own != nil:
			if err := s.addOwn(own, p); err != nil {
				return nil, err
			}
		case ofPQ:
			if p.value == "" && (src.url || p.name == "port") {
				continue // as lib/pq has it in a URL; an empty port is libpq's default
			}
			old, again := s.pq[p.name]
			overrides := fromAuthority[p.name] && p.name == "host" && (strings.HasPrefix(p.value, "/") || strings.HasPrefix(p.value, "@"))
			if again && old != p.value && !overrides {
				return nil, &DSNError{p.name, "given twice with different values"}
			}
			s.pq[p.name] = p.value
			fromAuthority[p.name] = p.position == 0
		case isForeign:
			switch {
			case slices.Contains(f.silent, p.value):
			case f.note != "" && (f.noted == nil || slices.Contains(f.noted, p.value)):
				if notice := p.name + " " + f.note; !slices.Contains(s.ignored, notice) {
					s.ignored = append(s.ignored, notice)
				}
			default:
				return nil, &DSNError{p.name, f.refuse}
			}
		default:
			if reason := suspicious(p); reason != "" {
				return nil, &DSNError{"", reason}
			}
			if old, again := s.runtime[p.name]; again && old != p.value {
				return nil, &DSNError{"", fmt.Sprintf("parameter %d repeats an earlier one with a different value", p.position)}
			}
			s.runtime[p.name] = p.value
		}
	}
	return s, nil
}

func (s *settings) addOwn(p *param, in pair) error {
	v := ownValue{in.name, in.name, in.value}
	old, again := s.own[p.key]
	if again && old.value != v.value && old.name == v.name {
		return &DSNError{v.name, "given twice with different values"}
	}
	if again && !p.translated() && old.name != v.name {
		// The units of a bare integer may differ, so compare what is meant.
		var a, b Config
		if err := p.set(&a, old.name, old.source, old.value); err != nil {
			return err
		}
		if err := p.set(&b, v.name, v.source, v.value); err != nil {
			return err
		}
		x, _ := p.format(&a)
		y, _ := p.format(&b)
		if x != y {
			return &DSNError{old.name + " and " + v.name, "two names of one setting have different values; leave one out"}
		}
	}
	if !again {
		s.own[p.key] = v
	}
	return nil
}

// readEnviron adds what PGPOOLED_ variables say where the DSN says nothing. An
// empty variable counts as unset; PGPOOLED_TEST_ is left to tests.
func (s *settings) readEnviron() error {
	env := os.Environ()
	slices.Sort(env) // the same error each time
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		key, ok := strings.CutPrefix(name, envPrefix)
		if !ok || value == "" || strings.HasPrefix(key, "TEST_") {
			continue
		}
		key = strings.ToLower(key)
		p, _ := lookupParam(key)
		if p == nil {
			reason := "no such setting; unset it"
			if near := nearest(key); near != "" {
				p, _ := lookupParam(near)
				reason = "no such setting; did you mean " + p.env() + "?"
			}
			return &DSNError{printableEnv(name), reason}
		}
		if key != p.key {
			return &DSNError{printableEnv(name), "use " + p.env()}
		}
		s.inEnv[p.key] = true
		if _, given := s.own[p.key]; !given {
			s.own[p.key] = ownValue{p.key, p.env(), value}
		}
	}
	return nil
}

func printableEnv(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return r > unicode.MaxASCII || !isKey("a"+string(r)) }) {
		return envPrefix + "…"
	}
	return name
}

// suspicious says why a key that neither pgpooled nor lib/pq knows is not passed
// on to the server; "" if it is. The key itself is not repeated: it may be a
// piece of a password.
func suspicious(p pair) string {
	lower := strings.ToLower(p.name)
	if serverSettings[lower] || strings.Contains(p.name, ".") {
		return ""
	}
	at := fmt.Sprintf("parameter %d is not a known key", p.position)
	if near := nearest(p.name); near != "" {
		return at + "; did you mean " + near + "?"
	}
	if p.afterBare {
		return at + "; if it is the rest of the password, put the password in single quotes"
	}
	for _, prefix := range []string{"pool_", "pgpooled_", "max_", "min_", "conn_", "retry_"} {
		if strings.HasPrefix(lower, prefix) {
			return at + ", nor one of the server's; keys of this form are pgpooled's, see docs/parameters.md"
		}
	}
	return ""
}

// nearest returns the known key that name was probably meant to be, or "".
func nearest(name string) string {
	snake := snakeCase(name)
	snake = strings.TrimPrefix(snake, "pgpooled_")
	best, distance := "", 3
	try := func(key string, limit int) {
		// Two edits turn one short word into another, so allow one there.
		if len(key) < 8 {
			limit = min(limit, 1)
		}
		if d := editDistance(snake, key); d <= limit && (d < distance || d == distance && key < best) {
			best, distance = key, d
		}
	}
	for key := range paramByName {
		try(key, 2)
	}
	for key := range pqKeys {
		if len(key) >= 4 {
			try(key, 1)
		}
	}
	return best
}

// snakeCase turns maxOpenConns and max-open-conns into max_open_conns.
func snakeCase(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == '-':
			b.WriteByte('_')
		case r >= 'A' && r <= 'Z':
			if i > 0 && s[i-1] >= 'a' && s[i-1] <= 'z' {
				b.WriteByte('_')
			}
			b.WriteRune(unicode.ToLower(r))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// editDistance is Levenshtein's: insertions, deletions and replacements of bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
