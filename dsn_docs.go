package pgpooled

import (
	"fmt"
	"strings"
	"time"
)

// parametersMarkdown renders the table of parameters: docs/parameters.md.
func parametersMarkdown() string {
	var b strings.Builder
	b.WriteString(`# Parameters

Generated from the table in dsn_params.go; change that, then run
` + "`go test -run TestParametersDoc -update .`" + `.

A DSN is a URL or key=value text, as libpq has them:

    postgres://app:secret@db1.example.com,db2.example.com:5433/shop?target_session_attrs=read-write&max_open_conns=20
    host=/var/run/postgresql dbname=shop user=app password='it\'s secret' max_open_conns=20

- Every key below can also come from the environment, as ` + "`PGPOOLED_`" + ` and its name in upper case; the DSN wins. An empty variable counts as unset.
- A duration is written as in Go: ` + "`500ms`, `30s`, `1h30m`" + `. A bare number is accepted where the table gives its unit.
- Two names of one setting with different values, a value out of range and a misspelt key are errors from ` + "`sql.Open`" + `.
- Everything else goes to lib/pq (` + "`sslmode`, `target_session_attrs`, `passfile`" + ` …), and from there to the server as a run-time parameter (` + "`search_path`, `statement_timeout`" + ` …).
- In a URL, percent-encode the user name and password. In key=value text, quote values with spaces.

| key | also accepted as | default | allowed | bare number | 0 means | meaning |
|---|---|---|---|---|---|---|
`)
	for i := range params {
		p := &params[i]
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s | %s |\n", p.key, strings.Join(p.alsoAs(), ", "), p.defaultText("`"),
			p.rangeText(), p.bareText(), p.zero, p.doc)
	}
	b.WriteString(`
## Keys of other tools

Keys that mean nothing here (` + "`supa`, `pool_health_check_period`, `default_query_exec_mode`" + ` …) are left out and reported once.
Keys whose loss would be unsafe (` + "`require_auth`, `sslcrl`, `requirepeer`" + ` …) and other spellings (` + "`maximumPoolSize`, `username`" + ` …) are errors that say what to use.
`)
	return b.String()
}

// parametersComment renders the same as a section of the package comment.
func parametersComment() string {
	var b strings.Builder
	b.WriteString("// # Parameters\n//\n")
	b.WriteString(wrapComment("", "Keys of a DSN beside those of lib/pq, each with its default. Every one can also come from the environment, as "+
		"PGPOOLED_ and its name in upper case; the DSN wins. Durations are Go durations; a bare number only where its unit is given. See docs/parameters.md for ranges."))
	b.WriteString("//\n")
	for i := range params {
		p := &params[i]
		note := []string{"default " + p.defaultText("")}
		if u := p.bareText(); u != "" {
			note = append(note, "bare: "+u)
		}
		if p.zero != "" {
			note = append(note, "0 = "+p.zero)
		}
		name := p.key
		for _, a := range p.aliases {
			name += ", " + a.name
			if a.bare != 0 {
				name += " (bare: " + unitName(a.bare) + ")"
			}
		}
		b.WriteString(wrapComment("  - ", name+" ("+strings.Join(note, "; ")+"): "+p.doc))
	}
	return b.String()
}

func (p *param) alsoAs() []string {
	var list []string
	if p.from != "" {
		list = append(list, "("+p.from+"'s name)")
	}
	for _, a := range p.aliases {
		text := "`" + a.name + "` (" + a.from
		if a.bare != 0 {
			text += "; bare: " + unitName(a.bare)
		}
		list = append(list, text+")")
	}
	return list
}

func (p *param) bareText() string {
	if p.bare == 0 {
		return ""
	}
	return unitName(p.bare)
}

func (p *param) defaultText(quote string) string {
	switch {
	case p.defText != "":
		return p.defText
	case p.def != "":
		return quote + p.def + quote
	}
	return "none"
}

func (p *param) rangeText() string {
	if p.values != nil {
		return strings.Join(nonEmpty(p.values), ", ")
	}
	switch p.field(new(Config)).(type) {
	case *bool:
		return "true, false"
	case *string:
		return fmt.Sprintf("up to %d bytes", p.max)
	case *int:
		return fmt.Sprintf("%d to %d", p.min, p.max)
	}
	return formatDuration(time.Duration(p.min)) + " to " + formatDuration(time.Duration(p.max))
}

// wrapComment breaks text into comment lines, in the shape gofmt gives a list
// item if the marker is "  - ".
func wrapComment(marker, text string) string {
	const width = 100
	var b strings.Builder
	line, indent := "// "+marker, "// "+strings.Repeat(" ", len(marker))
	fresh := true
	for word := range strings.FieldsSeq(text) {
		if !fresh && len(line)+1+len(word) > width {
			b.WriteString(line + "\n")
			line, fresh = indent, true
		}
		if !fresh {
			line += " "
		}
		line += word
		fresh = false
	}
	b.WriteString(line + "\n")
	return b.String()
}
