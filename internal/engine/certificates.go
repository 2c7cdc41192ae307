package engine

import (
	"crypto/x509"
	"runtime"
	"sync"
	"weak"
)

// certificates are the parsed certificates that connections share, each for as
// long as somebody has it: the peers of a program send few different ones, and
// parsing costs many times the look. Nobody modifies what a
// tls.ConnectionState holds.
var certificates = sharedCertificates{known: make(map[string]weak.Pointer[x509.Certificate])}

type sharedCertificates struct {
	mu sync.RWMutex
	// known has the certificates by their DER form.
	known map[string]weak.Pointer[x509.Certificate]
}

// parse returns the certificate of these bytes, which stay the caller's.
func (s *sharedCertificates) parse(der []byte) (*x509.Certificate, error) {
	s.mu.RLock()
	cert := s.known[string(der)].Value()
	s.mu.RUnlock()
	if cert != nil {
		return cert, nil
	}
	// A copy: the certificate refers to its bytes, and the caller's are part of
	// something larger.
	key := string(der)
	cert, err := x509.ParseCertificate([]byte(key))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.known[key].Value(); other != nil {
		return other, nil
	}
	s.known[key] = weak.Make(cert)
	runtime.AddCleanup(cert, s.forget, key)
	return cert, nil
}

// forget removes what nobody has any more, unless it has come again meanwhile.
func (s *sharedCertificates) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.known[key]; ok && p.Value() == nil {
		delete(s.known, key)
	}
}

// parseChain leaves out what does not parse: the verification has had its say.
func parseChain(chain [][]byte) []*x509.Certificate {
	if len(chain) == 0 {
		return nil
	}
	certs := make([]*x509.Certificate, 0, len(chain))
	for _, der := range chain {
		if cert, err := certificates.parse(der); err == nil {
			certs = append(certs, cert)
		}
	}
	return certs
}
