package pgpooled

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/lib/pq"
)

// FormatDSN returns a DSN that [ParseDSN] reads back, in the same environment, to
// an equal Config, changes to the exported fields included. It has only what
// differs from the defaults, and is a URL if the Config came from one. It
// contains the password, unless that came from the environment; log
// [Config.String] instead.
func (c *Config) FormatDSN() string {
	pqSettings, runtime := c.pqSettings()
	if setsSearchPath(c.Schema) && runtime["search_path"] == quoteIdent(c.Schema) {
		delete(runtime, "search_path")
	}
	var own []kv
	for i := range params {
		p := &params[i]
		if p.translated() {
			continue
		}
		if value, isDefault := p.format(c); (!isDefault || c.keep[p.key]) && value != "-1" && value != "" {
			own = append(own, kv{p.key, value})
		}
	}
	return c.text(pqSettings, runtime, own)
}

// PlainDSN returns the DSN without pgpooled's keys, in the same form, for plain
// lib/pq, pq.NewListener, psql and migration tools. It contains the password.
// Run-time parameters of the server stay; lib/pq takes them, psql does not (it
// wants them in options).
//
// connect_timeout stays if it was given, in whole seconds, rounded up; the
// settings of TCP go, since lib/pq would send them to the server. schema is
// there as search_path, sslaccept and channel_binding as sslmode and
// sslrootcert, and several hosts as host and port parameters, since lib/pq reads
// them only there.
func (c *Config) PlainDSN() string {
	pqSettings, runtime := c.pqSettings()
	var own []kv
	if p, _ := lookupParam("connect_timeout"); p != nil {
		if _, isDefault := p.format(c); !isDefault || c.keep[p.key] {
			own = append(own, kv{p.key, strconv.FormatInt(wholeSeconds(c.ConnectTimeout), 10)})
		}
	}
	return c.text(pqSettings, runtime, own)
}

type kv struct{ key, value string }

// firstKeys is the order people write them in; the others follow by name.
var firstKeys = []string{"host", "hostaddr", "port", "user", "password", "dbname"}

func (c *Config) text(pqSettings, runtime map[string]string, own []kv) string {
	var list []kv
	add := func(m map[string]string) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			list = append(list, kv{key, m[key]})
		}
	}
	var b strings.Builder
	if c.url {
		host, simple := pqSettings["host"], !strings.ContainsAny(pqSettings["host"]+pqSettings["port"], ",/@:%[]")
		simple = simple && host != "" && isHost(host)
		b.WriteString("postgres://")
		if user, ok := pqSettings["user"]; ok {
			b.WriteString(escape(user, ""))
		}
		if password, ok := pqSettings["password"]; ok {
			b.WriteString(":" + escape(password, ""))
		}
		if b.Len() > len("postgres://") {
			b.WriteByte('@')
		}
		if simple {
			b.WriteString(escape(host, ""))
			if port, ok := pqSettings["port"]; ok {
				b.WriteString(":" + port)
			}
			delete(pqSettings, "port")
			delete(pqSettings, "host")
		}
		b.WriteString("/" + escape(pqSettings["dbname"], ""))
		for _, key := range []string{"user", "password", "dbname"} {
			delete(pqSettings, key)
		}
	}
	for _, key := range firstKeys {
		if v, ok := pqSettings[key]; ok {
			list = append(list, kv{key, v})
			delete(pqSettings, key)
		}
	}
	add(pqSettings)
	add(runtime)
	list = append(list, own...)
	for i, s := range list {
		switch {
		case c.url && i == 0:
			b.WriteString("?" + s.key + "=" + escape(s.value, ",/:"))
		case c.url:
			b.WriteString("&" + s.key + "=" + escape(s.value, ",/:"))
		default:
			if i > 0 {
				b.WriteByte(' ')
			}
			value := quoteIfNeeded(s.value)
			if s.key == "password" { // behind a bare one, unknown keys are refused
				value = quoteValue(s.value)
			}
			b.WriteString(s.key + "=" + value)
		}
	}
	return b.String()
}

func quoteIfNeeded(v string) string {
	if v == "" || strings.ContainsFunc(v, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._~/:,@+", r))
	}) {
		return quoteValue(v)
	}
	return v
}

// pqSettings returns fresh maps of lib/pq's keys and of the server's run-time
// parameters: as the DSN had them, except where the program changed PQ since.
func (c *Config) pqSettings() (settings, runtime map[string]string) {
	settings = make(map[string]string)
	maps.Copy(settings, c.given)
	now, then := reflect.ValueOf(&c.PQ).Elem(), reflect.ValueOf(&c.parsed).Elem()
	addresses := false
	for i := range now.NumField() {
		field := now.Type().Field(i)
		key := field.Tag.Get("postgres")
		if !field.IsExported() || key == "connect_timeout" || reflect.DeepEqual(now.Field(i).Interface(), then.Field(i).Interface()) {
			continue
		}
		switch {
		case field.Name == "Multi" || key == "host" || key == "hostaddr" || key == "port":
			addresses = true
		case key == "" || key == "-":
		case now.Field(i).IsZero() && field.Type.Kind() != reflect.Bool:
			delete(settings, key)
		case field.Type.Kind() == reflect.Bool:
			settings[key] = "no"
			if now.Field(i).Bool() {
				settings[key] = "yes"
			}
		default:
			settings[key] = now.Field(i).String()
		}
	}
	if addresses {
		setAddresses(settings, &c.PQ)
	}
	runtime = make(map[string]string)
	maps.Copy(runtime, c.PQ.Runtime)
	return settings, runtime
}

func setAddresses(settings map[string]string, p *pq.Config) {
	var hosts, addrs, ports []string
	for _, m := range append([]pq.ConfigMultihost{{Host: p.Host, Hostaddr: p.Hostaddr, Port: p.Port}}, p.Multi...) {
		addr := ""
		if m.Hostaddr != (netip.Addr{}) {
			addr = m.Hostaddr.String()
		}
		hosts, addrs, ports = append(hosts, m.Host), append(addrs, addr), append(ports, strconv.Itoa(int(m.Port)))
	}
	for key, list := range map[string][]string{"host": hosts, "hostaddr": addrs, "port": ports} {
		if strings.Join(list, "") == "" {
			delete(settings, key)
		} else {
			settings[key] = strings.Join(list, ",")
		}
	}
}

// printable are lib/pq's settings that String shows: the words of a fixed list.
var printable = []string{"sslmode", "sslnegotiation", "target_session_attrs", "load_balance_hosts"}

// String describes the Config for logs: where it connects to, as whom, and the
// settings that differ from the defaults. The password is left out, and so is
// every value that can hold a secret or a piece of a password that was not
// quoted properly: options, file names, run-time parameters.
func (c Config) String() string {
	list, others := c.target()
	for i := range params {
		p := &params[i]
		if p.translated() {
			continue
		}
		if value, isDefault := p.format(&c); !isDefault {
			list = append(list, kv{p.key, plainWord(value)})
		}
	}
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = s.key + "=" + s.value
	}
	text := strings.Join(words, " ")
	if others > 0 {
		text += fmt.Sprintf(" and %d more", others)
	}
	return text
}

// target is where the Config connects to and as whom, fit for printing, and how
// many settings of lib/pq and the server are not.
func (c *Config) target() (list []kv, others int) {
	add := func(key, value string) { list = append(list, kv{key, value}) }
	var hosts []string
	for _, m := range append([]pq.ConfigMultihost{{Host: c.PQ.Host, Hostaddr: c.PQ.Hostaddr, Port: c.PQ.Port}}, c.PQ.Multi...) {
		host := plainAddress(m.Host)
		if m.Hostaddr != (netip.Addr{}) {
			host = m.Hostaddr.WithZone("").String()
		}
		hosts = append(hosts, net.JoinHostPort(host, strconv.Itoa(int(m.Port))))
	}
	add("host", strings.Join(hosts, ","))
	add("user", plainWord(c.PQ.User))
	if c.PQ.Database != "" {
		add("dbname", plainWord(c.PQ.Database))
	}
	if c.PQ.Password != "" {
		add("password", "xxxxx")
	}
	settings, runtime := c.pqSettings()
	for _, key := range printable {
		if v, ok := settings[key]; ok {
			add(key, plainWord(v))
		}
		delete(settings, key)
	}
	others = len(runtime)
	for key := range settings {
		if !slices.Contains(firstKeys, key) {
			others++
		}
	}
	return list, others
}

// Format prints String for every verb: fmt would otherwise walk into PQ.
func (c Config) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// plainAddress is plainWord for hosts, which may be IPv6 addresses; a zone is
// left out.
func plainAddress(s string) string {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.WithZone("").String()
	}
	return plainWord(s)
}

// plainWord hides what is not an ordinary name. A user or host with a colon or a
// space in it may well be a wrongly encoded "user:password".
func plainWord(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._/@", r))
	}) {
		return "xxxxx"
	}
	return s
}
