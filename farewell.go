package pgpooled

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// farewell is what the server, or a pooler, said last: an error after which it
// closed the connection. lib/pq keeps that to itself when it comes as the answer
// to a statement. With TLS it cannot be read here.
type farewell struct {
	severity, code, message string

	alone bool  // it was all that was answered
	cause error // how the connection ended
}

func (f *farewell) Error() string {
	return fmt.Sprintf("%s: %s (%s)", f.severity, f.message, f.code)
}

func (f *farewell) Unwrap() error { return f.cause }

// answerKept is how much of an answer is kept, to find a farewell in it.
const answerKept = 1 << 10

// beginning keeps the first piece of each answer, if that is short. It is used by
// reads only; asked is set by a write, after which a new answer begins.
type beginning struct {
	buf [answerKept]byte
	n   int // 0 = the answer has gone on, or was too long
}

func (k *beginning) keep(b []byte, first bool) {
	k.n = 0
	if first && len(b) <= len(k.buf) {
		k.n = copy(k.buf[:], b)
	}
}

// farewell is what the connection's end means: err, or what was said before it.
func (k *beginning) farewell(err error) error {
	if f := readFarewell(k.buf[:k.n]); f != nil {
		f.cause = err
		return f
	}
	return err
}

// readFarewell reads whole messages, of which the last one is an error that ends
// the connection. Anything else is nil.
func readFarewell(b []byte) *farewell {
	alone := true
	for len(b) >= 5 {
		size := binary.BigEndian.Uint32(b[1:])
		if size < 4 || uint64(size) >= uint64(len(b)) {
			return nil
		}
		kind, body := b[0], b[5:1+size]
		b = b[1+size:]
		switch {
		case kind == 'E' && (len(b) == 0 || b[0] == 'Z' && len(b) == 6): // poolers add that they are ready, and are not
			return fatal(body, alone)
		case bytes.IndexByte([]byte("NSA"), kind) >= 0: // may come at any time
		case bytes.IndexByte([]byte("12nstTDCI"), kind) >= 0:
			alone = false
		default:
			return nil
		}
	}
	return nil
}

func fatal(body []byte, alone bool) *farewell {
	f := &farewell{alone: alone}
	verbatim := ""
	for len(body) > 1 {
		end := bytes.IndexByte(body, 0)
		if end < 1 {
			return nil
		}
		switch value := string(body[1:end]); body[0] {
		case 'S':
			f.severity = value
		case 'V': // the same, in no language
			verbatim = value
		case 'C':
			f.code = value
		case 'M':
			f.message = value
		}
		body = body[end+1:]
	}
	if verbatim != "" {
		f.severity = verbatim
	}
	if f.severity != "FATAL" && f.severity != "PANIC" {
		return nil
	}
	return f
}
