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

// TestSignerAndSHA224 tests that a client that takes no better signatures than
// those with SHA-224 is refused before an external signer is asked: few devices
// have that hash.
func TestSignerAndSHA224(t *testing.T) {
	needLibrary(t)
	f := newSessionFixture(t)
	asked := false
	cert := remote(f.leaf, func([]byte) { asked = true })
	c, s := tlstest.Pipe()
	const ecdsaSHA224 = 0x0303
	c.Tamper(func(b []byte) {
		// signature_algorithms: type, length, length of the list, list.
		for at := 0; at+6 <= len(b); at++ {
			size := int(b[at+2])<<8 | int(b[at+3])
			if b[at] != 0 || b[at+1] != 13 || size < 4 || at+4+size > len(b) || int(b[at+4])<<8|int(b[at+5]) != size-2 {
				continue
			}
			for i := at + 6; i < at+4+size; i += 2 {
				b[i], b[i+1] = ecdsaSHA224>>8, ecdsaSHA224&0xff
			}
		}
	})
	conn, err := s2n.Provider.Server(s, &tlsapi.ServerConfig{Certificates: []tls.Certificate{cert},
		Settings: tlsapi.Settings{MaxBlindingDelay: -1}})
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		err := conn.Handshake()
		done <- errors.Join(err, conn.Close())
	}()
	client := tls.Client(c, &tls.Config{ServerName: "server.example", RootCAs: f.roots, MaxVersion: tls.VersionTLS12})
	assert.ErrorContains(t, client.Handshake(), "handshake failure")
	err = <-done
	assert.ErrorIs(t, err, tlsapi.KindProtocol)
	assert.ErrorContains(t, err, "SHA-224")
	assert.False(t, asked)
	require.NoError(t, c.Close())
}
