package compat

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lib/pq"
)

// record is what an application saw.
type record struct {
	lines []string
	hide  []string // what may differ: the database's and the driver's name
}

// see notes values; errors are described.
func (r *record) see(what string, values ...any) {
	line := what + ":"
	for _, v := range values {
		if err, ok := v.(error); ok {
			line += " " + describe(err)
			continue
		}
		line += fmt.Sprintf(" %T(%+v)", v, v)
	}
	for _, h := range r.hide {
		line = strings.ReplaceAll(line, h, "…")
	}
	r.lines = append(r.lines, line)
}

var sentinels = []struct {
	name string
	err  error
}{
	{"ErrNoRows", sql.ErrNoRows}, {"ErrTxDone", sql.ErrTxDone}, {"ErrConnDone", sql.ErrConnDone},
	{"ErrBadConn", driver.ErrBadConn}, {"Canceled", context.Canceled}, {"DeadlineExceeded", context.DeadlineExceeded},
}

// describe tells of an error what a program can branch on: its type, its
// SQLSTATE and constraint, the sentinels it is; and its text.
func describe(err error) string {
	s := fmt.Sprintf("error %T", err)
	var pe *pq.Error
	if errors.As(err, &pe) {
		s += fmt.Sprintf(" pq.Error{%s %s %s %q %q %q at %s}", pe.Code, pe.Severity, pe.Message, pe.Detail, pe.Constraint, pe.Table, pe.Position)
	}
	for _, k := range sentinels {
		if errors.Is(err, k.err) {
			s += " is " + k.name
		}
	}
	return s + " " + err.Error()
}

// diff lists where two records part, at most ten places.
func diff(want, got *record) (all []string) {
	for i := range max(len(want.lines), len(got.lines)) {
		w, g := "nothing", "nothing"
		if i < len(want.lines) {
			w = want.lines[i]
		}
		if i < len(got.lines) {
			g = got.lines[i]
		}
		if w != g {
			if all = append(all, fmt.Sprintf("they differ:\npostgres %s\npgpooled %s", w, g)); len(all) == 10 {
				return append(all, "and perhaps more")
			}
		}
	}
	return all
}

// A comparison that finds everything equal proves something only if it can find
// a difference.
func TestTheComparisonSeesADifferentValueTypeErrorOrLength(t *testing.T) {
	t.Parallel()
	of := func(values ...any) *record { r := &record{}; r.see("x", values...); return r }
	unique := &pq.Error{Code: "23505"}
	for what, pair := range map[string][2]*record{
		"a value":     {of(1), of(2)},
		"a type":      {of(int64(1)), of(1)},
		"bytes":       {of([]byte("a")), of("a")},
		"nil":         {of(nil), of("")},
		"an error":    {of(nil), of(unique)},
		"a SQLSTATE":  {of(unique), of(&pq.Error{Code: "23503"})},
		"a wrapping":  {of(unique), of(fmt.Errorf("%w", unique))},
		"a sentinel":  {of(errors.New(sql.ErrNoRows.Error())), of(sql.ErrNoRows)},
		"one line":    {of(1), {}},
		"a line more": {{}, of(1)},
	} {
		if len(diff(pair[0], pair[1])) == 0 {
			t.Errorf("%s: the difference is not seen", what)
		}
		if len(diff(pair[0], pair[0])) != 0 {
			t.Errorf("%s: equal records differ", what)
		}
	}
}
