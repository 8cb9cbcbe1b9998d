package pgpooled

import (
	"os"
	"reflect"
	"slices"
	"strings"
)

// Origin says where the value of a [Setting] comes from.
type Origin string

// The values of Origin.
const (
	OriginDSN         Origin = "dsn"         // the DSN, under the setting's own name
	OriginAlias       Origin = "alias"       // the DSN, under another tool's name for it: Setting.Name
	OriginEnvironment Origin = "environment" // the variable Setting.Name
	OriginDerived     Origin = "derived"     // another key of the DSN: Setting.Name
	OriginService     Origin = "service"     // the service file, or the default where that says nothing
	OriginProgram     Origin = "program"     // the program changed it after ParseDSN
	OriginDefault     Origin = "default"
)

// Setting is one setting of a Config, as it is in effect.
type Setting struct {
	Key     string // its canonical name
	Value   string // as a DSN would have it; "xxxxx" if it is Hidden
	Meaning string // what the value stands for where that does not show: "no limit" for 0
	Origin  Origin
	Name    string // what was written, where Origin says so: an alias, a variable, another key
	Hidden  bool   // the value is, or could hold, a secret or a piece of one
}

const hiddenValue = "xxxxx"

// origin is where ParseDSN found a value, and the value: a program may change it
// later.
type origin struct {
	from  Origin
	name  string
	value string // of pgpooled's own keys only
}

// Settings lists every setting of pgpooled, and those of lib/pq and of the server
// that are not empty, with where each comes from. Like [Config.String] it shows
// no value that can hold a secret: passwords, options, file names, run-time
// parameters, and whatever is not an ordinary word.
func (c *Config) Settings() []Setting {
	return append(c.pqSettingsList(), c.ownSettings()...)
}

func (c *Config) ownSettings() (list []Setting) {
	for i := range params {
		p := &params[i]
		o := c.origins[p.key]
		s := Setting{Key: p.key, Origin: o.from, Name: o.name}
		if p.translated() {
			if s.Origin != "" {
				s.Value = plainWord(o.value)
				list = append(list, s)
			}
			continue
		}
		value, isDefault := p.format(c)
		switch {
		case s.Origin == "" && isDefault:
			s.Origin = OriginDefault
		case s.Origin == "" || value != o.value:
			s.Origin, s.Name = OriginProgram, ""
		}
		switch {
		case value == "-1":
			s.Value, s.Meaning = "", p.defText
		case value == "0" || value == "0s":
			s.Value, s.Meaning = "0", p.zero
		default:
			s.Value = plainWord(value)
		}
		s.Hidden = s.Value == hiddenValue && value != hiddenValue
		list = append(list, s)
	}
	return list
}

// openPQ are lib/pq's keys whose values are words of a fixed list by the time
// they are in a Config.
var openPQ = append([]string{"sslsni", "sslinline", "ssl_min_protocol_version", "ssl_max_protocol_version", "min_protocol_version",
	"max_protocol_version", "binary_parameters", "disable_prepared_binary_result"}, printable...)

func (c *Config) pqSettingsList() (list []Setting) {
	settings, runtime := c.pqSettings()
	now, then := reflect.ValueOf(&c.PQ).Elem(), reflect.ValueOf(&c.parsed).Elem()
	effective := make(map[string]string)
	changed := make(map[string]bool)
	var keys []string
	for i := range now.NumField() {
		field := now.Type().Field(i)
		key := field.Tag.Get("postgres")
		if !field.IsExported() || key == "" || key == "-" || key == "connect_timeout" {
			continue
		}
		keys = append(keys, key)
		changed[key] = !reflect.DeepEqual(now.Field(i).Interface(), then.Field(i).Interface())
		switch {
		case field.Type.Kind() == reflect.String:
			effective[key] = now.Field(i).String()
		case field.Type.Kind() == reflect.Bool && (now.Field(i).Bool() || settings[key] != ""):
			effective[key] = "no"
			if now.Field(i).Bool() {
				effective[key] = "yes"
			}
		}
	}
	addresses := make(map[string]string)
	setAddresses(addresses, &c.PQ)
	for _, key := range []string{"host", "hostaddr", "port"} {
		effective[key] = addresses[key]
		changed[key] = changed[key] || !reflect.DeepEqual(c.PQ.Multi, c.parsed.Multi)
	}
	if strings.Trim(effective["hostaddr"], ",") == "" {
		effective["hostaddr"] = ""
	}
	slices.SortStableFunc(keys, func(a, b string) int { return firstRank(a) - firstRank(b) })
	for _, key := range keys {
		value := effective[key]
		if value == "" {
			continue
		}
		o := c.origins[key]
		s := Setting{Key: key, Value: shownPQ(key, value), Origin: o.from, Name: o.name}
		switch {
		case changed[key]:
			s.Origin, s.Name = OriginProgram, ""
		case s.Origin == "" && c.PQ.Service != "":
			s.Origin = OriginService
		case s.Origin == "":
			s.Origin, s.Value = OriginDefault, value // nobody has written it, so it holds nothing
		}
		s.Hidden = s.Value == hiddenValue && value != hiddenValue
		list = append(list, s)
	}
	return append(list, c.runtimeSettings(runtime)...)
}

func firstRank(key string) int {
	if i := slices.Index(firstKeys, key); i >= 0 {
		return i
	}
	return len(firstKeys)
}

// shownPQ follows String: names of hosts, roles and databases if they are
// ordinary words, and the words of fixed lists.
func shownPQ(key, value string) string {
	switch {
	case key == "host" || key == "hostaddr" || key == "port":
		items := strings.Split(value, ",")
		for i := range items {
			items[i] = plainAddress(items[i])
		}
		return strings.Join(items, ",")
	case key == "user" || key == "dbname" || slices.Contains(openPQ, key), key == "sslrootcert" && value == "system":
		return plainWord(value)
	}
	return hiddenValue
}

// runtimeSettings names the parameters that PostgreSQL has; the name of another
// one may be a piece of a password.
func (c *Config) runtimeSettings(runtime map[string]string) (list []Setting) {
	for key := range runtime {
		s := Setting{Key: key, Value: hiddenValue, Hidden: true, Origin: OriginDSN}
		if !serverSettings[strings.ToLower(key)] {
			s.Key = hiddenValue
		}
		if _, same := c.parsed.Runtime[key]; !same || c.parsed.Runtime[key] != runtime[key] {
			s.Origin = OriginProgram
		}
		if key == "search_path" && setsSearchPath(c.Schema) && runtime[key] == quoteIdent(c.Schema) {
			s.Origin, s.Name = OriginDerived, "schema"
			if word := plainWord(c.Schema); word == c.Schema {
				s.Value, s.Hidden = word, false
			}
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Setting) int { return strings.Compare(a.Key, b.Key) })
	return list
}

// noteOrigins remembers for Settings where each value came from. written are
// lib/pq's keys that the DSN itself has.
func (s *settings) noteOrigins(c *Config, written map[string]bool) {
	c.origins = make(map[string]origin)
	for i := range params {
		p := &params[i]
		o, ok := s.own[p.key]
		from := origin{name: o.source}
		switch {
		case ok && o.source == p.env():
			from.from = OriginEnvironment
		case ok && o.name != p.key:
			from.from = OriginAlias
		case ok:
			from = origin{from: OriginDSN}
		case p.key == "connect_timeout" && c.keep[p.key]:
			from = origin{from: OriginEnvironment, name: "PGCONNECT_TIMEOUT"}
			if _, inEnv := os.LookupEnv(from.name); !inEnv {
				from = origin{from: OriginService}
			}
		case p.key == "statement_cache_capacity" && c.StatementCacheCapacity == 0:
			from = origin{from: OriginDerived, name: "binary_parameters"}
			if c.PgBouncer {
				from.name = "pgbouncer"
			}
		default:
			continue
		}
		if from.value = o.value; !p.translated() {
			from.value, _ = p.format(c)
		}
		c.origins[p.key] = from
	}
	for key, env := range pqKeys {
		if _, ok := s.pq[key]; ok {
			c.origins[key] = origin{from: OriginDSN}
			if !written[key] {
				c.origins[key] = origin{from: OriginDerived, name: s.translatedFrom()}
			}
		} else if v, inEnv := os.LookupEnv(env); inEnv && env != "" && v != "" && key != "connect_timeout" {
			c.origins[key] = origin{from: OriginEnvironment, name: env}
		}
	}
}

// translatedFrom is which of Prisma's and libpq's keys made settings of TLS.
func (s *settings) translatedFrom() string {
	if s.own["channel_binding"].value == "require" {
		return "channel_binding"
	}
	return "sslaccept"
}
