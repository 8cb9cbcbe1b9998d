package pgpooled

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// message is one of the protocol's, with a length that is right.
func message(kind byte, body string) string {
	return string(kind) + string(binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))) + body //nolint:gosec // short
}

func failing(severity, code, text string) string {
	return message('E', "S"+severity+"\x00C"+code+"\x00M"+text+"\x00\x00")
}

func TestFarewellsAreReadFromWholeAnswersOnly(t *testing.T) {
	t.Parallel()
	wait := failing("FATAL", "08P01", "query_wait_timeout")
	ready := message('Z', "I")
	for _, c := range []struct {
		what, answer string
		want         string // empty = none
		neverSent    bool
	}{
		{"nothing", "", "", false},
		{"a farewell", failing("FATAL", "57P01", "terminating"), "FATAL: terminating (57P01)", false},
		{"a crash", failing("PANIC", "XX000", "gone"), "PANIC: gone (XX000)", false},
		{"of another language", message('E', "SFATALE\x00VFATAL\x00C57P01\x00Mfin\x00\x00"), "FATAL: fin (57P01)", false},
		{"an error that is none", failing("ERROR", "22012", "division by zero") + ready, "", false},
		{"a warning", message('N', "SFATAL\x00C57P01\x00Mx\x00\x00"), "", false},
		{"after a notice and a setting", message('N', "SNOTICE\x00\x00") + message('S', "a\x00b\x00") + wait, "FATAL: query_wait_timeout (08P01)", true},
		{"ready, it says", wait + ready, "FATAL: query_wait_timeout (08P01)", true},
		{"longer text", failing("FATAL", "08P01", "server login has been failing, try again later"), "FATAL: server login has been failing, try again later (08P01)", true},
		{"had a server", failing("FATAL", "08P01", "server conn crashed?"), "FATAL: server conn crashed? (08P01)", false},
		{"another code", failing("FATAL", "57P01", "query_wait_timeout"), "FATAL: query_wait_timeout (57P01)", false},
		{"after a part of the answer", message('2', "") + wait, "FATAL: query_wait_timeout (08P01)", false},
		{"after a row", message('D', "\x00\x00") + wait, "FATAL: query_wait_timeout (08P01)", false},
		{"in a row", message('D', wait), "", false},
		{"more follows", wait + message('C', "INSERT 0 1\x00"), "", false},
		{"ready, and more follows", wait + ready + ready, "", false},
		{"cut short", wait[:len(wait)-1], "", false},
		{"a field without an end", message('E', "SFATAL"), "", false},
		{"a field without a name", message('E', "SFATAL\x00\x00\x00\x00"), "", false},
		{"a length that is too small", "E\x00\x00\x00\x03", "", false},
		{"a length that is too large", "E\xff\xff\xff\xff" + wait[5:], "", false},
		{"TLS", "\x17\x03\x03\x00\x05" + wait, "", false},
		{"the fewest bytes", "E\x00\x00\x00\x04", "", false},
		{"too long", failing("FATAL", "08P01", "query_wait_timeout"+strings.Repeat("x", answerKept)), "", false},
	} {
		var k beginning
		k.keep([]byte(c.answer), true)
		err := k.farewell(io.EOF)
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: hides how the connection ended: %v", c.what, err)
		}
		var f *farewell
		if got := errors.As(err, &f); got != (c.want != "") || got && f.Error() != c.want {
			t.Errorf("%s: %v", c.what, err)
		}
		if got := neverSent(fmt.Errorf("wrapped: %w", err)); got != c.neverSent {
			t.Errorf("%s: never sent: %t", c.what, got)
		}
		// What comes later is no first piece, whatever it looks like.
		k.keep([]byte(c.answer), false)
		if err := k.farewell(io.EOF); err != io.EOF {
			t.Errorf("%s, later: %v", c.what, err)
		}
	}
}

func FuzzFarewell(f *testing.F) {
	f.Add([]byte(failing("FATAL", "57P01", "terminating") + message('Z', "I")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if f := readFarewell(b); f != nil && f.severity != "FATAL" && f.severity != "PANIC" {
			t.Error(f)
		}
	})
}
