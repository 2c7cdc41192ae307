package tlstest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// alertUnknownPSKIdentity is from the IANA registry.
const alertUnknownPSKIdentity tls.AlertError = 115

func externalPSK(identity string, fill byte, hash tlsapi.PSKHash) tlsapi.PSK {
	return tlsapi.PSK{Identity: []byte(identity), Secret: bytes.Repeat([]byte{fill}, 32), Hash: hash}
}

// testPSKs tests external PSKs of TLS 1.3 between the provider's own ends: no
// provider of the reference has them.
func (s *suite) testPSKs(t *testing.T) {
	if !s.supported(tlsapi.ClientPSKExternal) || !s.supported(tlsapi.ServerPSKExternal) {
		s.testPSKsRefused(t)
		return
	}
	for _, hash := range []tlsapi.PSKHash{tlsapi.PSKSHA256, tlsapi.PSKSHA384} {
		t.Run(hash.String(), func(t *testing.T) { s.testPSKHash(t, hash) })
	}
	t.Run("several", s.testSeveralPSKs)
	t.Run("hello-retry", s.testPSKHelloRetry)
	t.Run("tls12", s.testPSKTLS12)
	t.Run("no-secret-in-errors", s.testPSKErrorTexts)
}

// testPSKsRefused tests the refusal of a provider without them.
func (s *suite) testPSKsRefused(t *testing.T) {
	psks := []tlsapi.PSK{externalPSK("a", 1, tlsapi.PSKSHA256)}
	if !s.supported(tlsapi.ClientPSKExternal) {
		s.requireClientRefusal(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.PSKs = psks }), tlsapi.KindUnsupported, "PSKs")
	}
	if !s.supported(tlsapi.ServerPSKExternal) {
		s.requireServerRefusal(t, s.serverConfig(func(c *tlsapi.ServerConfig) { c.PSKs = psks }), tlsapi.KindUnsupported, "PSKs")
	}
}

// pskPair makes both ends with their PSKs.
func (s *suite) pskPair(t *testing.T, client, server []tlsapi.PSK, changeClient func(*tlsapi.ClientConfig), changeServer func(*tlsapi.ServerConfig)) *pairing {
	t.Helper()
	return newPair(t, s, s, 0,
		func(c *tlsapi.ClientConfig) {
			c.PSKs = client
			if changeClient != nil {
				changeClient(c)
			}
		},
		func(c *tlsapi.ServerConfig) {
			c.PSKs = server
			if changeServer != nil {
				changeServer(c)
			}
		})
}

// requirePSK tests a connection that a PSK authenticates.
func (d *pairing) requirePSK(t *testing.T, psk tlsapi.PSK) {
	t.Helper()
	d.mustHandshake(t)
	d.mustEcho(t)
	assert.True(t, d.hello(t).Has(extensionPreSharedKey))
	for _, conn := range []tlsapi.Conn{d.clientConn, d.serverConn} {
		info, state := conn.Info(), conn.ConnectionState()
		assert.Equal(t, psk.Identity, info.PSKIdentity)
		assert.False(t, info.Verified)
		assert.False(t, info.Resumed)
		assert.False(t, state.DidResume)
		assert.Nil(t, state.PeerCertificates)
		assert.Nil(t, state.VerifiedChains)
		assert.Equal(t, uint16(tls.VersionTLS13), info.Version)
		assert.NotZero(t, info.Group, "a PSK without a key exchange has no forward secrecy")
		assert.Equal(t, psk.Hash == tlsapi.PSKSHA384, info.CipherSuite == tls.TLS_AES_256_GCM_SHA384)
	}
}

// requireCertificates tests a connection that a certificate authenticates,
// although there were PSKs.
func (d *pairing) requireCertificates(t *testing.T) {
	t.Helper()
	d.mustHandshake(t)
	d.mustEcho(t)
	assert.Nil(t, d.clientConn.Info().PSKIdentity)
	assert.Nil(t, d.serverConn.Info().PSKIdentity)
	assert.True(t, d.clientConn.Info().Verified)
	assert.NotEmpty(t, d.clientConn.ConnectionState().PeerCertificates)
}

func noCertificate(c *tlsapi.ServerConfig)      { c.Certificates = nil }
func requirePSKServer(c *tlsapi.ServerConfig)   { c.RequirePSK = true }
func requirePSKClient(c *tlsapi.ClientConfig)   { c.RequirePSK = true }
func distrustful(c *tlsapi.ClientConfig)        { c.ServerName = "other.example" }
func requestCertificate(c *tlsapi.ServerConfig) { c.ClientAuth = tls.RequestClientCert }

func (s *suite) testPSKHash(t *testing.T, hash tlsapi.PSKHash) {
	otherHash := tlsapi.PSKSHA384 - hash
	psk := externalPSK("an identity\x00 of any bytes \xff", 1, hash)
	wrongHash := psk
	wrongHash.Hash = otherHash
	wrongSecret := psk
	wrongSecret.Secret = bytes.Repeat([]byte{2}, 32)
	one := []tlsapi.PSK{psk}
	unknown := []tlsapi.PSK{externalPSK("another", 1, hash)}

	t.Run("with a certificate at hand", func(t *testing.T) { s.pskPair(t, one, one, nil, nil).requirePSK(t, psk) })
	t.Run("without certificates", func(t *testing.T) { s.pskPair(t, one, one, nil, noCertificate).requirePSK(t, psk) })
	t.Run("client certificate requested", func(t *testing.T) {
		s.pskPair(t, one, one, func(c *tlsapi.ClientConfig) { c.Certificate = &s.clientCert }, requestCertificate).requirePSK(t, psk)
	})
	t.Run("no name is verified", func(t *testing.T) { s.pskPair(t, one, one, distrustful, nil).requirePSK(t, psk) })
	t.Run("fallback, unknown identity", func(t *testing.T) { s.pskPair(t, one, unknown, nil, nil).requireCertificates(t) })
	t.Run("fallback, wrong hash", func(t *testing.T) {
		s.pskPair(t, one, []tlsapi.PSK{wrongHash}, nil, nil).requireCertificates(t)
	})
	t.Run("fallback, server without PSKs", func(t *testing.T) { s.pskPair(t, one, nil, nil, nil).requireCertificates(t) })
	t.Run("fallback, client without PSKs", func(t *testing.T) { s.pskPair(t, nil, one, nil, nil).requireCertificates(t) })
	t.Run("fallback is verified", func(t *testing.T) {
		clientErr, serverErr := s.pskPair(t, one, unknown, distrustful, nil).handshake()
		s.requireKind(t, clientErr, tlsapi.KindHostname)
		require.Error(t, serverErr)
	})
	t.Run("no certificate to fall back to", func(t *testing.T) {
		clientErr, serverErr := s.pskPair(t, one, unknown, nil, noCertificate).handshake()
		s.requireKind(t, serverErr, tlsapi.KindProtocol)
		s.requireKind(t, clientErr, tlsapi.KindPeerAlert)
	})
	t.Run("wrong secret", func(t *testing.T) {
		d := s.pskPair(t, one, []tlsapi.PSK{wrongSecret}, nil, nil)
		clientErr, serverErr := d.handshake()
		s.requireKind(t, serverErr, tlsapi.KindProtocol)
		assert.Contains(t, []tls.AlertError{47, 51}, s.requireKind(t, clientErr, tlsapi.KindPeerAlert).Alert)
		requireOnlyAlerts(t, d.serverWire.Written())
	})
	if s.supported(tlsapi.ClientRequirePSK) && s.supported(tlsapi.ServerRequirePSK) {
		s.testRequirePSK(t, psk, map[string][]tlsapi.PSK{
			"unknown identity": unknown, "wrong hash": {wrongHash}, "none": nil})
	}
}

// testRequirePSK tests both ends where PSKs are required; others are what the
// peer of an end with psk may have instead.
func (s *suite) testRequirePSK(t *testing.T, psk tlsapi.PSK, others map[string][]tlsapi.PSK) {
	one := []tlsapi.PSK{psk}
	t.Run("required by both", func(t *testing.T) {
		s.pskPair(t, one, one, requirePSKClient, requirePSKServer).requirePSK(t, psk)
	})
	for name, other := range others {
		t.Run("required by the server, "+name, func(t *testing.T) {
			d := s.pskPair(t, other, one, nil, requirePSKServer)
			clientErr, serverErr := d.handshake()
			s.requireKind(t, serverErr, tlsapi.KindNoPSK)
			assert.Equal(t, alertUnknownPSKIdentity, s.requireKind(t, clientErr, tlsapi.KindPeerAlert).Alert)
			requireOnlyAlerts(t, d.serverWire.Written())
		})
		t.Run("required by the client, "+name, func(t *testing.T) {
			d := s.pskPair(t, one, other, requirePSKClient, nil)
			clientErr, serverErr := d.handshake()
			s.requireKind(t, clientErr, tlsapi.KindNoPSK)
			requireNoLastFlight(t, d.clientWire.Written(), tls.VersionTLS13)
			require.Error(t, serverErr)
		})
	}
}

// requireOnlyAlerts tests that an end has answered with nothing but alerts.
func requireOnlyAlerts(t *testing.T, written []byte) {
	t.Helper()
	records, err := ParseRecords(written)
	require.NoError(t, err)
	require.NotEmpty(t, records)
	for _, r := range records {
		assert.EqualValues(t, RecordAlert, r.Type)
	}
}

// testSeveralPSKs tests which one a server takes.
func (s *suite) testSeveralPSKs(t *testing.T) {
	a, b := externalPSK("a", 1, tlsapi.PSKSHA256), externalPSK("b", 2, tlsapi.PSKSHA384)
	c, d := externalPSK("c", 3, tlsapi.PSKSHA256), externalPSK("d", 4, tlsapi.PSKSHA384)
	list := []tlsapi.PSK{a, b, c, d}
	for _, psk := range list {
		t.Run(string(psk.Identity), func(t *testing.T) { s.pskPair(t, []tlsapi.PSK{psk}, list, nil, nil).requirePSK(t, psk) })
	}
	t.Run("client", func(t *testing.T) {
		for _, offered := range [][]tlsapi.PSK{{a, b}, {d, c}} {
			wire, _ := newWire(t)
			conn, err := s.p.Client(wire, s.clientConfig(func(config *tlsapi.ClientConfig) { config.PSKs = offered }))
			if err != nil {
				s.requireRefusal(t, conn, err, wire, tlsapi.KindUnsupported, "PSKs")
				continue
			}
			require.NoError(t, conn.Close())
			s.pskPair(t, offered, []tlsapi.PSK{c, b}, nil, nil).requirePSK(t, map[bool]tlsapi.PSK{true: b, false: c}[offered[0].Hash == a.Hash])
		}
	})
	t.Run("no suite of the hash", func(t *testing.T) {
		if !s.native(tlsapi.ServerCipherSuites) {
			t.Skip("the suites cannot be chosen one by one")
		}
		suites := []uint16{tls.TLS_AES_128_GCM_SHA256}
		s.requireServerRefusal(t, s.serverConfig(func(config *tlsapi.ServerConfig) {
			config.MinVersion, config.CipherSuites, config.PSKs = tls.VersionTLS13, suites, []tlsapi.PSK{a, b}
		}), tlsapi.KindConfig, "PSKs")
		s.requireClientRefusal(t, s.clientConfig(func(config *tlsapi.ClientConfig) {
			config.MinVersion, config.CipherSuites, config.PSKs = tls.VersionTLS13, suites, []tlsapi.PSK{b}
		}), tlsapi.KindConfig, "PSKs")
	})
}

// testPSKHelloRetry tests that a second ClientHello keeps the PSK.
func (s *suite) testPSKHelloRetry(t *testing.T) {
	psk := externalPSK("a", 1, tlsapi.PSKSHA384)
	one := []tlsapi.PSK{psk}
	d := s.pskPair(t, one, one,
		func(c *tlsapi.ClientConfig) { c.Curves = []tlsapi.CurveID{tlsapi.CurveP256, tlsapi.CurveP384} },
		func(c *tlsapi.ServerConfig) { c.Curves = []tlsapi.CurveID{tlsapi.CurveP384} })
	d.requirePSK(t, psk)
	assert.True(t, d.clientConn.Info().HelloRetryRequest)
}

// testPSKTLS12 tests that an external PSK does not count in TLS 1.2.
func (s *suite) testPSKTLS12(t *testing.T) {
	one := []tlsapi.PSK{externalPSK("a", 1, tlsapi.PSKSHA256)}
	t.Run("client", func(t *testing.T) {
		d := s.clientDuo(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.PSKs, c.RequirePSK = one, true }), s.referenceServer(only(tls.VersionTLS12)))
		connErr, peerErr := d.handshakes()
		s.requireKind(t, connErr, tlsapi.KindNoPSK)
		s.requireAlertSeen(t, client, inTheClear, peerErr, alertHandshakeFailure)
		requireNoLastFlight(t, d.connWire.Written(), tls.VersionTLS12)
	})
	t.Run("server", func(t *testing.T) {
		d := s.serverDuo(t, s.serverConfig(func(c *tlsapi.ServerConfig) { c.PSKs, c.RequirePSK = one, true }), s.referenceClient(only(tls.VersionTLS12)))
		connErr, peerErr := d.handshakes()
		s.requireKind(t, connErr, tlsapi.KindNoPSK)
		s.requireAlertSeen(t, server, inTheClear, peerErr, alertUnknownPSKIdentity)
		requireOnlyAlerts(t, d.connWire.Written())
	})
	t.Run("fallback", func(t *testing.T) {
		d := s.serverDuo(t, s.serverConfig(func(c *tlsapi.ServerConfig) { c.PSKs = one }), s.referenceClient(only(tls.VersionTLS12)))
		d.mustHandshake(t)
		d.mustEcho(t)
		assert.Nil(t, d.conn.Info().PSKIdentity)
	})
	t.Run("alone", func(t *testing.T) {
		s.requireClientRefusal(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.PSKs, c.MaxVersion = one, tls.VersionTLS12 }), tlsapi.KindConfig, "PSKs")
		s.requireServerRefusal(t, s.serverConfig(func(c *tlsapi.ServerConfig) { c.PSKs, c.MaxVersion = one, tls.VersionTLS12 }), tlsapi.KindConfig, "PSKs")
	})
}

// testPSKErrorTexts tests that no error of a failed handshake shows a secret.
func (s *suite) testPSKErrorTexts(t *testing.T) {
	secret := "a secret that never prints, 32 b"
	mine := tlsapi.PSK{Identity: []byte("a"), Secret: []byte(secret)}
	d := s.pskPair(t, []tlsapi.PSK{mine}, []tlsapi.PSK{externalPSK("a", 1, tlsapi.PSKSHA256)}, nil, nil)
	clientErr, serverErr := d.handshake()
	require.Error(t, clientErr)
	require.Error(t, serverErr)
	_, readErr := d.clientConn.Read(make([]byte, 1))
	require.NotErrorIs(t, readErr, io.EOF)
	assert.NotContains(t, errors.Join(clientErr, serverErr, readErr).Error(), secret)
}
