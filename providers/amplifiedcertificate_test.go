package providers_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/polytls/polytls/internal/nativememory"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// amplifiedCertificate has an issuer with a name of many parts, and many points of
// distribution with names relative to it: a library that makes whole names of them
// needs memory by the product of both (CVE-2026-35189).
func amplifiedCertificate(t *testing.T) tls.Certificate {
	var name pkix.RDNSequence
	for range 1300 {
		name = append(name, pkix.RelativeDistinguishedNameSET{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "a"}})
	}
	rawName, err := asn1.Marshal(name)
	require.NoError(t, err)
	var points cryptobyte.Builder
	points.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for range 1300 {
			b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(cryptobyteasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
					b.AddASN1(cryptobyteasn1.Tag(1).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
						b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
							b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{2, 5, 4, 3})
							b.AddASN1(cryptobyteasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte("b")) })
						})
					})
				})
			})
		}
	})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	issuer := &x509.Certificate{RawSubject: rawName, SubjectKeyId: []byte{1}}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: fuzzHost}, DNSNames: []string{fuzzHost},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 31}, Value: points.BytesOrPanic()}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, key)
	require.NoError(t, err)
	require.Less(t, len(der), 60_000)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestAmplifiedCertificates sends such a certificate to every end that takes one,
// whether it verifies or not: native memory stays in proportion.
func TestAmplifiedCertificates(t *testing.T) {
	if _, ok := nativememory.Allocated(); !ok {
		t.Skip("only glibc counts native memory, and what is tested is how much there is")
	}
	x := newFuzzFixtures(t)
	amplified := amplifiedCertificate(t)
	// Its issuer's name is that of the certificate behind it.
	behind := tlstest.NewAuthority(t, tlstest.Spec{CommonName: fuzzHost}).Leaf(t, tlstest.Spec{CommonName: fuzzHost, DNSNames: []string{fuzzHost}})
	behind.Certificate = [][]byte{behind.Certificate[0], amplified.Certificate[0]}
	chains := map[string]*tls.Certificate{"leaf": &amplified, "behind a leaf": &behind}
	eachNamed(t, "", func(t *testing.T, p tlsapi.Provider) {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for name, chain := range chains {
				for _, skip := range []bool{false, true} {
					what := tls.VersionName(version) + " server's " + name
					if skip {
						what += ", not verified"
					}
					t.Run(what, func(t *testing.T) {
						wire, serverWire := tlstest.Pipe()
						config := x.clientConfig(p)
						if skip {
							config.InsecureSkipVerify, config.RootCAs = true, nil
						}
						conn, err := p.Client(wire, config)
						require.NoError(t, err)
						requireInProportion(t, conn, tls.Server(serverWire, &tls.Config{MinVersion: version, MaxVersion: version, Certificates: []tls.Certificate{*chain}}))
					})
				}
				for _, mode := range []tls.ClientAuthType{tls.RequestClientCert, tls.RequireAndVerifyClientCert} {
					t.Run(tls.VersionName(version)+" client's "+name+", "+mode.String(), func(t *testing.T) {
						wire, serverWire := tlstest.Pipe()
						config := x.serverConfig(p)
						config.ClientAuth, config.ClientCAs = mode, tlstest.Pool(x.ca)
						conn, err := p.Server(serverWire, config)
						require.NoError(t, err)
						requireInProportion(t, conn, tls.Client(wire, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version,
							GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return chain, nil }}))
					})
				}
			}
		}
	})
}

// requireInProportion requires that a handshake leaves at most 16 MiB in native
// memory, of which a chain of 60 KB makes some.
func requireInProportion(t *testing.T, conn tlsapi.Conn, peer *tls.Conn) {
	t.Helper()
	go func() { _ = peer.Handshake() }()
	before, _ := nativememory.Allocated()
	err := conn.Handshake()
	after, _ := nativememory.Allocated()
	_ = conn.Close()
	_ = peer.Close()
	assert.Less(t, int64(after)-int64(before), int64(16<<20), "native memory, after a handshake that ended with %v", err)
	t.Logf("%d KiB, %v", (int64(after)-int64(before))>>10, err)
}
