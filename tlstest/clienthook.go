package tlstest

import (
	"crypto/tls"
	"errors"
	"testing"
	"time"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hookedClient is a client whose certificate a hook chooses, at a server that asks
// for one.
func (s *suite) hookedClient(t *testing.T, version uint16, hook func(*tls.CertificateRequestInfo) (*tls.Certificate, error), change ...func(*tlsapi.ClientConfig)) *duo {
	t.Helper()
	config := s.clientConfig(append(change, func(c *tlsapi.ClientConfig) { c.GetClientCertificate = hook })...)
	return s.clientDuo(t, config, s.referenceServer(only(version), func(c *tls.Config) {
		c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, X509Pool(s.ca)
	}))
}

// testClientHook tests GetClientCertificate.
func (s *suite) testClientHook(t *testing.T) {
	s.need(t, tlsapi.ClientGetCertificate)
	eachVersion(t, func(t *testing.T, version uint16) {
		t.Run("sees the request", func(t *testing.T) {
			for _, kind := range []KeyType{ECDSA, RSA, Ed25519} {
				t.Run(kind.String(), func(t *testing.T) {
					cert := s.ca.Leaf(t, Spec{Key: kind, CommonName: "client"})
					var request tls.CertificateRequestInfo
					calls := 0
					d := s.hookedClient(t, version, func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
						calls++
						request = *r
						return &cert, nil
					})
					d.mustHandshake(t)
					d.mustEcho(t)
					assert.Equal(t, cert.Certificate[0], d.peer.ConnectionState().PeerCertificates[0].Raw)
					assert.Equal(t, 1, calls)
					assert.Equal(t, version, request.Version)
					assert.Equal(t, [][]byte{s.ca.Certificate.RawSubject}, request.AcceptableCAs)
					require.NoError(t, request.SupportsCertificate(&cert))
					assert.Contains(t, request.SignatureSchemes, tls.PSSWithSHA256)
					assert.Contains(t, request.SignatureSchemes, tls.ECDSAWithP256AndSHA256)
					require.NotNil(t, request.Context())
					require.Error(t, request.Context().Err(), "the handshake has ended, and so has the request's context")
				})
			}
		})
		t.Run("is not asked when the server does not ask", func(t *testing.T) {
			config := s.clientConfig(func(c *tlsapi.ClientConfig) {
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					return nil, errors.New("called")
				}
			})
			d := s.clientDuo(t, config, s.referenceServer(only(version)))
			d.mustHandshake(t)
			d.mustEcho(t)
		})
		t.Run("is not asked by a server that fails verification", func(t *testing.T) {
			d := s.hookedClient(t, version, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				t.Error("the hook was called")
				return nil, nil
			}, func(c *tlsapi.ClientConfig) { c.ServerName = "wrong.example" })
			err, _ := d.handshakes()
			s.requireKind(t, err, tlsapi.KindHostname)
		})
		t.Run("nil is Certificate", func(t *testing.T) {
			for name, cert := range map[string]*tls.Certificate{"given": &s.clientCert, "none": nil} {
				t.Run(name, func(t *testing.T) {
					d := s.hookedClient(t, version, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return nil, nil },
						func(c *tlsapi.ClientConfig) { c.Certificate = cert })
					d.mustHandshake(t)
					d.mustEcho(t)
					got := d.peer.ConnectionState().PeerCertificates
					if cert == nil {
						assert.Empty(t, got)
						return
					}
					require.NotEmpty(t, got)
					assert.Equal(t, cert.Certificate[0], got[0].Raw)
				})
			}
		})
		t.Run("empty is none", func(t *testing.T) {
			d := s.hookedClient(t, version, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil },
				func(c *tlsapi.ClientConfig) { c.Certificate = &s.clientCert })
			d.mustHandshake(t)
			d.mustEcho(t)
			assert.Empty(t, d.peer.ConnectionState().PeerCertificates)
		})
		t.Run("each handshake its own", func(t *testing.T) {
			one, two := s.ca.Leaf(t, Spec{CommonName: "one"}), s.ca.Leaf(t, Spec{Key: RSA, CommonName: "two"})
			next := &one
			hook := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return next, nil }
			for _, cert := range []*tls.Certificate{&one, &two, &one} {
				next = cert
				d := s.hookedClient(t, version, hook)
				d.mustHandshake(t)
				assert.Equal(t, cert.Certificate[0], d.peer.ConnectionState().PeerCertificates[0].Raw)
			}
		})
		t.Run("external signer", func(t *testing.T) {
			s.need(t, tlsapi.ClientExternalSigner)
			cert := withSigner(s.clientCert)
			d := s.hookedClient(t, version, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil })
			d.mustHandshake(t)
			d.mustEcho(t)
			assert.EqualValues(t, 1, cert.PrivateKey.(*opaqueSigner).calls.Load())
		})
		t.Run("error", func(t *testing.T) { s.testFailingClientHook(t, version) })
		t.Run("wrong certificate", func(t *testing.T) {
			other := s.ca.Leaf(t, Spec{Key: RSA, CommonName: "other"})
			wrong := s.clientCert
			wrong.PrivateKey = other.PrivateKey
			d := s.hookedClient(t, version, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &wrong, nil })
			err, peerErr := d.handshakes()
			e := s.requireKind(t, err, tlsapi.KindConfig)
			assert.Equal(t, "GetClientCertificate", e.Option)
			require.Error(t, peerErr)
		})
		t.Run("blocks", func(t *testing.T) { s.testBlockedClientHook(t, version) })
	})
	t.Run("sessions are kept apart", func(t *testing.T) {
		s.need(t, tlsapi.ClientSessionCache)
		one, two := s.ca.Leaf(t, Spec{CommonName: "one"}), s.ca.Leaf(t, Spec{CommonName: "two"})
		cache := tlsapi.NewLRUSessionCache(0)
		server := s.referenceServer(only(tls.VersionTLS13), func(c *tls.Config) {
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, X509Pool(s.ca)
			c.SetSessionTicketKeys([][32]byte{{1}})
		})
		var configs []*tlsapi.ClientConfig
		for _, cert := range []*tls.Certificate{&one, &two} {
			configs = append(configs, s.clientConfig(func(c *tlsapi.ClientConfig) {
				c.SessionCache = cache
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
			}))
		}
		for i, name := range []string{"one", "two", "one"} {
			d := s.clientDuo(t, configs[i%2], server)
			d.mustHandshake(t)
			d.mustEcho(t)
			assert.Equal(t, name, d.peer.ConnectionState().PeerCertificates[0].Subject.CommonName)
			assert.Equal(t, i == 2, d.conn.ConnectionState().DidResume)
			require.NoError(t, d.conn.Close())
		}
	})
}

func (s *suite) testFailingClientHook(t *testing.T, version uint16) {
	note := s.cells[tlsapi.ClientGetCertificate].Note
	alert := alertAccessDenied
	if s.declares("client.get-client-certificate", "the alert for an error is always internal_error") {
		alert = alertInternalError
	}
	errHook := errors.Join(errors.New("the card is not in the reader"), alertAccessDenied)
	d := s.hookedClient(t, version, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return nil, errHook })
	err, peerErr := d.handshakes()
	s.requireKind(t, err, tlsapi.KindRejected)
	require.ErrorIs(t, err, errHook)
	require.Error(t, peerErr)
	if version == tls.VersionTLS13 && s.declares("client.get-client-certificate", "in TLS 1.3 none is sent") {
		t.Logf("declared: %s", note)
		return
	}
	s.requireAlertSeen(t, client, encrypted, peerErr, alert)
}

// testBlockedClientHook: who waits for a hook is not kept by it.
func (s *suite) testBlockedClientHook(t *testing.T, version uint16) {
	s.testWaiting(t, tlsapi.ClientHandshakeTimeout, func(t *testing.T, timeout time.Duration) (*duo, chan struct{}) {
		entered, release := make(chan struct{}), make(chan struct{})
		t.Cleanup(func() { close(release) })
		d := s.hookedClient(t, version, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			close(entered)
			<-release
			return nil, nil
		}, func(c *tlsapi.ClientConfig) { c.HandshakeTimeout = timeout })
		go d.peer.Handshake()
		return d, entered
	})
}
