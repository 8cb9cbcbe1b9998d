package pgpooled

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// source is the text of a DSN, taken apart but not yet understood.
type source struct {
	url   bool
	pairs []pair
}

// pair is one setting. Its name is only fit for printing once it is known to be
// a key: behind a badly quoted password it can be a piece of it.
type pair struct {
	name, value string
	position    int  // 1 for the first parameter after the URL's "?" or of the key=value text; 0 = part of the URL before it
	afterBare   bool // follows an unquoted password: key=value text only
	rawAt       bool // the value has an "@" that is not percent-encoded: URL only
	noPath      bool // the URL has nothing between its authority and "?"
}

// splitDSN takes a DSN apart. It is more tolerant than net/url, which refuses
// several hosts and an encoded socket directory, and never repeats the text in
// an error.
func splitDSN(dsn string) (*source, error) {
	if !utf8.ValidString(dsn) {
		return nil, &DSNError{"", "the text is not valid UTF-8"}
	}
	if strings.ContainsRune(dsn, 0) {
		return nil, &DSNError{"", "the text contains a NUL byte"}
	}
	text := strings.TrimSpace(dsn)
	if text == "" {
		return &source{}, nil
	}
	if scheme, rest, ok := cutScheme(text); ok {
		if reason := refuseScheme(scheme); reason != "" {
			return nil, &DSNError{"", reason}
		}
		return splitURL(rest)
	}
	if strings.ContainsRune("'\"`", rune(text[0])) {
		return nil, &DSNError{"", "the text begins with a quotation mark; leave the quotes around the whole DSN out"}
	}
	if !strings.Contains(text, "=") {
		return nil, &DSNError{"", "neither a URL (postgres://user@host/db) nor key=value text (host=… dbname=…)"}
	}
	return splitKeyValue(dsn)
}

// cutScheme finds "scheme://" at the beginning.
func cutScheme(text string) (scheme, rest string, ok bool) {
	scheme, rest, ok = strings.Cut(text, "://")
	if !ok || scheme == "" || strings.ContainsFunc(scheme, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("+.-:_", r))
	}) {
		return "", "", false
	}
	return strings.ToLower(scheme), rest, true
}

// refuseScheme says why a URL of this scheme is not read; "" for PostgreSQL's two.
func refuseScheme(scheme string) string {
	switch {
	case scheme == "postgres" || scheme == "postgresql":
		return ""
	case scheme == "prisma" || scheme == "prisma+postgres":
		return "prisma:// and prisma+postgres:// URLs speak the HTTP protocol of Prisma's proxy; use the database's direct URL (postgres://…)"
	case strings.HasPrefix(scheme, "postgres+") || strings.HasPrefix(scheme, "postgresql+") || strings.HasPrefix(scheme, "jdbc:postgres"):
		return "begin the URL with postgres://, without the name of another language's driver"
	}
	return "the URL is not for PostgreSQL; it has to begin with postgres:// or postgresql://"
}

// splitKeyValue reads key=value text as libpq and lib/pq do: spaces around "="
// allowed, values in single quotes, a backslash before any character.
func splitKeyValue(text string) (*source, error) {
	src := &source{}
	rest := []rune(text)
	skip := func() {
		for len(rest) > 0 && unicode.IsSpace(rest[0]) {
			rest = rest[1:]
		}
	}
	afterBare := false
	for n := 1; ; n++ {
		skip()
		if len(rest) == 0 {
			return src, nil
		}
		at := DSNError{"", fmt.Sprintf(`parameter %d is not key=value; a value with a space has to be in single quotes, with \' for a quote and \\ for a backslash`, n)}
		i := 0
		for i < len(rest) && rest[i] != '=' && !unicode.IsSpace(rest[i]) {
			i++
		}
		name := string(rest[:i])
		rest = rest[i:]
		skip()
		if len(rest) == 0 || rest[0] != '=' || !isKey(name) {
			return nil, &at
		}
		rest = rest[1:]
		skip()

		var value []rune
		quoted := len(rest) > 0 && rest[0] == '\''
		if quoted {
			rest = rest[1:]
		}
		closed := false
		for len(rest) > 0 {
			r := rest[0]
			if quoted && r == '\'' {
				rest = rest[1:]
				closed = true
				break
			}
			if !quoted && unicode.IsSpace(r) {
				break
			}
			if r == '\\' {
				if len(rest) == 1 {
					return nil, &DSNError{"", fmt.Sprintf("parameter %d ends in a lone backslash; write two for one", n)}
				}
				rest = rest[1:]
				r = rest[0]
			}
			value = append(value, r)
			rest = rest[1:]
		}
		switch {
		case quoted && !closed:
			return nil, &DSNError{"", fmt.Sprintf("parameter %d has no closing quote", n)}
		case quoted && len(rest) > 0 && !unicode.IsSpace(rest[0]):
			// lib/pq would read on with the next key, which is the rest of a
			// value whose quote was not escaped.
			return nil, &DSNError{"", fmt.Sprintf(`parameter %d goes on after its closing quote; a quote inside quotes is written \'`, n)}
		}
		src.pairs = append(src.pairs, pair{name: name, value: string(value), position: n, afterBare: afterBare})
		afterBare = afterBare || name == "password" && !quoted
	}
}

// isKey tells whether s can be the name of a setting: PostgreSQL's are letters,
// digits and "_", with "." and "-" in those of extensions and poolers.
func isKey(s string) bool {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_'
		if !letter && (i == 0 || !(r >= '0' && r <= '9' || r == '.' || r == '-')) {
			return false
		}
	}
	return s != ""
}
