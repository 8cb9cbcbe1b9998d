package pgpooled

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

func (p *param) setDefault(c *Config) error {
	if p.auto {
		switch f := p.field(c).(type) {
		case *int:
			*f = -1
		case *time.Duration:
			*f = -1
		}
		return nil
	}
	if p.def == "" {
		return nil
	}
	return p.set(c, p.key, p.key, p.def)
}

// set reads value into the field. name is the key or alias that decides the unit
// of a bare integer; source is what an error calls it, the name or an
// environment variable.
func (p *param) set(c *Config, name, source, value string) error {
	f := p.field(c)
	if reason := p.read(f, name, value); reason != "" {
		return &DSNError{source, reason}
	}
	if reason := p.check(f); reason != "" {
		return &DSNError{source, reason}
	}
	return nil
}

// read parses value into the field f and returns what is wrong with it, or "".
func (p *param) read(f any, name, value string) string {
	if strings.TrimSpace(value) == "" {
		return "the value is missing; " + p.allowed()
	}
	switch f := f.(type) {
	case *int:
		n, ok := parseDigits(value)
		if !ok || n > math.MaxInt32 {
			return p.allowed()
		}
		*f = int(n)
	case *time.Duration:
		_, bare := lookupParam(name)
		d, ok := parseDuration(value, bare)
		if !ok {
			return p.allowedAs(name)
		}
		*f = d
	case *bool:
		b, ok := parseBool(value)
		if !ok {
			return p.allowed()
		}
		*f = b
	case *RetryMode:
		*f = RetryMode(value)
	case *CommitCheck:
		if value == "xid" {
			value = string(CommitCheckOn)
		}
		*f = CommitCheck(value)
	case *string:
		*f = value
	}
	return ""
}

// check returns what is wrong with the value of field f, or "".
func (p *param) check(f any) string {
	switch f := f.(type) {
	case *int:
		n := int64(*f)
		if p.auto && n == -1 || n >= p.min && n <= p.max {
			return ""
		}
	case *time.Duration:
		n := int64(*f)
		if p.auto && n == -1 || p.zero != "" && n == 0 || n >= p.min && n <= p.max {
			return ""
		}
	case *RetryMode:
		if slices.Contains(p.values, string(*f)) {
			return ""
		}
	case *CommitCheck:
		if slices.Contains(p.values, string(*f)) {
			return ""
		}
	case *string:
		if int64(len(*f)) <= p.max && !strings.ContainsFunc(*f, unicode.IsControl) {
			return ""
		}
	case *bool:
		return ""
	}
	return p.allowed()
}

func (p *param) allowed() string { return p.allowedAs(p.key) }

// allowedAs says what may be written under the given name. It never contains
// what was written.
func (p *param) allowedAs(name string) string {
	if p.translated() || p.values != nil {
		return "must be one of " + strings.Join(nonEmpty(p.values), ", ")
	}
	switch p.field(new(Config)).(type) {
	case *bool:
		return "must be true or false"
	case *string:
		return fmt.Sprintf("must be at most %d bytes of text without control characters", p.max)
	case *int:
		return fmt.Sprintf("must be a whole number from %d to %d", p.min, p.max) + p.zeroText()
	}
	unit := "a number needs a unit"
	if _, bare := lookupParam(name); bare != 0 {
		unit = "without a unit it is " + unitName(bare)
	}
	return fmt.Sprintf("must be a duration from %s to %s, such as 500ms, 30s or 5m (%s)",
		formatDuration(time.Duration(p.min)), formatDuration(time.Duration(p.max)), unit) + p.zeroText()
}

func (p *param) zeroText() string {
	if p.zero == "" {
		return ""
	}
	return "; 0 = " + p.zero
}

// format writes the field as ParseDSN reads it back, and tells whether it is the
// default.
func (p *param) format(c *Config) (value string, isDefault bool) {
	switch f := p.field(c).(type) {
	case *int:
		value = strconv.Itoa(*f)
	case *time.Duration:
		value = formatDuration(*f)
		if *f == -1 {
			value = "-1"
		}
	case *bool:
		value = strconv.FormatBool(*f)
	case *RetryMode:
		value = string(*f)
	case *CommitCheck:
		value = string(*f)
	case *string:
		value = *f
	}
	if p.auto {
		return value, value == "-1"
	}
	return value, value == p.def
}

// parseDigits reads a non-negative decimal number; no sign, no spaces.
func parseDigits(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// parseDuration reads a Go duration, or a bare integer in the given unit. "0"
// needs no unit.
func parseDuration(s string, bare time.Duration) (time.Duration, bool) {
	if n, ok := parseDigits(s); ok {
		if n == 0 {
			return 0, true
		}
		if bare == 0 || n > math.MaxInt64/int64(bare) {
			return 0, false
		}
		return time.Duration(n) * bare, true
	}
	d, err := time.ParseDuration(s)
	return d, err == nil && d >= 0
}

// formatDuration leaves out the zero parts that time.Duration writes: 30m, not 30m0s.
func formatDuration(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func unitName(d time.Duration) string {
	if d == time.Millisecond {
		return "milliseconds"
	}
	return "seconds"
}

// parseBool takes what lib/pq and libpq take, in any case.
func parseBool(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "1", "t", "true", "yes", "on":
		return true, true
	case "0", "f", "false", "no", "off":
		return false, true
	}
	return false, false
}

func isYes(s string) bool {
	b, _ := parseBool(s)
	return b
}

func nonEmpty(s []string) []string {
	return slices.DeleteFunc(slices.Clone(s), func(v string) bool { return v == "" })
}

func upper(s string) string { return strings.ToUpper(s) }

// quoteIdent writes name as a quoted SQL identifier, so that its case and every
// character count.
func quoteIdent(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
