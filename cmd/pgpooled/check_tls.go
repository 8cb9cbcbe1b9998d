package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

// tlsFacts describe the server's TLS.
type tlsFacts struct {
	Version  string   `json:"version"` // TLS 1.3
	Cipher   string   `json:"cipher"`
	Subject  string   `json:"subject"`
	Issuer   string   `json:"issuer"`
	Names    []string `json:"names"` // that the certificate is for
	NotAfter string   `json:"not_after"`
	DaysLeft int      `json:"days_left"` // whole ones; negative: since it ran out
	Expired  bool     `json:"expired"`
	Verified string   `json:"verified"` // what sslmode makes of it: name and issuer, issuer, or nothing
	Error    string   `json:"error,omitempty"`
}

const probeLimit = 2 * time.Second

// probe shakes hands once more, on a connection of its own and without verifying,
// because lib/pq does not tell what its handshake found.
func (t *tracer) probe(ctx context.Context, cfg *pgpooled.Config) *tlsFacts {
	facts := &tlsFacts{Verified: verified(cfg), Names: []string{}}
	limited, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	state, err := t.shakeHands(limited, cfg)
	if err != nil {
		facts.Error = printable(err.Error())
		return facts
	}
	facts.Version, facts.Cipher = tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite)
	if len(state.PeerCertificates) == 0 {
		return facts
	}
	cert := state.PeerCertificates[0]
	facts.Subject, facts.Issuer = printable(cert.Subject.String()), printable(cert.Issuer.String())
	for _, name := range cert.DNSNames {
		facts.Names = append(facts.Names, printable(name))
	}
	for _, ip := range cert.IPAddresses {
		facts.Names = append(facts.Names, ip.String())
	}
	facts.NotAfter = cert.NotAfter.UTC().Format(time.RFC3339)
	left := time.Until(cert.NotAfter)
	facts.DaysLeft, facts.Expired = int(left.Hours()/24), left <= 0
	return facts
}

func verified(cfg *pgpooled.Config) string {
	switch cfg.PQ.SSLMode {
	case pq.SSLModeVerifyFull:
		return "name and issuer"
	case pq.SSLModeVerifyCA:
		return "issuer"
	case pq.SSLModeDisable, pq.SSLModeAllow, pq.SSLModePrefer:
		return "nothing"
	case pq.SSLModeRequire:
		if cfg.PQ.SSLRootCert != "" { // as libpq has it
			return "issuer"
		}
		return "nothing"
	}
	return "by the program"
}

func (t *tracer) shakeHands(ctx context.Context, cfg *pgpooled.Config) (state tls.ConnectionState, err error) {
	d := t.last()
	conn, err := (&net.Dialer{}).DialContext(ctx, d.network, d.address)
	if err != nil {
		return state, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	c := &tls.Config{ServerName: d.host, InsecureSkipVerify: true} //nolint:gosec // a look at the certificate, nothing is sent
	if cfg.PQ.SSLNegotiation == pq.SSLNegotiationDirect {
		c.NextProtos = []string{"postgresql"}
	} else {
		request := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 8), sslRequestCode)
		answer := make([]byte, 1)
		if _, err := conn.Write(request); err != nil {
			return state, err
		}
		if _, err := io.ReadFull(conn, answer); err != nil {
			return state, err
		}
		if answer[0] != 'S' {
			return state, errors.New("the server has no TLS this time")
		}
	}
	client := tls.Client(conn, c)
	if err := client.HandshakeContext(ctx); err != nil {
		return state, err
	}
	return client.ConnectionState(), nil
}
