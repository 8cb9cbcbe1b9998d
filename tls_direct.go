package pgpooled

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/lib/pq"
)

// alpn names PostgreSQL's protocol inside the TLS handshake. A server that takes
// TLS without being asked first (17 and newer) closes the connection of a client
// that does not name it.
const alpn = "postgresql"

// nameProtocol makes sslnegotiation=direct work. lib/pq 1.12.3 begins TLS at
// once but does not name the protocol, so that every server refuses; what can
// name it is a TLS configuration registered with lib/pq. That replaces sslmode:
// this one verifies what the sslmode asked for.
func nameProtocol(cfg *pq.Config) error {
	if cfg.SSLNegotiation != pq.SSLNegotiationDirect || strings.HasPrefix(string(cfg.SSLMode), registeredTLS) {
		return nil
	}
	if f := homeRootCert(); cfg.SSLRootCert == "" && !cfg.SSLInline {
		cfg.SSLRootCert = f // lib/pq looks there in its own modes only
	}
	c := &tls.Config{NextProtos: []string{alpn}}
	name := "pgpooled-direct-"
	switch cfg.SSLMode {
	case pq.SSLModeVerifyFull:
		name += "full"
		cfg.SSLSNI = true // lib/pq then fills in the host's name, which is what is verified
	case pq.SSLModeVerifyCA:
		name += "ca-" + verifyChain(c, cfg.SSLRootCert, cfg.SSLInline)
	default:
		if _, err := os.Stat(cfg.SSLRootCert); err != nil && !cfg.SSLInline {
			cfg.SSLRootCert = "" // to require, a file that is missing is no error
		}
		if cfg.SSLRootCert == "" {
			name, c.InsecureSkipVerify = name+"any", true
			break
		}
		name += "ca-" + verifyChain(c, cfg.SSLRootCert, cfg.SSLInline)
	}
	cfg.SSLMode = pq.SSLMode(registeredTLS + name)
	return pq.RegisterTLSConfig(name, c) // the same name is always the same configuration
}

// verifyChain makes c verify who signed the server's certificate, and not the
// host's name. It returns a name for these roots; "" are the system's.
func verifyChain(c *tls.Config, roots string, inline bool) string {
	c.InsecureSkipVerify = true // replaced by:
	c.VerifyConnection = func(state tls.ConnectionState) error {
		opts := x509.VerifyOptions{Intermediates: x509.NewCertPool()}
		if roots != "" {
			pem := []byte(roots)
			if !inline {
				var err error
				if pem, err = os.ReadFile(roots); err != nil {
					return err
				}
			}
			opts.Roots = x509.NewCertPool()
			if !opts.Roots.AppendCertsFromPEM(pem) {
				return errors.New("no certificate in sslrootcert")
			}
		}
		for _, cert := range state.PeerCertificates[1:] {
			opts.Intermediates.AddCert(cert)
		}
		_, err := state.PeerCertificates[0].Verify(opts)
		return err
	}
	sum := sha256.Sum256([]byte(roots))
	if inline {
		return "inline-" + hex.EncodeToString(sum[:])
	}
	return hex.EncodeToString(sum[:])
}

// homeRootCert is the file that libpq and lib/pq take if sslrootcert is not
// given, "" if there is none.
func homeRootCert() string {
	home, _ := os.UserHomeDir()
	if home == "" {
		if u, err := user.Current(); err == nil {
			home = u.HomeDir
		}
	}
	f := filepath.Join(home, ".postgresql", "root.crt")
	if runtime.GOOS == "windows" {
		f = filepath.Join(os.Getenv("APPDATA"), "postgresql", "root.crt")
	}
	if _, err := os.Stat(f); err != nil {
		return ""
	}
	return f
}
