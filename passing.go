package pgpooled

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/lib/pq"
	"github.com/sethvargo/go-retry"
)

// retryPolicy is the part of the configuration that says how opening a
// connection is repeated.
type retryPolicy struct {
	mode                RetryMode
	maxAttempts         int // 0 = as many as fit the budget
	baseDelay, maxDelay time.Duration
}

// connect says whether a failed dial is repeated.
func (r retryPolicy) connect() bool { return r.mode != RetryOff }

// backoff is exponential with full jitter, so that the clients of one server do
// not come back all at once.
func (r retryPolicy) backoff() retry.Backoff { return exponential(r.baseDelay, r.maxDelay, true) }

// passing says whether a failure to connect can pass by itself. known: the pool
// has connected before, so the host's name is not a typing error.
func passing(err error, known bool) bool {
	return anyOf(err, func(err error) bool {
		switch e := err.(type) { // anyOf unwraps
		case *pq.Error:
			return passingState(string(e.Code)) || refusedByPooler(e) != poolerSaysNo
		case *connectError:
			return e.wrongServer || e.turnedAway
		case *net.DNSError:
			return known || e.IsTemporary || e.IsTimeout || !e.IsNotFound
		case syscall.Errno:
			switch e {
			case syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE, syscall.ETIMEDOUT,
				syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EAGAIN, syscall.EMFILE, syscall.ENFILE:
				return true
			}
		case *tls.CertificateVerificationError, x509.UnknownAuthorityError, x509.HostnameError, tls.AlertError:
			return false
		}
		return err == io.EOF || err == io.ErrUnexpectedEOF || err == context.DeadlineExceeded || // anyOf unwraps
			isTimeout(err) || isUnixSocketMissing(err)
	})
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool }) // anyOf unwraps
	return ok && t.Timeout()
}

// isUnixSocketMissing tells a server that is not there from one that may not be
// reached.
func isUnixSocketMissing(err error) bool {
	op, ok := err.(*net.OpError) // anyOf unwraps
	return ok && op.Net == "unix" && errors.Is(err, syscall.ENOENT)
}

// passingState says whether an answer of the server to a connection attempt can
// change by itself. The codes: PostgreSQL manual, appendix A.
func passingState(code string) bool {
	switch code {
	case "57P01", "57P02", "57P03", // shutting down, crashed, starting up
		"53300", "53000", "53100", "53200", "53400": // too many connections, out of resources
		return true
	case "08P01": // protocol violation: asking again does not help, except as refusedByPooler says
		return false
	}
	return len(code) == 5 && code[:2] == "08" // connection exceptions
}

// isServerFull: the server has no slot left for us (53300), or a pooler has none.
func isServerFull(err error) bool {
	return anyOf(err, func(err error) bool {
		e, ok := err.(*pq.Error) // anyOf unwraps
		return ok && (e.Code == "53300" || refusedByPooler(e) == poolerFull)
	})
}

// anyOf asks an error and everything that it wraps, joined errors included:
// with several hosts it is enough if one of them may come back.
func anyOf(err error, is func(error) bool) bool {
	for err != nil {
		if is(err) {
			return true
		}
		if many, ok := err.(interface{ Unwrap() []error }); ok { // this is the unwrapping
			for _, e := range many.Unwrap() {
				if anyOf(e, is) {
					return true
				}
			}
			return false
		}
		err = errors.Unwrap(err)
	}
	return false
}
