package pgpooled

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const registeredTLS = "pqgo-" // sslmode=pqgo-NAME is a tls.Config registered with lib/pq

// translateTLS turns Prisma's sslaccept and libpq's channel_binding into sslmode
// and sslrootcert.
func (s *settings) translateTLS() error {
	accept, err := s.word("sslaccept")
	if err != nil {
		return err
	}
	binding, err := s.word("channel_binding")
	if err != nil {
		return err
	}
	mode, custom := s.effective("sslmode"), strings.HasPrefix(s.effective("sslmode"), registeredTLS)

	if accept != "" && s.pq["sslcert"] != "" && s.pq["sslkey"] == "" {
		// With Prisma it is the server's CA; libpq and lib/pq would offer it as
		// the client's certificate, and trust nobody new.
		return &DSNError{"sslcert", "beside sslaccept this is Prisma's meaning, the server's CA; use sslrootcert for it (with a client certificate give sslkey too)"}
	}
	for _, key := range []string{"sslkey", "sslcert", "sslrootcert"} {
		// lib/pq would take it for a file name and print it in its error.
		if strings.Contains(s.pq[key], "-----BEGIN") && s.effective("sslinline") == "" {
			return &DSNError{key, "it holds the PEM text itself: add sslinline=true, or give the name of a file"}
		}
	}
	switch accept {
	case "strict":
		if custom || mode == "disable" || mode == "verify-ca" {
			return &DSNError{"sslaccept and sslmode", "sslaccept=strict means sslmode=verify-full; leave one of the two out"}
		}
		mode = "verify-full"
		s.pq["sslmode"] = mode
	case "accept_invalid_certs":
		if custom || mode == "verify-ca" || mode == "verify-full" {
			return &DSNError{"sslaccept and sslmode", "sslaccept=accept_invalid_certs means that no certificate is verified (sslmode=require); leave one of the two out"}
		}
		if mode == "" {
			mode = "require"
			s.pq["sslmode"] = mode
		}
	}
	if binding != "require" {
		return nil
	}
	switch {
	case accept == "accept_invalid_certs":
		return &DSNError{"channel_binding and sslaccept", "channel_binding=require needs a verified server certificate; leave sslaccept=accept_invalid_certs out"}
	case mode == "disable":
		return &DSNError{"channel_binding and sslmode", "channel_binding=require needs TLS; leave sslmode=disable out"}
	case custom:
		return &DSNError{"channel_binding and sslmode", "channel_binding=require is met by sslmode=verify-full, not by a TLS configuration of the program's own; leave channel_binding out"}
	case slices.ContainsFunc(s.hosts(), isSocket):
		return &DSNError{"channel_binding and host", "channel_binding=require needs TLS, which a Unix socket does not have"}
	}
	s.pq["sslmode"] = "verify-full"
	if s.effective("sslrootcert") == "" {
		s.pq["sslrootcert"] = "system"
	}
	return nil
}

// word returns the value of a translated key, checked against its list.
func (s *settings) word(key string) (string, error) {
	o, ok := s.own[key]
	if !ok || o.value == "" {
		return "", nil
	}
	p, _ := lookupParam(key)
	if !slices.Contains(p.values, o.value) {
		return "", &DSNError{o.source, p.allowed()}
	}
	return o.value, nil
}

// effective is the value of one of lib/pq's keys, from the DSN or its
// environment variable.
func (s *settings) effective(key string) string {
	if v, ok := s.pq[key]; ok {
		return v
	}
	if env := pqKeys[key]; env != "" {
		return os.Getenv(env)
	}
	return ""
}

// hosts returns where lib/pq will connect to.
func (s *settings) hosts() []string {
	if v := s.effective("hostaddr"); v != "" {
		return strings.Split(v, ",")
	}
	return strings.Split(s.effective("host"), ",")
}

// isSocket is lib/pq's rule.
func isSocket(host string) bool {
	return strings.HasPrefix(host, "@") || filepath.IsAbs(host)
}

func setsSearchPath(schema string) bool { return schema != "" && schema != "public" }

func (s *settings) translateSchema(c *Config) error {
	if !setsSearchPath(c.Schema) {
		return nil
	}
	want := quoteIdent(c.Schema)
	for name, value := range s.runtime {
		if strings.EqualFold(name, "search_path") {
			if value != want {
				return &DSNError{"schema and search_path", "both set the search path; leave one out"}
			}
			delete(s.runtime, name)
		}
	}
	s.runtime["search_path"] = want
	return nil
}
