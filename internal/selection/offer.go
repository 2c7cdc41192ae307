package selection

import (
	"crypto/tls"
	"slices"
)

// offer is what client and server have in common.
type offer struct {
	version uint16
	curves  []tls.CurveID
	suites  []uint16
	schemes []tls.SignatureScheme
}

func offerOf(hello *tls.ClientHelloInfo, server Parameters) offer {
	o := offer{
		curves:  hello.SupportedCurves,
		suites:  common(hello.CipherSuites, server.CipherSuites),
		schemes: common(hello.SignatureSchemes, server.SignatureSchemes),
	}
	minimum, maximum := server.MinVersion, server.MaxVersion
	if minimum == 0 {
		minimum = tls.VersionTLS12
	}
	if maximum == 0 {
		maximum = tls.VersionTLS13
	}
	for _, v := range hello.SupportedVersions {
		if v >= minimum && v <= maximum {
			o.version = max(o.version, v)
		}
	}
	return o
}

// suits reports whether a handshake can be signed with the certificate's key.
func (o offer) suits(l *leaf, certificate *tls.Certificate) bool {
	schemes := common(o.schemes, certificate.SupportedSignatureAlgorithms)
	switch o.version {
	case tls.VersionTLS13:
		switch l.key {
		case rsaKey:
			return intersect(schemes, rsaPSS)
		case ecdsaKey:
			// In TLS 1.3 a scheme names the curve.
			scheme, ok := ecdsaOf[l.curve]
			return ok && slices.Contains(schemes, scheme)
		case ed25519Key:
			return slices.Contains(schemes, tls.Ed25519)
		}
	case tls.VersionTLS12:
		switch l.key {
		case rsaKey:
			return intersect(o.suites, rsaSuites) && (intersect(schemes, rsaPSS) || intersect(schemes, rsaPKCS1))
		case ecdsaKey:
			return intersect(o.suites, ecdsaSuites) && intersect(schemes, ecdsaAny) &&
				(len(o.curves) == 0 || slices.Contains(o.curves, l.curve))
		case ed25519Key:
			return intersect(o.suites, ecdsaSuites) && slices.Contains(schemes, tls.Ed25519)
		}
	}
	return false
}

// SHA-1 is left out everywhere: no provider signs with it.
var (
	rsaPSS   = []tls.SignatureScheme{tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512}
	rsaPKCS1 = []tls.SignatureScheme{tls.PKCS1WithSHA256, tls.PKCS1WithSHA384, tls.PKCS1WithSHA512}
	ecdsaAny = []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.ECDSAWithP384AndSHA384, tls.ECDSAWithP521AndSHA512}
	ecdsaOf  = map[tls.CurveID]tls.SignatureScheme{
		tls.CurveP256: tls.ECDSAWithP256AndSHA256,
		tls.CurveP384: tls.ECDSAWithP384AndSHA384,
		tls.CurveP521: tls.ECDSAWithP521AndSHA512,
	}
)

// The suites of TLS 1.2 in which the server signs, by the key that it signs
// with, from the IANA registry.
var (
	ecdsaSuites = []uint16{
		0xc02b, 0xc02c, 0xcca9, // AES GCM, ChaCha20
		0xc0ac, 0xc0ad, 0xc0ae, 0xc0af, // AES CCM
		0xc009, 0xc00a, 0xc023, 0xc024, // AES CBC
	}
	rsaSuites = []uint16{
		0xc02f, 0xc030, 0xcca8, 0xc013, 0xc014, 0xc027, 0xc028, // ECDHE
		0x009e, 0x009f, 0xccaa, 0xc09e, 0xc09f, 0x0033, 0x0039, 0x0067, 0x006b, // DHE
	}
)

// common returns the values of the first list that the second allows; nil
// allows all.
func common[T comparable](values, allowed []T) []T {
	if allowed == nil {
		return values
	}
	var out []T
	for _, v := range values {
		if slices.Contains(allowed, v) {
			out = append(out, v)
		}
	}
	return out
}

func intersect[T comparable](a, b []T) bool {
	return slices.ContainsFunc(a, func(v T) bool { return slices.Contains(b, v) })
}
