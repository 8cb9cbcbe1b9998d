package pgpooled

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const encodeHint = "percent-encode the special characters of the user name and password (/ as %2F, ? as %3F, @ as %40, # as %23, % as %25)"

// splitURL reads what follows "postgres://".
//
// The authority ends at the first "/" or "?", and its last "@" ends the user
// name and password, as in net/url; so ":", "@" and "#" in a password are
// harmless. A raw "/" or "?" in it is not: it would silently become host and
// database. Then an "@" shows up behind the authority, where it has no business
// unencoded, and that is refused.
func splitURL(rest string) (*source, error) {
	if strings.ContainsFunc(rest, unicode.IsControl) {
		return nil, &DSNError{"", "the URL contains a line break or control character; " + encodeHint}
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	authority, rest := rest[:end], rest[end:]
	path, query, hasQuery := strings.Cut(rest, "?")
	noPath := strings.Trim(path, "/") == ""
	path = strings.TrimPrefix(path, "/")

	src := &source{url: true}
	add := func(name, raw string) error {
		value, reason := unescape(raw, false)
		if reason != "" {
			return &DSNError{name, reason}
		}
		if value != "" {
			src.pairs = append(src.pairs, pair{name: name, value: value})
		}
		return nil
	}

	if strings.Contains(path, "@") {
		return nil, &DSNError{"password", `an "@" follows the first "/" or "?" of the URL: ` + encodeHint}
	}
	if strings.ContainsAny(path, "#") || strings.ContainsFunc(path, unicode.IsSpace) {
		return nil, &DSNError{"dbname", `the database name contains a raw "#" or space; percent-encode it`}
	}
	if strings.ContainsAny(query, "?#") || strings.ContainsFunc(query, unicode.IsSpace) {
		return nil, &DSNError{"", `the URL has a second "?", a "#" or a space behind its "?"; in a parameter percent-encode it, and in a password too: ` + encodeHint}
	}

	hosts := authority
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, password, _ := strings.Cut(authority[:i], ":")
		hosts = authority[i+1:]
		if err := add("user", user); err != nil {
			return nil, err
		}
		if err := add("password", password); err != nil {
			return nil, err
		}
	}
	if err := splitHosts(hosts, add); err != nil {
		return nil, err
	}
	if err := add("dbname", path); err != nil {
		return nil, err
	}
	if hasQuery {
		if err := splitQuery(src, query, noPath); err != nil {
			return nil, err
		}
	}
	return src, nil
}

func splitQuery(src *source, query string, noPath bool) error {
	n := 0
	for part := range strings.SplitSeq(query, "&") {
		if part == "" {
			continue
		}
		n++
		rawName, rawValue, ok := strings.Cut(part, "=")
		name, reason := unescape(rawName, true)
		if !ok || reason != "" || !isKey(name) {
			return &DSNError{"", fmt.Sprintf(`parameter %d behind the "?" of the URL is not key=value; if the "?" belongs to the password: %s`, n, encodeHint)}
		}
		value, reason := unescape(rawValue, true)
		if reason != "" {
			return &DSNError{"", fmt.Sprintf("parameter %d: %s", n, reason)}
		}
		p := pair{name: name, value: value, position: n, noPath: noPath}
		// An abstract Unix socket begins with "@".
		p.rawAt = strings.Contains(strings.TrimPrefix(rawValue, "@"), "@")
		src.pairs = append(src.pairs, p)
	}
	return nil
}

// splitHosts reads "host", "host:port", "[::1]:port" and lists of them.
func splitHosts(list string, add func(name, raw string) error) error {
	if list == "" {
		return nil
	}
	wrong := func(key, what string) error {
		return &DSNError{key, what + "; if this is a part of the password: " + encodeHint}
	}
	var hosts, ports []string
	anyHost, anyPort := false, false
	for item := range strings.SplitSeq(list, ",") {
		host, port := item, ""
		if strings.HasPrefix(item, "[") {
			addr, after, ok := strings.Cut(item[1:], "]")
			ip, reason := unescape(addr, false)
			if a, err := netip.ParseAddr(ip); !ok || reason != "" || err != nil || !a.Is6() || after != "" && after[0] != ':' {
				return wrong("host", "the brackets do not hold an IPv6 address")
			}
			host, port = ip, strings.TrimPrefix(after, ":")
		} else {
			var ok bool
			host, port, ok = strings.Cut(item, ":")
			if ok && strings.Contains(port, ":") {
				return wrong("host", "a host of the URL has two colons; an IPv6 address goes in brackets")
			}
			var reason string
			if host, reason = unescape(host, false); reason != "" {
				return wrong("host", reason)
			}
			if !isHost(host) {
				return wrong("host", "a host of the URL contains a character that no host name has")
			}
		}
		if port != "" && !isPort(port) {
			return wrong("port", "a port of the URL is not a number from 1 to 65535")
		}
		hosts, ports = append(hosts, host), append(ports, port)
		anyHost, anyPort = anyHost || host != "" || len(hosts) > 1, anyPort || port != ""
	}
	// A host cannot be percent-encoded any more, so it must not be decoded twice.
	if anyHost {
		if err := add("host", escape(strings.Join(hosts, ","), "")); err != nil {
			return err
		}
	}
	if anyPort {
		return add("port", strings.Join(ports, ","))
	}
	return nil
}

// isHost is generous with names (underscores, Unicode) and takes socket
// directories and abstract sockets.
func isHost(s string) bool {
	if strings.HasPrefix(s, "/") || strings.HasPrefix(s, "@") {
		return !strings.Contains(s, ",")
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r < utf8.RuneSelf && !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	})
}

func isPort(s string) bool {
	n, ok := parseDigits(s)
	return ok && n > 0 && n <= 65535 && len(s) <= 5
}

// unescape decodes percent escapes, and "+" in a query as lib/pq does.
func unescape(s string, query bool) (value, reason string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '%':
			n, err := uint64(0), error(strconv.ErrSyntax)
			if i+3 <= len(s) && s[i+1] != '+' && s[i+1] != '-' {
				n, err = strconv.ParseUint(s[i+1:i+3], 16, 8)
			}
			if err != nil {
				return "", `a "%" is not followed by two hexadecimal digits; write %25 for "%"`
			}
			b.WriteByte(byte(n))
			i += 2
		case s[i] == '+' && query:
			b.WriteByte(' ')
		default:
			b.WriteByte(s[i])
		}
	}
	value = b.String()
	if !utf8.ValidString(value) {
		// lib/pq would replace the bytes by U+FFFD without a word.
		return "", "the percent escapes do not make valid UTF-8"
	}
	if strings.ContainsRune(value, 0) {
		return "", "contains a NUL byte (%00)"
	}
	return value, ""
}

// escape percent-encodes everything but letters, digits, "-", ".", "_", "~" and
// the characters in plain.
func escape(s, plain string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			strings.IndexByte("-._~", c) >= 0 || strings.IndexByte(plain, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
