package providers_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// A chain is refused for the right reason when its issuer may not issue; but the
// peer decides how many certificates have the issuer's name, and with which keys:
// only a few signatures are looked at for that. (A chain of 87 KB with keys of RSA
// whose exponents are as long as they are cost OpenSSL more than a second.) The
// code is common to all providers, and BoringSSL's chains lead into it.
func TestCausesAreFew(t *testing.T) {
	p, err := providers.Lookup("boringssl")
	require.NoError(t, err)
	if err := p.Available(); err != nil {
		t.Skipf("its chains lead into the code: %s: %v", p.Name(), err)
	}
	x := newFuzzFixtures(t)
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		return k
	}
	issue := func(subject, issuer string, public, signer *ecdsa.PrivateKey) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: subject}, DNSNames: []string{subject},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}
		raw, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: pkix.Name{CommonName: issuer}}, &public.PublicKey, signer)
		require.NoError(t, err)
		return raw
	}
	leafKey, signer := key(), key()
	leaf, real := issue(fuzzHost, "No CA", leafKey, signer), issue("No CA", "Nobody", signer, signer)
	for _, c := range []struct {
		decoys int
		kind   tlsapi.Kind
	}{{0, tlsapi.KindInvalidCertificate}, {1, tlsapi.KindInvalidCertificate}, {2, tlsapi.KindUntrusted}, {40, tlsapi.KindUntrusted}} {
		chain := tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: leafKey}
		for range c.decoys {
			other := key()
			chain.Certificate = append(chain.Certificate, issue("No CA", "Nobody", other, other))
		}
		chain.Certificate = append(chain.Certificate, real)
		wire, serverWire := tlstest.Pipe()
		conn, err := p.Client(wire, x.clientConfig(p))
		require.NoError(t, err)
		peer := tls.Server(serverWire, &tls.Config{Certificates: []tls.Certificate{chain}})
		go func() { _ = peer.Handshake() }()
		err = conn.Handshake()
		assert.ErrorIs(t, err, c.kind, "%d certificates before the one that has signed", c.decoys)
		_ = conn.Close()
		_ = peer.Close()
	}
}
