package tlsapi

import "crypto/tls"

// Names of the security policies that every provider has. They follow
// Mozilla's Server Side TLS guidelines in the edition PolicyEdition. Of that
// edition they have the versions, the cipher suites and the groups. It says
// nothing of the signature schemes of handshakes: those stay the provider's
// defaults, as with no policy. What it says of servers' certificates (ECDSA keys
// on P-256 or P-384, for intermediate RSA keys of 2048 bits as well; lifetimes;
// stapled OCSP responses) is for who gets them, and not enforced. It has no DHE
// suites any more. Where it leaves the choice of the suite to the client, servers
// here go by their own order, which is the guidelines' as well.
//
// What a provider's library lacks is left out and stands in the provider's notes
// on ClientPolicyPreset and ServerPolicyPreset; no library adds anything.
const (
	// PolicyIntermediate is TLS 1.2 and 1.3 for general use.
	PolicyIntermediate = "intermediate"
	// PolicyModern is TLS 1.3 only.
	PolicyModern = "modern"

	// PolicyEdition is the edition of the guidelines. It is the last that
	// Mozilla has published: ssl-config.mozilla.org/guidelines/6.0.json.
	PolicyEdition = "6.0 of 3 May 2026"
)

// Policy is the content of a security policy.
type Policy struct {
	MinVersion, MaxVersion uint16
	CipherSuites           []uint16
	Curves                 []CurveID
}

// LookupPolicy returns PolicyIntermediate or PolicyModern as settings, for
// providers whose library has no policies of its own. A library without
// X25519MLKEM768 leaves it out, as Mozilla's own generator of configurations
// does.
func LookupPolicy(name string) (Policy, bool) {
	tls13 := []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}
	curves := []CurveID{X25519MLKEM768, X25519, CurveP256, CurveP384}
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
