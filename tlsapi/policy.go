package tlsapi

import "crypto/tls"

// Names of the security policies that every provider has. They follow
// Mozilla's Server Side TLS guidelines, version 5.7.
const (
	// PolicyIntermediate is TLS 1.2 and 1.3 for general use.
	PolicyIntermediate = "intermediate"
	// PolicyModern is TLS 1.3 only.
	PolicyModern = "modern"
)

// Policy is the content of a security policy.
type Policy struct {
	MinVersion, MaxVersion uint16
	CipherSuites           []uint16
	Curves                 []CurveID
}

// LookupPolicy returns PolicyIntermediate or PolicyModern as settings, for
// providers whose library has no policies of its own. The DHE suites of
// intermediate are left out: BoringSSL and crypto/tls have none, and one name
// means one thing.
func LookupPolicy(name string) (Policy, bool) {
	tls13 := []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}
	curves := []CurveID{X25519, CurveP256, CurveP384}
	switch name {
	case PolicyIntermediate:
		return Policy{
			MinVersion: tls.VersionTLS12,
			MaxVersion: tls.VersionTLS13,
			CipherSuites: append(tls13,
				tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
				tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
				tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
				tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
				tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
				tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
			Curves: curves,
		}, true
	case PolicyModern:
		return Policy{MinVersion: tls.VersionTLS13, MaxVersion: tls.VersionTLS13, CipherSuites: tls13, Curves: curves}, true
	}
	return Policy{}, false
}
