package tlstest

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"
	"time"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/require"
)

// tbsCertificate is what is signed of a certificate (RFC 5280 section 4.1).
type tbsCertificate struct {
	Version      int `asn1:"optional,explicit,default:0,tag:0"`
	SerialNumber asn1.RawValue
	Signature    pkix.AlgorithmIdentifier
	Issuer       asn1.RawValue
	Validity     asn1.RawValue
	Subject      asn1.RawValue
	PublicKey    asn1.RawValue
	Extensions   []pkix.Extension `asn1:"omitempty,optional,explicit,tag:3"`
}

type signedCertificate struct {
	TBS       asn1.RawValue
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

// oidECDSAWithSHA256 is what forge signs with.
var (
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidECDSAWithSHA384 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	oidSubjectAltName  = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidKeyUsage        = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidConstraints     = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidExtKeyUsage     = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}
	// oidUnknown is below an arc for examples.
	oidUnknown = asn1.ObjectIdentifier{2, 999, 1}
)

// forge returns the certificate, which a has issued, with another content and
// a's signature on it: what crypto/x509 would not make. The key of a is on
// P-256.
func (a *Authority) forge(t *testing.T, der []byte, change func(*tbsCertificate), changeSigned ...func(*signedCertificate)) []byte {
	t.Helper()
	var signed signedCertificate
	_, err := asn1.Unmarshal(der, &signed)
	require.NoError(t, err)
	var tbs tbsCertificate
	_, err = asn1.Unmarshal(signed.TBS.FullBytes, &tbs)
	require.NoError(t, err)
	change(&tbs)
	content, err := asn1.Marshal(tbs)
	require.NoError(t, err)
	digest := sha256.Sum256(content)
	signature, err := a.Key.Sign(rand.Reader, digest[:], crypto.SHA256)
	require.NoError(t, err)
	signed.TBS = asn1.RawValue{FullBytes: content}
	signed.Algorithm = pkix.AlgorithmIdentifier{Algorithm: oidECDSAWithSHA256}
	signed.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	for _, f := range changeSigned {
		f(&signed)
	}
	out, err := asn1.Marshal(signed)
	require.NoError(t, err)
	return out
}

// set replaces an extension, or adds it.
func (c *tbsCertificate) set(id asn1.ObjectIdentifier, critical bool, value []byte) {
	e := pkix.Extension{Id: id, Critical: critical, Value: value}
	for i := range c.Extensions {
		if c.Extensions[i].Id.Equal(id) {
			c.Extensions[i] = e
			return
		}
	}
	c.Extensions = append(c.Extensions, e)
}

// remove takes an extension away.
func (c *tbsCertificate) remove(id asn1.ObjectIdentifier) {
	var kept []pkix.Extension
	for _, e := range c.Extensions {
		if !e.Id.Equal(id) {
			kept = append(kept, e)
		}
	}
	c.Extensions = kept
}

// sequence encodes a DER SEQUENCE of elements of the context-specific class.
func sequence(t *testing.T, elements ...asn1.RawValue) []byte {
	t.Helper()
	for i := range elements {
		elements[i].Class = asn1.ClassContextSpecific
	}
	der, err := asn1.Marshal(elements)
	require.NoError(t, err)
	return der
}

// forgedCertificates are certificates that an authority should never have
// issued, or that somebody made who is none.
func (s *suite) forgedCertificates(t *testing.T) []verificationCase {
	t.Helper()
	ca, now := s.ca, time.Now()
	name := []string{serverName}
	base := ca.Leaf(t, Spec{CommonName: serverName, DNSNames: name})
	// leaf is the base certificate with another content.
	leaf := func(change func(*tbsCertificate), changeSigned ...func(*signedCertificate)) tls.Certificate {
		cert := base
		cert.Certificate = [][]byte{ca.forge(t, base.Certificate[0], change, changeSigned...)}
		return cert
	}
	dns := func(names ...string) tls.Certificate { return ca.Leaf(t, Spec{DNSNames: names}) }
	san := func(elements ...asn1.RawValue) tls.Certificate {
		return leaf(func(c *tbsCertificate) { c.set(oidSubjectAltName, false, sequence(t, elements...)) })
	}
	rawDNS := func(name string) asn1.RawValue { return asn1.RawValue{Tag: 2, Bytes: []byte(name)} }
	// below is a leaf under an intermediate of the suite's authority, whose
	// content is changed.
	middle := ca.Intermediate(t, Spec{CommonName: "Intermediate"})
	below := func(change func(*tbsCertificate)) tls.Certificate {
		cert := middle.Leaf(t, Spec{DNSNames: name})
		cert.Certificate = [][]byte{cert.Certificate[0], ca.forge(t, middle.Certificate.Raw, change)}
		return cert
	}
	constrained := func(names ...asn1.RawValue) func(*tbsCertificate) {
		return func(c *tbsCertificate) {
			// Each is in a GeneralSubtree of the permitted ([0]) or, with a tag
			// above 100, of the excluded ones ([1]).
			var lists [2][]byte
			for _, n := range names {
				which := n.Tag / 100
				n.Tag %= 100
				lists[which] = append(lists[which], sequence(t, n)...)
			}
			var parts []asn1.RawValue
			for tag, list := range lists {
				if len(list) > 0 {
					parts = append(parts, asn1.RawValue{Tag: tag, IsCompound: true, Bytes: list})
				}
			}
			c.set(oidNameConstraints, true, sequence(t, parts...))
		}
	}
	usage := func(bits byte) tls.Certificate {
		return leaf(func(c *tbsCertificate) { c.set(oidKeyUsage, true, []byte{3, 2, 0, bits}) })
	}
	purposes := func(ids ...asn1.ObjectIdentifier) []byte {
		der, err := asn1.Marshal(ids)
		require.NoError(t, err)
		return der
	}
	purpose := func(ids ...asn1.ObjectIdentifier) tls.Certificate {
		return leaf(func(c *tbsCertificate) { c.set(oidExtKeyUsage, false, purposes(ids...)) })
	}
	pkixPurpose := func(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, n} }

	as := func(name string) func(*tlsapi.ClientConfig) {
		return func(c *tlsapi.ClientConfig) { c.ServerName = name }
	}
	trust := func(a ...*Authority) func(*tlsapi.ClientConfig) {
		return func(c *tlsapi.ClientConfig) { c.RootCAs = Pool(a...) }
	}

	var (
		longChain   = ca.Intermediate(t, Spec{CommonName: "No more below", PathLen: -1}).Intermediate(t, Spec{CommonName: "Too deep"})
		oneMore     = ca.Intermediate(t, Spec{CommonName: "One below", PathLen: 1}).Intermediate(t, Spec{CommonName: "One"}).Intermediate(t, Spec{CommonName: "Two"})
		futureRoot  = NewAuthority(t, Spec{CommonName: "Future root", NotBefore: now.Add(time.Hour)})
		weakRoot    = NewAuthority(t, Spec{CommonName: "Weak root", Key: RSA1024})
		permitted   = NewAuthority(t, Spec{CommonName: "Constrained", PermittedDNSDomains: []string{"allowed.example"}})
		posed       = SelfSigned(t, Spec{CommonName: ca.Certificate.Subject.CommonName, DNSNames: name})
		badMiddle   = middle.Leaf(t, Spec{DNSNames: name})
		garbage     = base
		trailing    = base
		otherLeaf   = ca.Leaf(t, Spec{Key: RSA, DNSNames: name})
		badIntKind  = []tlsapi.Kind{tlsapi.KindInvalidCertificate, tlsapi.KindUntrusted}
		unparseable = []tlsapi.Kind{tlsapi.KindInvalidCertificate, tlsapi.KindProtocol, tlsapi.KindHostname}
	)
	tampered := append([]byte(nil), middle.Certificate.Raw...)
	tampered[len(tampered)-1] ^= 1
	badMiddle.Certificate = [][]byte{badMiddle.Certificate[0], tampered}
	garbage.Certificate = [][]byte{[]byte("not a certificate")}
	trailing.Certificate = [][]byte{append(append([]byte(nil), base.Certificate[0]...), 0)}
	// The server signs with a key that is not the certificate's.
	wrongKey := base
	wrongKey.Certificate = otherLeaf.Certificate

	cases := []verificationCase{
		// Names.
		{name: "wildcard alone", cert: dns("*"), configure: as("example"), kind: tlsapi.KindHostname},
		{name: "wildcard in the middle", cert: dns("www.*.example"), configure: as("www.a.example"), kind: tlsapi.KindHostname},
		{name: "wildcard at the end", cert: dns("www.example.*"), configure: as("www.example.com"), kind: tlsapi.KindHostname},
		{name: "two wildcards", cert: dns("*.*.example.com"), configure: as("a.b.example.com"), kind: tlsapi.KindHostname},
		{name: "wildcard with a tail", cert: dns("*w.example.com"), configure: as("www.example.com"), kind: tlsapi.KindHostname},
		{name: "wildcard within a label", cert: dns("w*w.example.com"), configure: as("www.example.com"), kind: tlsapi.KindHostname},
		{name: "wildcard in an A-label", cert: dns("xn--*.example.com"), configure: as("xn--bcher-kva.example.com"), kind: tlsapi.KindHostname},
		{name: "wildcard for addresses", cert: dns("*.0.0.1"), configure: as("127.0.0.1"), kind: tlsapi.KindHostname},
		{name: "A-label", cert: dns("xn--bcher-kva.example"), configure: as("xn--bcher-kva.example")},
		{name: "another A-label", cert: dns("xn--bcher-kva.example"), configure: as("xn--bcher-kvb.example"), kind: tlsapi.KindHostname},
		{name: "name that begins with a dot", cert: san(rawDNS(".server.example")), configure: as("www.server.example"), kinds: unparseable},
		{name: "name that begins with the right one", cert: dns(serverName + ".evil.example"), kind: tlsapi.KindHostname},
		{name: "NUL byte behind the right name", cert: san(rawDNS(serverName + "\x00.evil.example")), kinds: unparseable},
		{name: "empty name", cert: san(rawDNS("")), kinds: unparseable},
		{name: "no names in the extension", cert: san(), kinds: unparseable},
		{name: "space behind the right name", cert: san(rawDNS(serverName + " ")), kinds: unparseable},
		{name: "name as an email address", cert: san(asn1.RawValue{Tag: 1, Bytes: []byte("a@" + serverName)}), kind: tlsapi.KindHostname},
		{name: "name as a URI", cert: san(asn1.RawValue{Tag: 6, Bytes: []byte("https://" + serverName)}), kind: tlsapi.KindHostname},
		{name: "address of five bytes", cert: san(asn1.RawValue{Tag: 7, Bytes: []byte{127, 0, 0, 1, 0}}), configure: as("127.0.0.1"), kinds: unparseable},
		{name: "address with the text of one", cert: san(asn1.RawValue{Tag: 7, Bytes: []byte("2001:db8::7abcde")}), configure: as("2001:db8::7"), kind: tlsapi.KindHostname},
		{name: "no names at all", cert: ca.Leaf(t, Spec{Organization: "Nobody"}), kind: tlsapi.KindHostname},

		// Trust.
		{name: "self-signed with the name of the authority", cert: posed, kinds: []tlsapi.Kind{tlsapi.KindSelfSigned, tlsapi.KindUntrusted, tlsapi.KindInvalidCertificate}},
		{name: "intermediate with a wrong signature", cert: badMiddle, kinds: badIntKind},
		{name: "algorithms that differ within the certificate", kinds: unparseable,
			cert: leaf(func(c *tbsCertificate) { c.Signature.Algorithm = oidECDSAWithSHA384 })},
		{name: "algorithm that the signature is not of", kinds: unparseable,
			cert: leaf(func(c *tbsCertificate) { c.Signature.Algorithm = oidECDSAWithSHA384 },
				func(c *signedCertificate) { c.Algorithm.Algorithm = oidECDSAWithSHA384 })},
		{name: "empty signature", cert: leaf(func(*tbsCertificate) {}, func(c *signedCertificate) { c.Signature = asn1.BitString{} }), kinds: unparseable},
		{name: "not a certificate", cert: garbage, kinds: unparseable},
		{name: "key of another certificate", cert: wrongKey, kinds: []tlsapi.Kind{tlsapi.KindProtocol, tlsapi.KindTransport, tlsapi.KindPeerAlert}},

		// Validity.
		{name: "root that is not yet valid", cert: futureRoot.Leaf(t, Spec{DNSNames: name}), configure: trust(futureRoot), kind: tlsapi.KindNotYetValid},
		{name: "never valid", cert: ca.Leaf(t, Spec{DNSNames: name, NotBefore: now.Add(time.Hour), NotAfter: now.Add(-time.Hour)}),
			kinds: []tlsapi.Kind{tlsapi.KindExpired, tlsapi.KindNotYetValid}},
		{name: "expired a second ago", cert: ca.Leaf(t, Spec{DNSNames: name, NotAfter: now.Add(-time.Second)}), kind: tlsapi.KindExpired},

		// Usage.
		{name: "key usage for certificates only", cert: usage(0x04), kind: tlsapi.KindKeyUsage},
		{name: "key usage for data only", cert: usage(0x10), kind: tlsapi.KindKeyUsage},
		{name: "key usage for commitments only", cert: usage(0x40), kind: tlsapi.KindKeyUsage},
		{name: "for code signing", cert: purpose(pkixPurpose(3)), kind: tlsapi.KindKeyUsage},
		{name: "for email", cert: purpose(pkixPurpose(4)), kind: tlsapi.KindKeyUsage},
		{name: "for OCSP", cert: purpose(pkixPurpose(9)), kind: tlsapi.KindKeyUsage},
		{name: "for nothing that is known", cert: purpose(oidUnknown), kind: tlsapi.KindKeyUsage},
		{name: "for several others", cert: purpose(pkixPurpose(2), pkixPurpose(3), pkixPurpose(8)), kind: tlsapi.KindKeyUsage},
		{name: "intermediate for email", cert: below(func(c *tbsCertificate) { c.set(oidExtKeyUsage, false, purposes(pkixPurpose(4))) }), kind: tlsapi.KindKeyUsage},

		// Extensions.
		{name: "unknown critical extension", cert: leaf(func(c *tbsCertificate) { c.set(oidUnknown, true, []byte{5, 0}) }), kind: tlsapi.KindInvalidCertificate},
		{name: "unknown extension", cert: leaf(func(c *tbsCertificate) { c.set(oidUnknown, false, []byte{5, 0}) })},
		{name: "intermediate with an unknown critical extension", kind: tlsapi.KindInvalidCertificate,
			cert: below(func(c *tbsCertificate) { c.set(oidUnknown, true, []byte{5, 0}) })},
		{name: "extension that comes twice", kinds: unparseable, cert: leaf(func(c *tbsCertificate) {
			c.Extensions = append(c.Extensions, pkix.Extension{Id: oidSubjectAltName, Value: sequence(t, rawDNS("other.example"))})
		})},
		{name: "names that do not parse", kinds: unparseable, cert: leaf(func(c *tbsCertificate) { c.set(oidSubjectAltName, false, []byte{0x30, 0x7f}) })},
		{name: "key usage that does not parse", kinds: unparseable, cert: leaf(func(c *tbsCertificate) { c.set(oidKeyUsage, true, []byte{0x05}) })},

		// Authorities.
		{name: "issuer without basic constraints", cert: below(func(c *tbsCertificate) { c.remove(oidConstraints) }), kind: tlsapi.KindInvalidCertificate},
		{name: "issuer whose constraints say that it is none", kind: tlsapi.KindInvalidCertificate,
			cert: below(func(c *tbsCertificate) { c.set(oidConstraints, true, []byte{0x30, 0}) })},
		{name: "issuer of version 1", kind: tlsapi.KindInvalidCertificate,
			cert: below(func(c *tbsCertificate) { c.Version, c.Extensions = 0, nil })},
		{name: "authority below one that allows none", cert: longChain.Leaf(t, Spec{DNSNames: name}), kind: tlsapi.KindInvalidCertificate},
		{name: "two authorities below one that allows one", cert: oneMore.Leaf(t, Spec{DNSNames: name}), kind: tlsapi.KindInvalidCertificate},

		// Name constraints.
		{name: "intermediate for other names", cert: below(constrained(asn1.RawValue{Tag: 2, Bytes: []byte("allowed.example")})), kind: tlsapi.KindInvalidCertificate},
		{name: "intermediate not for this name", cert: below(constrained(asn1.RawValue{Tag: 102, Bytes: []byte("example")})), kind: tlsapi.KindInvalidCertificate},
		{name: "intermediate for this name", cert: below(constrained(asn1.RawValue{Tag: 2, Bytes: []byte("example")}))},
		{name: "name constraints and a wildcard", cert: permitted.Leaf(t, Spec{DNSNames: []string{"*.example"}}),
			configure: func(c *tlsapi.ClientConfig) { trust(permitted)(c); as("allowed.example")(c) }, kind: tlsapi.KindInvalidCertificate},
		{name: "name constraints and one name too many", cert: permitted.Leaf(t, Spec{DNSNames: []string{"www.allowed.example", "evil.example"}}),
			configure: func(c *tlsapi.ClientConfig) { trust(permitted)(c); as("www.allowed.example")(c) }, kind: tlsapi.KindInvalidCertificate},
		{name: "name constraints that begin like the name", cert: permitted.Leaf(t, Spec{DNSNames: []string{"evilallowed.example"}}),
			configure: func(c *tlsapi.ClientConfig) { trust(permitted)(c); as("evilallowed.example")(c) }, kind: tlsapi.KindInvalidCertificate},

		// Strength.
		{name: "root with an RSA key of 1024 bits", cert: weakRoot.Leaf(t, Spec{DNSNames: name}), configure: trust(weakRoot), kind: tlsapi.KindWeakKey},
		{name: "intermediate signed with ECDSA and SHA-1", kind: tlsapi.KindWeakSignature,
			cert: ca.Intermediate(t, Spec{CommonName: "SHA-1", Signature: x509.ECDSAWithSHA1}).Leaf(t, Spec{DNSNames: name})},
	}
	behind := verificationCase{name: "byte behind the certificate", cert: trailing, kinds: unparseable}
	if s.declares("client.", "bytes behind a certificate") {
		behind.kinds, behind.mended = nil, true
	}
	return append(cases, behind)
}
