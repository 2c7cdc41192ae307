package s2n_test

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/s2n"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// remoteSigner is a key that no library can be given.
type remoteSigner struct {
	crypto.Signer
	change func(signature []byte)
}

func (s remoteSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := s.Signer.Sign(rand, digest, opts)
	if err == nil && s.change != nil {
		s.change(signature)
	}
	return signature, err
}

func remote(cert tls.Certificate, change func([]byte)) tls.Certificate {
	cert.PrivateKey = remoteSigner{cert.PrivateKey.(crypto.Signer), change}
	return cert
}

// TestSignerBesideKeyInMemory: the library asks one callback for both keys.
func TestSignerBesideKeyInMemory(t *testing.T) {
	needLibrary(t)
	f := newSessionFixture(t)
	other := f.ca.Leaf(t, tlstest.Spec{Key: tlstest.RSA, CommonName: "server", DNSNames: []string{"server.example"}})
	for name, certificates := range map[string][]tls.Certificate{
		"ECDSA outside": {remote(f.leaf, nil), other},
		"RSA outside":   {f.leaf, remote(other, nil)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, suite := range []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256} {
				c, s := pipe(t)
				conn, err := s2n.Provider.Server(s, &tlsapi.ServerConfig{Certificates: certificates})
				require.NoError(t, err)
				client := tls.Client(c, &tls.Config{ServerName: "server.example", RootCAs: f.roots,
					MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}})
				exchange(t, client, conn)
				want := x509.ECDSA
				if suite == tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 {
					want = x509.RSA
				}
				assert.Equal(t, want, client.ConnectionState().PeerCertificates[0].PublicKeyAlgorithm)
			}
		})
	}
}

// TestWrongSignatureDoesNotLeave tests that a signature is checked before the
// peer sees it.
func TestWrongSignatureDoesNotLeave(t *testing.T) {
	needLibrary(t)
	f := newSessionFixture(t)
	eachVersion(t, func(t *testing.T, version uint16) {
		c, s := pipe(t)
		cert := remote(f.leaf, func(signature []byte) { signature[len(signature)-1] ^= 1 })
		conn, err := s2n.Provider.Server(s, &tlsapi.ServerConfig{Certificates: []tls.Certificate{cert},
			Settings: tlsapi.Settings{MaxBlindingDelay: -1}})
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() {
			err := conn.Handshake()
			done <- errors.Join(err, conn.Close())
		}()
		client := tls.Client(c, &tls.Config{ServerName: "server.example", RootCAs: f.roots, MinVersion: version, MaxVersion: version})
		require.Error(t, client.Handshake())
		err = <-done
		require.ErrorIs(t, err, tlsapi.KindInternal)
		assert.ErrorContains(t, err, "signature does not fit the certificate")
		require.NoError(t, c.Close())
	})
}
