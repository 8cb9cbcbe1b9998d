package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

const mostUsers = 8 // lines about who uses the server

// print is what people read.
func (r *checkResult) print(w io.Writer) {
	say := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	say("dsn        from %s", strings.Replace(r.DSNSource, "argument", "the argument", 1))
	for _, s := range r.Settings {
		value := s.Value
		switch {
		case s.Hidden:
			value = "(not shown)"
			if s.Key == "xxxxx" {
				s.Key = "(a parameter)"
			}
		case value == "":
			value = s.Meaning
		case s.Meaning != "":
			value += " (" + s.Meaning + ")"
		}
		if value == "" {
			value = "-"
		}
		say("  %-26s %-26s %s", s.Key, from(s), value)
	}
	say("\nconnect")
	for _, s := range r.Steps {
		word, detail := "", s.Detail
		if !s.OK {
			word = "FAILED "
		}
		if s.Name == "tls" && r.TLS != nil {
			detail = r.TLS.text()
		}
		say("  %-16s %9.1f ms  %s%s", s.Name, s.Millis, word, detail)
	}
	if r.Error != nil {
		say("  %s\n  %s", r.Error.Message, r.Error.Remedy)
	}
	r.printServer(say)
	if len(r.Warnings)+len(r.Notes) > 0 {
		say("\nadvice")
	}
	for _, a := range r.Warnings {
		say("  WARNING  %s", wrapped(a, 11))
	}
	for _, a := range r.Notes {
		say("  note     %s", wrapped(a, 11))
	}
	if r.Use != "" {
		say("\nuse        %s", r.Use)
	}
	switch {
	case !r.Connected:
		say("\nverdict    no connection: %s (%s)", r.Error.Reason, r.Error.Step)
	case len(r.Warnings) > 0:
		say("\nverdict    it connects, with %s", counted(len(r.Warnings), "warning"))
	default:
		say("\nverdict    all is well")
	}
}

func from(s setting) string {
	switch s.Source {
	case "dsn":
		return "given"
	case "alias":
		return "given as " + s.Name
	case "environment":
		return "from " + s.Name
	case "derived":
		return "because of " + s.Name
	case "service":
		return "service file or default"
	}
	return s.Source
}

func (t *tlsFacts) text() string {
	if t.Error != "" {
		return "the certificate could not be looked at"
	}
	left := counted(t.DaysLeft, "day") + " left"
	if t.Expired {
		left = "ran out " + counted(-t.DaysLeft, "day") + " ago"
	}
	return fmt.Sprintf("%s, certificate for %s: %s; verified: %s", t.Version, strings.Join(t.Names, ", "), left, t.Verified)
}

func (r *checkResult) printServer(say func(string, ...any)) {
	s := r.Server
	if s == nil {
		return
	}
	role := "primary"
	if s.Replica {
		role = "replica"
	}
	say("\nserver\n  version          PostgreSQL %s, %s", s.Version, role)
	who := s.Role
	if s.Superuser {
		who += " (superuser)"
	}
	say("  role, database   %s, %s", who, s.Database)
	if p := r.Pooler; p != nil {
		text := map[string]string{"no": "none", "unknown": "unknown", "yes": "yes"}[p.Present]
		if p.Product != "" {
			text = p.Product
		}
		if p.Mode != "" {
			text += ", " + p.Mode + " mode"
		}
		say("  pooler           %s: %s", text, p.Why)
	}
	if c := r.Capacity; c != nil {
		limit := func(n int) string {
			if n < 0 {
				return "none"
			}
			return fmt.Sprint(n)
		}
		say("  connections      %d in use, max_connections %d, of it %d reserved; limit of the role: %s, of the database: %s",
			c.Sessions, c.MaxConnections, c.Reserved, limit(c.RoleLimit), limit(c.DatabaseLimit))
		for i, u := range c.Users {
			if i == mostUsers {
				say("    %6s  of others", "...")
				break
			}
			say("    %6d  role %s, database %s, application %q", u.Sessions, u.Role, u.Database, u.Application)
		}
	}
	var list []string
	for name, t := range s.Timeouts {
		text := "off"
		if t.Millis > 0 {
			text = brief(s.timeout(name))
		} else if strings.HasPrefix(name, "tcp_") {
			text = "the system's"
		}
		list = append(list, name+" "+text)
	}
	slices.Sort(list)
	for i, line := range list {
		head := ""
		if i == 0 {
			head = "timeouts"
		}
		say("  %-16s %s", head, line)
	}
}

// wrapped is an advice with its remedy, in lines of a terminal.
func wrapped(a advice, indent int) string {
	text := a.Text
	if a.Remedy != "" {
		text += " " + a.Remedy
	}
	var b strings.Builder
	column := indent
	for i, word := range strings.Fields(text) {
		switch {
		case i > 0 && column+1+len(word) > 100:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent
		case i > 0:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}
