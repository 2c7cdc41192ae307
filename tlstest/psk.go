package tlstest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// alertUnknownPSKIdentity is from the IANA registry.
const alertUnknownPSKIdentity tls.AlertError = 115

// suitePSKChaCha20 is TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256 (RFC 7905).
const suitePSKChaCha20 = 0xccac

// pskSuite tests PSKs of one kind between the provider's own ends: no provider
// of the reference has them.
type pskSuite struct {
	*suite
	kind           tlsapi.PSKKind
	client, server tlsapi.Feature
	// version is what both ends are fixed to, 0 for none.
	version uint16
}

// pskSuites returns a suite for every kind, in the order of the kinds.
func (s *suite) pskSuites() []*pskSuite {
	return []*pskSuite{
		{s, tlsapi.PSKExternal, tlsapi.ClientPSKExternal, tlsapi.ServerPSKExternal, 0},
		{s, tlsapi.PSKImported, tlsapi.ClientPSKImported, tlsapi.ServerPSKImported, 0},
		{s, tlsapi.PSKTLS12, tlsapi.ClientPSKTLS12, tlsapi.ServerPSKTLS12, tls.VersionTLS12},
	}
}

// testPSKs tests the PSKs of every kind.
func (s *suite) testPSKs(t *testing.T) {
	for _, k := range s.pskSuites() {
		t.Run(k.kind.String(), k.test)
	}
	t.Run("mixed", s.testMixedPSKs)
}

// pairPSKs tests the kinds that both providers have.
func pairPSKs(t *testing.T, c, v *suite) {
	for _, k := range c.pskSuites() {
		t.Run(k.kind.String(), func(t *testing.T) {
			c.need(t, k.client)
			v.need(t, k.server)
			for _, hash := range []tlsapi.PSKHash{tlsapi.PSKSHA256, tlsapi.PSKSHA384} {
				psk := k.psk("someone", 1, hash)
				psks := []tlsapi.PSK{psk}
				newPair(t, c, v, k.version, func(c *tlsapi.ClientConfig) { c.PSKs = psks }, func(c *tlsapi.ServerConfig) { c.PSKs = psks }).requirePSK(t, psk)
				wrong := []tlsapi.PSK{k.psk("someone", 2, hash)}
				d := newPair(t, c, v, k.version, func(c *tlsapi.ClientConfig) { c.PSKs = wrong }, func(c *tlsapi.ServerConfig) { c.PSKs = psks })
				clientErr, serverErr := d.handshake()
				v.requireKind(t, serverErr, tlsapi.KindBadPSK)
				requireRefusedBy(t, v, server, inTheClear, clientErr, 20, 47, 51)
			}
		})
	}
}

func (s *pskSuite) test(t *testing.T) {
	if !s.supported(s.client) || !s.supported(s.server) {
		s.testRefused(t)
		return
	}
	hashes := []tlsapi.PSKHash{tlsapi.PSKSHA256, tlsapi.PSKSHA384}
	if s.kind == tlsapi.PSKTLS12 {
		hashes = hashes[:1] // it has no meaning for them
	}
	for _, hash := range hashes {
		t.Run(hash.String(), func(t *testing.T) { s.testHash(t, hash) })
	}
	t.Run("several", s.testSeveral)
	if s.kind == tlsapi.PSKTLS12 {
		t.Run("limits", s.testTLS12Limits)
		t.Run("tls13", s.testInTLS13)
	} else {
		t.Run("hello-retry", s.testHelloRetry)
		t.Run("tls12", s.testInTLS12)
	}
	t.Run("no-secret-in-errors", s.testErrorTexts)
}

func (s *pskSuite) psk(identity string, fill byte, hash tlsapi.PSKHash) tlsapi.PSK {
	return tlsapi.PSK{Identity: []byte(identity), Secret: bytes.Repeat([]byte{fill}, 32), Hash: hash, Kind: s.kind}
}

// testRefused tests the refusal of a provider without them.
func (s *pskSuite) testRefused(t *testing.T) {
	psks := []tlsapi.PSK{s.psk("a", 1, tlsapi.PSKSHA256)}
	if !s.supported(s.client) {
		s.requireClientRefusal(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.PSKs = psks }), tlsapi.KindUnsupported, "PSKs")
	}
	if !s.supported(s.server) {
		s.requireServerRefusal(t, s.serverConfig(func(c *tlsapi.ServerConfig) { c.PSKs = psks }), tlsapi.KindUnsupported, "PSKs")
	}
}

// pair makes both ends with their PSKs.
func (s *pskSuite) pair(t *testing.T, client, server []tlsapi.PSK, changeClient func(*tlsapi.ClientConfig), changeServer func(*tlsapi.ServerConfig)) *pairing {
	t.Helper()
	return newPair(t, s.suite, s.suite, s.version,
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
	version := uint16(tls.VersionTLS13)
	if psk.Kind == tlsapi.PSKTLS12 {
		version = tls.VersionTLS12
		assert.Contains(t, d.hello(t).CipherSuites, uint16(suitePSKChaCha20))
		requireNoCertificateMessage(t, d.serverWire.Written())
		requireNoCertificateMessage(t, d.clientWire.Written())
	} else {
		assert.True(t, d.hello(t).Has(extensionPreSharedKey))
	}
	for _, conn := range []tlsapi.Conn{d.clientConn, d.serverConn} {
		info, state := conn.Info(), conn.ConnectionState()
		assert.Equal(t, psk.Identity, info.PSKIdentity)
		assert.False(t, info.Verified)
		assert.False(t, info.Resumed)
		assert.False(t, state.DidResume)
		assert.Nil(t, state.PeerCertificates)
		assert.Nil(t, state.VerifiedChains)
		assert.Equal(t, version, info.Version)
		assert.NotZero(t, info.Group, "a PSK without a key exchange has no forward secrecy")
		switch psk.Kind {
		case tlsapi.PSKExternal:
			assert.Equal(t, psk.Hash == tlsapi.PSKSHA384, info.CipherSuite == tls.TLS_AES_256_GCM_SHA384)
		case tlsapi.PSKTLS12:
			assert.Equal(t, uint16(suitePSKChaCha20), info.CipherSuite)
		}
	}
}

// requireNoCertificateMessage tests that the handshake of TLS 1.2 that an end
// has written up to the first encrypted record has no Certificate message.
func requireNoCertificateMessage(t *testing.T, written []byte) {
	t.Helper()
	const messageCertificate = 11
	records, err := ParseRecords(written)
	require.NoError(t, err)
	var messages []byte
	for _, r := range records {
		if r.Type != RecordHandshake {
			break
		}
		messages = append(messages, r.Payload...)
	}
	require.NotEmpty(t, messages)
	for len(messages) >= 4 {
		assert.NotEqualValues(t, messageCertificate, messages[0])
		size := 4 + int(messages[1])<<16 + int(messages[2])<<8 + int(messages[3])
		require.LessOrEqual(t, size, len(messages))
		messages = messages[size:]
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

func (s *pskSuite) testHash(t *testing.T, hash tlsapi.PSKHash) {
	identity := "an identity\x00 of any bytes \xff"
	if s.kind == tlsapi.PSKTLS12 {
		identity = "an identity of bytes but zero \xff"
	}
	psk := s.psk(identity, 1, hash)
	wrongHash := psk
	wrongHash.Hash = tlsapi.PSKSHA384 - hash
	wrongSecret := psk
	wrongSecret.Secret = bytes.Repeat([]byte{2}, 32)
	one := []tlsapi.PSK{psk}
	unknown := []tlsapi.PSK{s.psk("another", 1, hash)}

	t.Run("with a certificate at hand", func(t *testing.T) { s.pair(t, one, one, nil, nil).requirePSK(t, psk) })
	t.Run("without certificates", func(t *testing.T) { s.pair(t, one, one, nil, noCertificate).requirePSK(t, psk) })
	t.Run("client certificate requested", func(t *testing.T) {
		s.pair(t, one, one, func(c *tlsapi.ClientConfig) { c.Certificate = &s.clientCert }, requestCertificate).requirePSK(t, psk)
	})
	t.Run("no name is verified", func(t *testing.T) { s.pair(t, one, one, distrustful, nil).requirePSK(t, psk) })
	t.Run("fallback, server without PSKs", func(t *testing.T) { s.pair(t, one, nil, nil, nil).requireCertificates(t) })
	t.Run("fallback, client without PSKs", func(t *testing.T) { s.pair(t, nil, one, nil, nil).requireCertificates(t) })
	t.Run("fallback is verified", func(t *testing.T) {
		clientErr, serverErr := s.pair(t, one, nil, distrustful, nil).handshake()
		s.requireKind(t, clientErr, tlsapi.KindHostname)
		require.Error(t, serverErr)
	})
	t.Run("wrong secret", func(t *testing.T) { s.testBadPSK(t, one, []tlsapi.PSK{wrongSecret}) })
	others := map[string][]tlsapi.PSK{"unknown identity": unknown, "none": nil}
	switch s.kind {
	case tlsapi.PSKExternal:
		others["wrong hash"] = []tlsapi.PSK{wrongHash}
		t.Run("fallback, wrong hash", func(t *testing.T) {
			s.pair(t, one, []tlsapi.PSK{wrongHash}, nil, nil).requireCertificates(t)
		})
	case tlsapi.PSKImported:
		// The hash is not on the wire; with another one the secrets differ.
		t.Run("wrong hash", func(t *testing.T) { s.testBadPSK(t, one, []tlsapi.PSK{wrongHash}) })
		s.testImportContext(t, one[0])
	}
	if s.kind == tlsapi.PSKTLS12 {
		// In TLS 1.2 the cipher suite is chosen before the identity is known.
		t.Run("unknown identity", func(t *testing.T) {
			clientErr, serverErr := s.pair(t, one, unknown, nil, nil).handshake()
			s.requireKind(t, serverErr, tlsapi.KindNoPSK)
			assert.Equal(t, alertUnknownPSKIdentity, s.requireKind(t, clientErr, tlsapi.KindPeerAlert).Alert)
		})
	} else {
		t.Run("fallback, unknown identity", func(t *testing.T) { s.pair(t, one, unknown, nil, nil).requireCertificates(t) })
		t.Run("no certificate to fall back to", func(t *testing.T) {
			clientErr, serverErr := s.pair(t, one, unknown, nil, noCertificate).handshake()
			s.requireKind(t, serverErr, tlsapi.KindProtocol)
			s.requireKind(t, clientErr, tlsapi.KindPeerAlert)
		})
	}
	if s.supported(tlsapi.ClientRequirePSK) && s.supported(tlsapi.ServerRequirePSK) {
		s.testRequired(t, psk, others)
	}
}

// testImportContext: a key that is imported for one use is none for another, of
// which the identity on the wire tells.
func (s *pskSuite) testImportContext(t *testing.T, psk tlsapi.PSK) {
	in := func(context string) []tlsapi.PSK {
		changed := psk
		changed.Context = []byte(context)
		return []tlsapi.PSK{changed}
	}
	t.Run("context", func(t *testing.T) { s.pair(t, in("backup"), in("backup"), nil, nil).requirePSK(t, psk) })
	t.Run("fallback, another context", func(t *testing.T) { s.pair(t, in("backup"), in("mail"), nil, nil).requireCertificates(t) })
	t.Run("fallback, no context", func(t *testing.T) { s.pair(t, in("backup"), in(""), nil, nil).requireCertificates(t) })
}

// testBadPSK tests two ends with the same identity and different secrets.
func (s *pskSuite) testBadPSK(t *testing.T, client, server []tlsapi.PSK) {
	d := s.pair(t, client, server, nil, nil)
	clientErr, serverErr := d.handshake()
	s.requireKind(t, serverErr, tlsapi.KindBadPSK)
	alert := s.requireKind(t, clientErr, tlsapi.KindPeerAlert).Alert
	if s.kind == tlsapi.PSKTLS12 {
		assert.Contains(t, []tls.AlertError{20, 51}, alert)
		return
	}
	assert.Contains(t, []tls.AlertError{47, 51}, alert)
	requireOnlyAlerts(t, d.serverWire.Written())
}

// testRequired tests both ends where PSKs are required; others are what the
// peer of an end with psk may have instead.
func (s *pskSuite) testRequired(t *testing.T, psk tlsapi.PSK, others map[string][]tlsapi.PSK) {
	one := []tlsapi.PSK{psk}
	t.Run("required by both", func(t *testing.T) {
		d := s.pair(t, one, one, requirePSKClient, requirePSKServer)
		d.requirePSK(t, psk)
		if !s.native(tlsapi.ClientCipherSuites) {
			return
		}
		// A server may choose any suite of the list.
		tls13, tls12 := d.hello(t).Suites()
		switch s.kind {
		case tlsapi.PSKExternal:
			for _, suite := range tls13 {
				assert.Equal(t, psk.Hash == tlsapi.PSKSHA384, suite == tls.TLS_AES_256_GCM_SHA384)
			}
		case tlsapi.PSKTLS12:
			assert.Empty(t, tls13)
			for _, suite := range tls12 {
				assert.Contains(t, []uint16{suitePSKChaCha20, 0xc035, 0xc036, 0xc037, 0xc038}, suite)
			}
		}
	})
	for name, other := range others {
		t.Run("required by the server, "+name, func(t *testing.T) {
			d := s.pair(t, other, one, nil, requirePSKServer)
			clientErr, serverErr := d.handshake()
			s.requireKind(t, serverErr, tlsapi.KindNoPSK)
			assert.Equal(t, alertUnknownPSKIdentity, s.requireKind(t, clientErr, tlsapi.KindPeerAlert).Alert)
			if s.kind == tlsapi.PSKTLS12 && other != nil {
				requireNoCertificateMessage(t, d.serverWire.Written())
			} else {
				requireOnlyAlerts(t, d.serverWire.Written())
			}
		})
		t.Run("required by the client, "+name, func(t *testing.T) {
			d := s.pair(t, one, other, requirePSKClient, nil)
			clientErr, serverErr := d.handshake()
			require.Error(t, serverErr)
			if s.kind == tlsapi.PSKTLS12 {
				// It offers nothing but PSK suites.
				s.requireKind(t, clientErr, tlsapi.KindPeerAlert)
				requireNoCertificateMessage(t, d.clientWire.Written())
				return
			}
			s.requireKind(t, clientErr, tlsapi.KindNoPSK)
			requireNoLastFlight(t, d.clientWire.Written(), tls.VersionTLS13)
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

// testSeveral tests which one a server takes.
func (s *pskSuite) testSeveral(t *testing.T) {
	a, b := s.psk("a", 1, tlsapi.PSKSHA256), s.psk("b", 2, tlsapi.PSKSHA384)
	c, d := s.psk("c", 3, tlsapi.PSKSHA256), s.psk("d", 4, tlsapi.PSKSHA384)
	list := []tlsapi.PSK{a, b, c, d}
	for _, psk := range list {
		t.Run(string(psk.Identity), func(t *testing.T) { s.pair(t, []tlsapi.PSK{psk}, list, nil, nil).requirePSK(t, psk) })
	}
	t.Run("client", func(t *testing.T) {
		for _, offered := range [][]tlsapi.PSK{{a, b}, {d, c}} {
			wire, _ := newWire(t)
			conn, err := s.p.Client(wire, s.clientConfig(func(config *tlsapi.ClientConfig) { config.PSKs = offered }))
			if err != nil {
				s.requireRefusal(t, conn, err, wire, tlsapi.KindUnsupported, "PSKs")
				assert.True(t, s.declares(string(s.client), "one PSK") || s.declares(string(s.client), "one hash"), "no note of %s says so", s.client)
				continue
			}
			require.NoError(t, conn.Close())
			s.pair(t, offered, []tlsapi.PSK{c, b}, nil, nil).requirePSK(t, map[bool]tlsapi.PSK{true: b, false: c}[offered[0].Hash == a.Hash])
		}
		if s.declares(string(s.client), "one PSK") {
			return
		}
		// The server's preference counts.
		offered := list
		if s.declares(string(s.client), "one hash") {
			offered = []tlsapi.PSK{a, c}
		}
		s.pair(t, offered, []tlsapi.PSK{c, a}, nil, nil).requirePSK(t, c)
	})
	if s.kind != tlsapi.PSKExternal {
		return // they fit every suite, or have their own
	}
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

// testHelloRetry tests that a second ClientHello keeps the PSK.
func (s *pskSuite) testHelloRetry(t *testing.T) {
	psk := s.psk("a", 1, tlsapi.PSKSHA384)
	one := []tlsapi.PSK{psk}
	d := s.pair(t, one, one,
		func(c *tlsapi.ClientConfig) { c.Curves = []tlsapi.CurveID{tlsapi.CurveP256, tlsapi.CurveP384} },
		func(c *tlsapi.ServerConfig) { c.Curves = []tlsapi.CurveID{tlsapi.CurveP384} })
	d.requirePSK(t, psk)
	assert.True(t, d.clientConn.Info().HelloRetryRequest)
}

// testInTLS12 tests that a PSK of TLS 1.3 does not count in TLS 1.2.
func (s *pskSuite) testInTLS12(t *testing.T) {
	one := []tlsapi.PSK{s.psk("a", 1, tlsapi.PSKSHA256)}
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

// testInTLS13 tests that a PSK of TLS 1.2 does not count in TLS 1.3, and rules
// TLS 1.3 out where only it can make a connection.
func (s *pskSuite) testInTLS13(t *testing.T) {
	psk := s.psk("a", 1, tlsapi.PSKSHA256)
	one := []tlsapi.PSK{psk}
	anyVersion := *s
	anyVersion.version = 0
	t.Run("certificates of TLS 1.3 first", func(t *testing.T) {
		d := anyVersion.pair(t, one, one, nil, nil)
		d.requireCertificates(t)
		assert.Equal(t, uint16(tls.VersionTLS13), d.clientConn.Info().Version)
	})
	t.Run("required by the client", func(t *testing.T) { anyVersion.pair(t, one, one, requirePSKClient, nil).requirePSK(t, psk) })
	t.Run("required by the server", func(t *testing.T) { anyVersion.pair(t, one, one, nil, requirePSKServer).requirePSK(t, psk) })
	t.Run("server without certificates", func(t *testing.T) { anyVersion.pair(t, one, one, nil, noCertificate).requirePSK(t, psk) })
	t.Run("alone", func(t *testing.T) {
		s.requireClientRefusal(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.PSKs, c.MinVersion = one, tls.VersionTLS13 }), tlsapi.KindConfig, "PSKs")
		s.requireServerRefusal(t, s.serverConfig(func(c *tlsapi.ServerConfig) { c.PSKs, c.MinVersion = one, tls.VersionTLS13 }), tlsapi.KindConfig, "PSKs")
	})
}

// testTLS12Limits tests the refusal of what RFC 4279 and the libraries cannot
// carry.
func (s *pskSuite) testTLS12Limits(t *testing.T) {
	for name, psk := range map[string]tlsapi.PSK{
		"zero byte":     s.psk("a\x00b", 1, tlsapi.PSKSHA256),
		"long identity": s.psk(strings.Repeat("a", 129), 1, tlsapi.PSKSHA256),
		"long secret":   {Identity: []byte("a"), Secret: bytes.Repeat([]byte{1}, 600), Kind: s.kind},
	} {
		t.Run(name, func(t *testing.T) {
			psks := []tlsapi.PSK{psk}
			s.requireClientRefusal(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.PSKs = psks }), tlsapi.KindUnsupported, "PSKs")
			s.requireServerRefusal(t, s.serverConfig(func(c *tlsapi.ServerConfig) { c.PSKs = psks }), tlsapi.KindUnsupported, "PSKs")
		})
	}
	t.Run("longest identity", func(t *testing.T) {
		psk := s.psk(strings.Repeat("a", 128), 1, tlsapi.PSKSHA256)
		s.pair(t, []tlsapi.PSK{psk}, []tlsapi.PSK{psk}, nil, nil).requirePSK(t, psk)
	})
}

// testErrorTexts tests that no error of a failed handshake shows a secret.
func (s *pskSuite) testErrorTexts(t *testing.T) {
	secret := "a secret that never prints, 32 b"
	mine := tlsapi.PSK{Identity: []byte("a"), Secret: []byte(secret), Kind: s.kind}
	d := s.pair(t, []tlsapi.PSK{mine}, []tlsapi.PSK{s.psk("a", 1, tlsapi.PSKSHA256)}, nil, nil)
	clientErr, serverErr := d.handshake()
	require.Error(t, clientErr)
	require.Error(t, serverErr)
	_, readErr := d.clientConn.Read(make([]byte, 1))
	require.NotErrorIs(t, readErr, io.EOF)
	assert.NotContains(t, errors.Join(clientErr, serverErr, readErr).Error(), secret)
}

// testMixedPSKs tests PSKs of TLS 1.2 together with those of TLS 1.3.
func (s *suite) testMixedPSKs(t *testing.T) {
	kinds := s.pskSuites()
	old := kinds[tlsapi.PSKTLS12]
	for _, k := range kinds[:tlsapi.PSKTLS12] {
		t.Run(k.kind.String(), func(t *testing.T) {
			s.need(t, k.client, k.server, old.client, old.server, tlsapi.ClientRequirePSK, tlsapi.ServerRequirePSK)
			a, b := k.psk("a", 1, tlsapi.PSKSHA256), old.psk("b", 2, tlsapi.PSKSHA256)
			both := []tlsapi.PSK{b, a}
			k.pair(t, both, both, requirePSKClient, requirePSKServer).requirePSK(t, a)
			k.pair(t, both, both, nil, noCertificate).requirePSK(t, a)
			// Either end has one of them.
			k.pair(t, both, []tlsapi.PSK{b}, requirePSKClient, requirePSKServer).requirePSK(t, b)
			k.pair(t, []tlsapi.PSK{b}, both, nil, requirePSKServer).requirePSK(t, b)
			k.pair(t, []tlsapi.PSK{b}, both, nil, noCertificate).requirePSK(t, b)
			k.pair(t, []tlsapi.PSK{a}, both, nil, requirePSKServer).requirePSK(t, a)
			k.pair(t, both, both, nil, func(c *tlsapi.ServerConfig) { c.PSKs, c.MaxVersion = []tlsapi.PSK{b}, tls.VersionTLS12 }).requirePSK(t, b)
		})
	}
}
