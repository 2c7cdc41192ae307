package tlstest

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func (s *suite) testClientAuthentication(t *testing.T) {
	t.Run("modes", s.testClientAuthModes)
	t.Run("refused certificates", s.testRefusedClients)
	t.Run("authorities of the same name", s.testClientTrustIsolation)
	t.Run("client", s.testClientCertificate)
	t.Run("hook", s.testClientHook)
}

// sending makes crypto/tls's client send cert whatever authorities the server
// names.
func sending(cert *tls.Certificate) func(*tls.Config) {
	return func(c *tls.Config) {
		if cert != nil {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		}
	}
}

func (s *suite) testClientAuthModes(t *testing.T) {
	right := s.clientCert
	wrong := NewAuthority(t, Spec{CommonName: "Another CA"}).Leaf(t, Spec{CommonName: "client"})
	certs := []struct {
		name string
		cert *tls.Certificate
	}{{"no certificate", nil}, {"wrong authority", &wrong}, {"right authority", &right}}

	for _, m := range []struct {
		mode tls.ClientAuthType
		// kinds are the outcomes for the three certificates; zero is accepted.
		kinds [3]tlsapi.Kind
	}{
		{tls.NoClientCert, [3]tlsapi.Kind{}},
		{tls.RequestClientCert, [3]tlsapi.Kind{}},
		{tls.RequireAnyClientCert, [3]tlsapi.Kind{tlsapi.KindNoCertificate, 0, 0}},
		{tls.VerifyClientCertIfGiven, [3]tlsapi.Kind{0, tlsapi.KindUntrusted, 0}},
		{tls.RequireAndVerifyClientCert, [3]tlsapi.Kind{tlsapi.KindNoCertificate, tlsapi.KindUntrusted, 0}},
	} {
		t.Run(m.mode.String(), func(t *testing.T) {
			s.need(t, tlsapi.ServerClientAuth, tlsapi.ServerClientCAs)
			for i, c := range certs {
				t.Run(c.name, func(t *testing.T) {
					eachVersion(t, func(t *testing.T, version uint16) {
						config := s.serverConfig(func(config *tlsapi.ServerConfig) { config.ClientAuth, config.ClientCAs = m.mode, Pool(s.ca) })
						d := s.serverDuo(t, config, s.referenceClient(only(version), sending(c.cert)))
						if m.kinds[i] != 0 {
							s.requireClientRefused(t, d, version, m.kinds[i])
							return
						}
						d.mustHandshake(t)
						d.mustEcho(t)
						state := d.conn.ConnectionState()
						if m.mode == tls.NoClientCert || c.cert == nil {
							assert.Empty(t, state.PeerCertificates)
							assert.False(t, d.conn.Info().Verified)
							return
						}
						require.NotEmpty(t, state.PeerCertificates)
						assert.Equal(t, c.cert.Certificate[0], state.PeerCertificates[0].Raw)
						verified := m.mode >= tls.VerifyClientCertIfGiven
						assert.Equal(t, verified, d.conn.Info().Verified)
						assert.Equal(t, verified, len(state.VerifiedChains) > 0)
					})
				})
			}
		})
	}
}

// requireClientRefused tests that the server refuses the client, sends an
// alert and, in TLS 1.2, no Finished.
func (s *suite) requireClientRefused(t *testing.T, d *duo, version uint16, kind tlsapi.Kind) {
	t.Helper()
	err, peerErr := d.handshakes()
	s.requireKind(t, err, kind)
	if version == tls.VersionTLS13 {
		// The client has finished before the server looks at its certificate.
		require.NoError(t, peerErr)
		_, peerErr = d.peer.Read(make([]byte, 1))
	} else {
		records, parseErr := ParseRecords(d.connWire.Written())
		require.NoError(t, parseErr)
		for _, r := range records {
			require.NotEqualValues(t, RecordChangeCipherSpec, r.Type, "the server went on with its last flight")
		}
	}
	alerts := certificateAlerts
	if kind == tlsapi.KindNoCertificate {
		alerts = append([]tls.AlertError{alertHandshakeFailure}, alerts...)
	}
	s.requireAlertSeen(t, server, certificateStage(version), peerErr, alerts...)
}

func (s *suite) testRefusedClients(t *testing.T) {
	s.need(t, tlsapi.ServerClientAuth, tlsapi.ServerClientCAs)
	now := time.Now()
	leaf := func(spec Spec) *tls.Certificate {
		cert := s.ca.Leaf(t, spec)
		return &cert
	}
	chain := s.ca.Intermediate(t, Spec{CommonName: "Intermediate"}).Leaf(t, Spec{CommonName: "client"})
	headless := LeafOnly(chain)
	selfSigned := SelfSigned(t, Spec{CommonName: "client"})
	for _, c := range []struct {
		name string
		cert *tls.Certificate
		kind tlsapi.Kind
	}{
		{"expired", leaf(Spec{NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)}), tlsapi.KindExpired},
		{"not yet valid", leaf(Spec{NotBefore: now.Add(time.Hour)}), tlsapi.KindNotYetValid},
		{"for servers only", leaf(Spec{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}), tlsapi.KindKeyUsage},
		{"wrong key usage", leaf(Spec{KeyUsage: x509.KeyUsageCRLSign}), tlsapi.KindKeyUsage},
		{"RSA key of 1024 bits", leaf(Spec{Key: RSA1024}), tlsapi.KindWeakKey},
		{"signed with SHA-1", leaf(Spec{Signature: x509.ECDSAWithSHA1}), tlsapi.KindWeakSignature},
		{"self-signed", &selfSigned, tlsapi.KindSelfSigned},
		{"intermediate missing", &headless, tlsapi.KindUntrusted},
		{"intermediate sent", &chain, 0},
		// Clients are not looked up by name.
		{"any name", leaf(Spec{DNSNames: []string{"whatever.example"}}), 0},
		{"no name", leaf(Spec{}), 0},
	} {
		for _, mode := range []tls.ClientAuthType{tls.VerifyClientCertIfGiven, tls.RequireAndVerifyClientCert} {
			t.Run(fmt.Sprintf("%s/%v", c.name, mode), func(t *testing.T) {
				eachVersion(t, func(t *testing.T, version uint16) {
					config := s.serverConfig(func(config *tlsapi.ServerConfig) { config.ClientAuth, config.ClientCAs = mode, Pool(s.ca) })
					d := s.serverDuo(t, config, s.referenceClient(only(version), sending(c.cert)))
					if c.kind != 0 {
						s.requireClientRefused(t, d, version, c.kind)
						return
					}
					d.mustHandshake(t)
					d.mustEcho(t)
					assert.True(t, d.conn.Info().Verified)
				})
			})
		}
	}
}

func (s *suite) testClientTrustIsolation(t *testing.T) {
	s.need(t, tlsapi.ServerClientAuth, tlsapi.ServerClientCAs)
	issuer := Spec{CommonName: "Same CA", Serial: big.NewInt(77)}
	first, second := NewAuthority(t, issuer), NewAuthority(t, issuer)
	leaf := Spec{CommonName: "client", Serial: big.NewInt(78)}
	certs := map[*Authority]tls.Certificate{first: first.Leaf(t, leaf), second: second.Leaf(t, leaf)}
	eachVersion(t, func(t *testing.T, version uint16) {
		for range 2 {
			for _, trusted := range []*Authority{first, second} {
				for _, presented := range []*Authority{first, second} {
					config := s.serverConfig(func(c *tlsapi.ServerConfig) {
						c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, Pool(trusted)
					})
					cert := certs[presented]
					d := s.serverDuo(t, config, s.referenceClient(only(version), sending(&cert)))
					if trusted == presented {
						d.mustHandshake(t)
						continue
					}
					s.requireClientRefused(t, d, version, tlsapi.KindUntrusted)
				}
			}
		}
	})
	t.Run("modes", func(t *testing.T) {
		for range 2 {
			d := s.serverDuo(t, s.serverConfig(), s.referenceClient())
			d.mustHandshake(t)
			config := s.serverConfig(func(c *tlsapi.ServerConfig) {
				c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, Pool(s.ca)
			})
			d = s.serverDuo(t, config, s.referenceClient())
			err, _ := d.handshakes()
			s.requireKind(t, err, tlsapi.KindNoCertificate)
		}
	})
}

// testClientCertificate tests the client's side of client authentication.
func (s *suite) testClientCertificate(t *testing.T) {
	requesting := func(mode tls.ClientAuthType) func(*tls.Config) {
		return func(c *tls.Config) { c.ClientAuth, c.ClientCAs = mode, X509Pool(s.ca) }
	}
	with := func(cert tls.Certificate) *tlsapi.ClientConfig {
		return s.clientConfig(func(c *tlsapi.ClientConfig) { c.Certificate = &cert })
	}
	t.Run("sent when asked", func(t *testing.T) {
		for _, kind := range []KeyType{ECDSA, RSA, Ed25519} {
			t.Run(kind.String(), func(t *testing.T) {
				eachVersion(t, func(t *testing.T, version uint16) {
					cert := s.ca.Intermediate(t, Spec{CommonName: "Clients"}).Leaf(t, Spec{Key: kind, CommonName: "client"})
					d := s.clientDuo(t, with(cert), s.referenceServer(only(version), requesting(tls.RequireAndVerifyClientCert)), kind.String())
					d.mustHandshake(t)
					d.mustEcho(t)
					got := d.peer.ConnectionState().PeerCertificates
					require.Len(t, got, 2, "the leaf and its intermediate")
					assert.Equal(t, cert.Certificate[0], got[0].Raw)
				})
			})
		}
	})
	t.Run("not sent when not asked", func(t *testing.T) {
		eachVersion(t, func(t *testing.T, version uint16) {
			d := s.clientDuo(t, with(s.clientCert), s.referenceServer(only(version)))
			d.mustHandshake(t)
			d.mustEcho(t)
			assert.Empty(t, d.peer.ConnectionState().PeerCertificates)
		})
	})
	t.Run("sent although the server names other authorities", func(t *testing.T) {
		eachVersion(t, func(t *testing.T, version uint16) {
			other := NewAuthority(t, Spec{CommonName: "Another CA"})
			d := s.clientDuo(t, with(s.clientCert), s.referenceServer(only(version), func(c *tls.Config) {
				c.ClientAuth, c.ClientCAs = tls.RequireAnyClientCert, X509Pool(other)
			}))
			d.mustHandshake(t)
			d.mustEcho(t)
			assert.Equal(t, s.clientCert.Certificate[0], d.peer.ConnectionState().PeerCertificates[0].Raw)
		})
	})
	t.Run("none to give", func(t *testing.T) {
		eachVersion(t, func(t *testing.T, version uint16) {
			d := s.clientDuo(t, s.clientConfig(), s.referenceServer(only(version), requesting(tls.VerifyClientCertIfGiven)))
			d.mustHandshake(t)
			d.mustEcho(t)
		})
	})
	t.Run("not sent to a server that fails verification", func(t *testing.T) {
		eachVersion(t, func(t *testing.T, version uint16) {
			config := with(s.clientCert)
			config.ServerName = "wrong.example"
			d := s.clientDuo(t, config, s.referenceServer(only(version), requesting(tls.RequireAnyClientCert)))
			err, _ := d.handshakes()
			s.requireKind(t, err, tlsapi.KindHostname)
			requireNoLastFlight(t, d.clientWire.Written(), version)
		})
	})
	t.Run("refusal is seen", func(t *testing.T) {
		wrong := NewAuthority(t, Spec{CommonName: "Another CA"}).Leaf(t, Spec{CommonName: "client"})
		for _, c := range []struct {
			name   string
			config *tlsapi.ClientConfig
		}{{"no certificate", s.clientConfig()}, {"wrong authority", with(wrong)}} {
			t.Run(c.name, func(t *testing.T) {
				eachVersion(t, func(t *testing.T, version uint16) {
					d := s.clientDuo(t, c.config, s.referenceServer(only(version), requesting(tls.RequireAndVerifyClientCert)))
					err, peerErr := d.handshakes()
					require.Error(t, peerErr)
					if version == tls.VersionTLS13 {
						require.NoError(t, err, "a client of TLS 1.3 finishes before the server looks at its certificate")
						_, err = d.conn.Read(make([]byte, 1))
					}
					e := s.requireKind(t, err, tlsapi.KindPeerAlert)
					assert.Contains(t, append([]tls.AlertError{alertHandshakeFailure}, certificateAlerts...), e.Alert)
					assert.True(t, errors.Is(err, e.Alert))
				})
			})
		}
	})
	t.Run("certificates are kept apart", func(t *testing.T) {
		serial := big.NewInt(4711)
		one := s.ca.Leaf(t, Spec{CommonName: "one", Serial: serial})
		two := s.ca.Leaf(t, Spec{CommonName: "two", Serial: serial})
		for range 2 {
			for _, cert := range []*tls.Certificate{&one, nil, &two} {
				config := s.clientConfig(func(c *tlsapi.ClientConfig) { c.Certificate = cert })
				d := s.clientDuo(t, config, s.referenceServer(requesting(tls.VerifyClientCertIfGiven)))
				d.mustHandshake(t)
				got := d.peer.ConnectionState().PeerCertificates
				if cert == nil {
					assert.Empty(t, got)
					continue
				}
				require.NotEmpty(t, got)
				assert.Equal(t, cert.Leaf.Subject.CommonName, got[0].Subject.CommonName)
			}
		}
	})
}
