package tlstest

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// withSigner returns cert with a key that can sign but not be exported.
func withSigner(cert tls.Certificate) *tls.Certificate {
	cert.PrivateKey = &opaqueSigner{Signer: cert.PrivateKey.(crypto.Signer)}
	return &cert
}

// opaqueSigner is a key that lives elsewhere, in a hardware module for example.
type opaqueSigner struct {
	crypto.Signer
	calls atomic.Int32
	// sign, if not nil, replaces the key's own method.
	sign func(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

func (o *opaqueSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	o.calls.Add(1)
	if o.sign != nil {
		return o.sign(rand, digest, opts)
	}
	return o.Signer.Sign(rand, digest, opts)
}

func (s *suite) testExternalSigner(t *testing.T) {
	eachRole(t, func(t *testing.T, r role) {
		s.need(t, r.feature("external-signer"))
		if r == client {
			s.need(t, tlsapi.ClientCertificate)
		}
		eachVersion(t, func(t *testing.T, version uint16) {
			for _, kind := range []KeyType{ECDSA, RSA, Ed25519} {
				t.Run(kind.String(), func(t *testing.T) { s.testSignature(t, r, version, kind) })
			}
			t.Run("failure", func(t *testing.T) { s.testFailingSigner(t, r, version) })
			t.Run("wrong signature", func(t *testing.T) { s.testWrongSigner(t, r, version) })
			t.Run("cancellation", func(t *testing.T) { s.testBlockingSigner(t, r, version) })
			t.Run("close", func(t *testing.T) { s.testSignerAndClose(t, r, version) })
			t.Run("slow", func(t *testing.T) { s.testSlowSigner(t, r, version) })
		})
	})
}

// signing makes the provider's end with a signer of the key type, and crypto/tls's
// peer, which verifies it.
func (s *suite) signing(t *testing.T, r role, version uint16, kind KeyType, sign func(crypto.Signer) func(io.Reader, []byte, crypto.SignerOpts) ([]byte, error)) (*duo, *opaqueSigner) {
	t.Helper()
	cert := withSigner(s.certs[kind])
	signer := cert.PrivateKey.(*opaqueSigner)
	if sign != nil {
		signer.sign = sign(signer.Signer)
	}
	if r == client {
		return s.clientDuo(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.Certificate = cert }),
			s.referenceServer(only(version), func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, X509Pool(s.ca) }),
			kind.String()), signer
	}
	return s.serverDuo(t, s.serverConfig(func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{*cert} }),
		s.referenceClient(only(version)), kind.String()), signer
}

func (s *suite) testSignature(t *testing.T, r role, version uint16, kind KeyType) {
	d, signer := s.signing(t, r, version, kind, nil)
	d.mustHandshake(t)
	d.mustEcho(t)
	assert.EqualValues(t, 1, signer.calls.Load())
	assert.Equal(t, s.certs[kind].Certificate[0], d.peer.ConnectionState().PeerCertificates[0].Raw)
}

var errSigner = errors.New("the module is locked")

func (s *suite) testFailingSigner(t *testing.T, r role, version uint16) {
	d, signer := s.signing(t, r, version, ECDSA, func(crypto.Signer) func(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
		return func(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, errSigner }
	})
	err, peerErr := d.handshakes()
	s.requireKind(t, err, tlsapi.KindRejected)
	require.ErrorIs(t, err, errSigner)
	assert.EqualValues(t, 1, signer.calls.Load())
	require.Error(t, peerErr)
	s.requireAlertSeen(t, r, certificateStage(version), peerErr, alertInternalError, alertHandshakeFailure)
}

// testWrongSigner signs something else: the peer must find out.
func (s *suite) testWrongSigner(t *testing.T, r role, version uint16) {
	d, _ := s.signing(t, r, version, ECDSA, func(key crypto.Signer) func(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
		return func(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
			changed := append([]byte(nil), digest...)
			changed[0] ^= 1
			return key.Sign(rand, changed, opts)
		}
	})
	err, peerErr := d.handshakes()
	require.Error(t, peerErr)
	if err == nil {
		// A client of TLS 1.3 has finished when the server looks.
		_, err = d.conn.Read(make([]byte, 1))
	}
	require.Error(t, err)
}

// blocking returns a signer that waits for release.
func blocking(entered chan<- struct{}, release <-chan struct{}) func(crypto.Signer) func(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return func(key crypto.Signer) func(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
		return func(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
			close(entered)
			<-release
			return key.Sign(rand, digest, opts)
		}
	}
}

// testBlockingSigner tests that a context ends a handshake that waits for a
// signer.
func (s *suite) testBlockingSigner(t *testing.T, r role, version uint16) {
	entered, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	d, _ := s.signing(t, r, version, ECDSA, blocking(entered, release))
	ctx, cancel := context.WithCancel(t.Context())
	done, peerDone := make(chan error, 1), make(chan error, 1)
	go func() { done <- d.conn.HandshakeContext(ctx) }()
	go func() { peerDone <- d.peer.Handshake() }()
	<-entered
	cancel()
	err := result(t, "the cancelled handshake", done)
	s.requireKind(t, err, tlsapi.KindCanceled)
	require.ErrorIs(t, err, context.Canceled)
	requireClosedSoon(t, d.connWire)
	// A client of TLS 1.3 may be done: it waits for nobody.
	if peerErr := result(t, "the peer's handshake", peerDone); peerErr == nil {
		_, peerErr = d.peer.Read(make([]byte, 1))
		require.Error(t, peerErr)
	}
}

// testSignerAndClose tests that Close does not wait for a signer, and that a
// handshake which waits for one ends with it.
func (s *suite) testSignerAndClose(t *testing.T, r role, version uint16) {
	entered, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	d, _ := s.signing(t, r, version, ECDSA, blocking(entered, release))
	done, peerDone := make(chan error, 1), make(chan error, 1)
	go func() { done <- d.conn.Handshake() }()
	go func() { peerDone <- d.peer.Handshake() }()
	<-entered
	_ = within(t, "Close", d.conn.Close)
	requireClosedSoon(t, d.connWire)
	require.Error(t, result(t, "the handshake", done))
	result(t, "the peer's handshake", peerDone)
}

// testSlowSigner tests that a signer which takes its time holds up nothing else
// of the connection.
func (s *suite) testSlowSigner(t *testing.T, r role, version uint16) {
	entered, release := make(chan struct{}), make(chan struct{})
	d, _ := s.signing(t, r, version, ECDSA, blocking(entered, release))
	done, peerDone := make(chan error, 1), make(chan error, 1)
	go func() { done <- d.conn.Handshake() }()
	go func() { peerDone <- d.peer.Handshake() }()
	<-entered
	require.NoError(t, within(t, "asking for the state", func() error {
		assert.False(t, d.conn.ConnectionState().HandshakeComplete)
		assert.False(t, d.conn.Info().Resumed)
		return d.conn.SetDeadline(time.Now().Add(time.Hour))
	}))
	close(release)
	require.NoError(t, result(t, "the handshake", done))
	require.NoError(t, result(t, "the peer's handshake", peerDone))
	d.mustEcho(t)
}
