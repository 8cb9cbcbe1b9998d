package pgpooled

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"

	"github.com/lib/pq"
)

// HealthReason sorts an error into one of a few words that tell an operator
// where to look and a stranger nothing:
//
//	closed        this process has closed the pool
//	refused       nobody listens there
//	dns           the host's name cannot be resolved
//	timeout       no answer in time
//	lost          the connection failed
//	tls           certificate or TLS set-up
//	auth          role, password, pg_hba.conf or database
//	starting_up   the server starts up, shuts down or recovers, or its pooler does not reach it
//	full          the server has no connection left (53300), or its pooler
//	pool_timeout  no session within pool_timeout or the check's time
//	server_error  the server answered with another error
//	other         anything else
//
// It is empty for nil.
func HealthReason(err error) string {
	if err == nil {
		return ""
	}
	var (
		answer  *pq.Error
		pool    *PoolTimeoutError
		dns     *net.DNSError
		badCert *tls.CertificateVerificationError
		ca      x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError // expired, say
		alert   tls.AlertError
		file    *fs.PathError // a certificate or key
	)
	var busy *healthError
	if errors.As(err, &busy) {
		return HealthReason(busy.probe)
	}
	if errors.As(err, &pool) && pool.Connect != nil {
		err = pool.Connect // what keeps the pool from having a session
		pool = nil
	}
	switch {
	case errors.Is(err, ErrClosed):
		return "closed"
	case errors.As(err, &answer):
		switch refusedByPooler(answer) {
		case poolerFull:
			return "full"
		case poolerHasNoServer, poolerShutsDown:
			return "starting_up"
		}
		return stateReason(string(answer.Code))
	case errors.Is(err, syscall.ECONNREFUSED), anyOf(err, isUnixSocketMissing):
		return "refused"
	case errors.As(err, &dns):
		return "dns"
	case errors.Is(err, pq.ErrSSLNotSupported), errors.As(err, &badCert), errors.As(err, &ca), errors.As(err, &invalid), errors.As(err, &alert),
		anyOf(err, isTLSFailure), errors.As(err, &file):
		return "tls"
	case pool != nil:
		return "pool_timeout"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "lost"
	}
	return "other"
}

// isTLSFailure: crypto/tls gives the alerts of either side as a net.OpError with
// these names for what was being done.
func isTLSFailure(err error) bool {
	op, ok := err.(*net.OpError) // anyOf unwraps
	return ok && (op.Op == "remote error" || op.Op == "local error")
}

func stateReason(code string) string {
	switch {
	case code == "53300":
		return "full"
	case code == "3D000", code == "42501", len(code) == 5 && code[:2] == "28":
		return "auth"
	case passingState(code):
		return "starting_up"
	}
	return "server_error"
}
