package pgpooled

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/lib/pq"
)

// buildPQ has lib/pq read what is its own, as key=value text in our quoting. It
// checks the values first: lib/pq's errors repeat them.
func (s *settings) buildPQ(c *Config) error {
	if err := s.checkPQ(); err != nil {
		return err
	}
	if err := s.normalizeHosts(); err != nil {
		return err
	}
	all := maps.Clone(s.pq)
	maps.Copy(all, s.runtime)
	cfg, err := pq.NewConfig(keyValueText(all))
	if err != nil {
		return s.blame(all)
	}
	if o, ok := s.own["channel_binding"]; ok && o.value == "require" && cfg.SSLMode != pq.SSLModeVerifyFull {
		return &DSNError{"channel_binding and service", "the service file lowers sslmode below verify-full"}
	}
	if _, ok := s.own["connect_timeout"]; !ok {
		if _, inEnv := os.LookupEnv("PGCONNECT_TIMEOUT"); inEnv || cfg.ConnectTimeout != 0 {
			c.ConnectTimeout = max(cfg.ConnectTimeout, 0) // libpq: zero and negative mean no limit
			c.keep["connect_timeout"] = true
		}
	}
	cfg.ConnectTimeout = 0
	c.PQ, c.parsed, c.given = cfg, clonePQ(cfg), s.pq
	return nil
}

// pqRules check the values of lib/pq's keys and return what is allowed, or "".
var pqRules = map[string]func(string) string{
	"sslmode":                        sslmodeRule,
	"sslnegotiation":                 oneOf("postgres", "direct"),
	"target_session_attrs":           oneOf("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
	"load_balance_hosts":             oneOf("disable", "random"),
	"min_protocol_version":           oneOf("3.0", "3.2", "latest"),
	"max_protocol_version":           oneOf("3.0", "3.2", "latest"),
	"ssl_min_protocol_version":       oneOf("TLSv1.0", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
	"ssl_max_protocol_version":       oneOf("TLSv1.0", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
	"sslsni":                         pqBool,
	"sslinline":                      pqBool,
	"binary_parameters":              pqBool,
	"disable_prepared_binary_result": pqBool,
	"datestyle":                      oneOf("ISO, MDY"),
	"client_encoding": func(v string) string {
		letters := strings.Map(func(r rune) rune {
			if unicode.IsLetter(r) || unicode.IsDigit(r) {
				return unicode.ToLower(r)
			}
			return -1
		}, v)
		if letters == "utf8" || letters == "unicode" {
			return ""
		}
		return "must be UTF8"
	},
	"port": func(v string) string {
		for item := range strings.SplitSeq(v, ",") {
			if item != "" && !isPort(item) {
				return "must be a number from 1 to 65535, or a list of them with a comma between"
			}
		}
		return ""
	},
	"hostaddr": func(v string) string {
		for item := range strings.SplitSeq(v, ",") {
			if _, err := netip.ParseAddr(item); err != nil {
				return "must be an IP address, or a list of them with a comma between"
			}
		}
		return ""
	},
	"connect_timeout": func(v string) string { // as PGCONNECT_TIMEOUT; the DSN's is ours
		if n, ok := parseDigits(strings.TrimPrefix(v, "-")); !ok || n > aYear/aSecond {
			return "must be a whole number of seconds, up to a year; 0 = no limit"
		}
		return ""
	},
}

func oneOf(values ...string) func(string) string {
	return func(v string) string {
		if slices.Contains(values, v) {
			return ""
		}
		return "must be one of " + strings.Join(values, "; ")
	}
}

var sslmodes = oneOf("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

func sslmodeRule(v string) string {
	if strings.HasPrefix(v, registeredTLS) {
		if _, err := pq.NewConfig(keyValueText(map[string]string{"sslmode": v, "user": "x"})); err != nil {
			return "no TLS configuration of this name is registered; call pq.RegisterTLSConfig before"
		}
		return ""
	}
	return sslmodes(v)
}

func pqBool(v string) string {
	// lib/pq is particular about case.
	if _, ok := parseBool(v); ok && (v == strings.ToLower(v) || slices.Contains([]string{"T", "TRUE", "True", "F", "FALSE", "False"}, v)) {
		return ""
	}
	return "must be yes or no"
}

// pqRefuses are variables that make lib/pq fail, whatever the DSN says.
var pqRefuses = []string{"PGREQUIRESSL", "PGSSLCOMPRESSION", "PGREALM", "PGGSSENCMODE", "PGGSSDELEGATION", "PGGSSLIB",
	"PGREQUIREAUTH", "PGCHANNELBINDING", "PGSSLCERTMODE", "PGSSLCRL", "PGSSLCRLDIR", "PGREQUIREPEER"}

func (s *settings) checkPQ() error {
	for _, name := range pqRefuses {
		if _, ok := os.LookupEnv(name); !ok {
			continue
		}
		reason := "lib/pq does not support this variable and refuses to run with it; unset it"
		if name == "PGCHANNELBINDING" {
			reason += " and set PGPOOLED_CHANNEL_BINDING, or channel_binding in the DSN"
		}
		return &DSNError{name, reason}
	}
	for _, key := range slices.Sorted(maps.Keys(pqKeys)) {
		rule, env := pqRules[key], pqKeys[key]
		if v, ok := os.LookupEnv(env); ok && env != "" && rule != nil {
			if v == "" {
				return &DSNError{env, "is empty; unset it"}
			}
			if reason := rule(v); reason != "" {
				return &DSNError{env, reason}
			}
		}
		if v, ok := s.pq[key]; ok && rule != nil {
			if reason := rule(v); reason != "" {
				return &DSNError{key, reason}
			}
		}
	}
	return nil
}

// normalizeHosts fills the gaps that lib/pq cannot read and refuses lists that
// it would join or cut without a word.
func (s *settings) normalizeHosts() error {
	for _, key := range []string{"host", "hostaddr", "port"} {
		if _, ok := s.pq[key]; ok && strings.Contains(os.Getenv(pqKeys[key]), ",") {
			// lib/pq appends the variable's further items to the DSN's.
			return &DSNError{pqKeys[key], "has a list, which lib/pq would mix with " + key + " of the DSN; unset it"}
		}
	}
	if list, ok := s.pq["host"]; ok && strings.Contains(list, ",") {
		s.pq["host"] = fillList(list, "localhost")
	}
	if list, ok := s.pq["port"]; ok && strings.Contains(list, ",") {
		s.pq["port"] = fillList(list, "5432")
	}
	hosts := s.hosts()
	if n := strings.Count(s.effective("port"), ",") + 1; n > 1 && n != len(hosts) {
		return &DSNError{"host and port", fmt.Sprintf("%d ports for %d hosts; give one port for all, or one for each", n, len(hosts))}
	}
	if isSocket(hosts[0]) && !slices.ContainsFunc(hosts, func(h string) bool { return !isSocket(h) }) {
		return nil
	}
	if isSocket(hosts[0]) && s.effective("sslmode") != "disable" {
		// lib/pq turns TLS off for all hosts if the first is a socket.
		return &DSNError{"host", "a Unix socket before other hosts makes lib/pq connect to those without TLS; put the socket last, or say sslmode=disable"}
	}
	return nil
}

func fillList(list, empty string) string {
	items := strings.Split(list, ",")
	for i := range items {
		if items[i] == "" {
			items[i] = empty
		}
	}
	return strings.Join(items, ",")
}

// blame finds the keys without which lib/pq would take the settings.
func (s *settings) blame(all map[string]string) error {
	accepts := func(m map[string]string) bool {
		_, err := pq.NewConfig(keyValueText(m))
		return err == nil
	}
	if _, ok := all["user"]; !ok {
		with := maps.Clone(all)
		with["user"] = "x"
		if accepts(with) {
			return &DSNError{"user", "must be given, since the operating system's user has no name"}
		}
	}
	if !accepts(map[string]string{"user": "x"}) {
		for _, name := range []string{"PGKRBSRVNAME", "PGSERVICE", "PGSERVICEFILE"} {
			if _, ok := os.LookupEnv(name); ok {
				return &DSNError{name, "lib/pq cannot use this variable here; unset it or correct what it points to"}
			}
		}
		return &DSNError{"", "lib/pq refuses the PG* environment variables"}
	}
	var keys []string
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if _, ofPQ := pqKeys[key]; !ofPQ {
			continue
		}
		without := maps.Clone(all)
		delete(without, key)
		if accepts(without) {
			keys = append(keys, key)
		}
	}
	switch {
	case len(keys) == 0:
		return &DSNError{"", "lib/pq refuses the settings"}
	case keys[0] == "service":
		return &DSNError{"service", "the service or its file cannot be found or read"}
	case len(keys) == 1:
		return &DSNError{keys[0], "lib/pq refuses the value, or it contradicts the environment"}
	}
	return &DSNError{strings.Join(keys, " and "), "contradict each other"}
}

// keyValueText writes settings so that lib/pq reads back every byte.
func keyValueText(m map[string]string) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(key + "=" + quoteValue(m[key]))
	}
	return b.String()
}

var valueQuoter = strings.NewReplacer(`'`, `\'`, `\`, `\\`)

func quoteValue(v string) string { return "'" + valueQuoter.Replace(v) + "'" }

// wholeSeconds is what libpq's connect_timeout takes, rounded up.
func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
