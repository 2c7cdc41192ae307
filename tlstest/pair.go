package tlstest

import (
	"crypto/tls"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// runPair tests c's client against v's server.
func runPair(t *testing.T, c, v *suite) {
	t.Run("handshake", func(t *testing.T) {
		for _, kind := range []KeyType{ECDSA, RSA, Ed25519} {
			t.Run(kind.String(), func(t *testing.T) {
				eachVersion(t, func(t *testing.T, version uint16) { pairHandshake(t, c, v, kind, version) })
			})
		}
	})
	t.Run("alpn", func(t *testing.T) {
		c.need(t, tlsapi.ClientALPN)
		v.need(t, tlsapi.ServerALPN)
		eachVersion(t, func(t *testing.T, version uint16) { pairALPN(t, c, v, version) })
	})
	t.Run("client authentication", func(t *testing.T) {
		c.need(t, tlsapi.ClientCertificate)
		v.need(t, tlsapi.ServerClientAuth, tlsapi.ServerClientCAs)
		eachVersion(t, func(t *testing.T, version uint16) { pairClientAuth(t, c, v, version) })
	})
	t.Run("verification", func(t *testing.T) {
		eachVersion(t, func(t *testing.T, version uint16) { pairVerification(t, c, v, version) })
	})
	t.Run("transfer", func(t *testing.T) {
		eachVersion(t, func(t *testing.T, version uint16) {
			d := newPair(t, c, v, version, nil, nil)
			d.mustHandshake(t)
			d.mustExchange(t, 1<<20)
		})
	})
	t.Run("close", func(t *testing.T) {
		eachVersion(t, func(t *testing.T, version uint16) { pairClose(t, c, v, version) })
	})
	t.Run("resumption", func(t *testing.T) {
		c.need(t, tlsapi.ClientSessionCache, tlsapi.ClientCertificate)
		v.need(t, tlsapi.ServerSessionTickets, tlsapi.ServerClientAuth)
		eachVersion(t, func(t *testing.T, version uint16) { pairResumption(t, c, v, version) })
	})
	t.Run("close at once", func(t *testing.T) {
		eachVersion(t, func(t *testing.T, version uint16) { pairCloseAtOnce(t, c, v, version) })
	})
	t.Run("psks", func(t *testing.T) { pairPSKs(t, c, v) })
	t.Run("exporter", func(t *testing.T) {
		c.need(t, tlsapi.ClientExporter)
		v.need(t, tlsapi.ServerExporter)
		eachVersion(t, func(t *testing.T, version uint16) {
			d := newPair(t, c, v, version, nil, nil)
			d.mustHandshake(t)
			one, err := d.clientConn.ExportKeyingMaterial("EXPERIMENTAL polytls", []byte("context"), 40)
			require.NoError(t, err)
			two, err := d.serverConn.ExportKeyingMaterial("EXPERIMENTAL polytls", []byte("context"), 40)
			require.NoError(t, err)
			assert.Equal(t, one, two)
			assert.Len(t, one, 40)
		})
	})
}

// pairing is a session of two providers.
type pairing struct {
	*session
	clientConn, serverConn tlsapi.Conn
}

// newPair makes c's client and v's server. The server trusts and presents what
// c's suite issued.
func newPair(t *testing.T, c, v *suite, version uint16, changeClient func(*tlsapi.ClientConfig), changeServer func(*tlsapi.ServerConfig), values ...string) *pairing {
	t.Helper()
	clientConfig, serverConfig := pairConfigs(t, c, v, version)
	if changeClient != nil {
		changeClient(clientConfig)
	}
	if changeServer != nil {
		changeServer(serverConfig)
	}
	clientWire, serverWire := newWire(t)
	clientConn, err := c.p.Client(clientWire, clientConfig)
	c.acceptRefusal(t, err, clientConfig.Features(), values...)
	t.Cleanup(func() { clientConn.Close() })
	serverConn, err := v.p.Server(serverWire, serverConfig)
	v.acceptRefusal(t, err, serverConfig.Features(), values...)
	t.Cleanup(func() { serverConn.Close() })
	return &pairing{&session{clientWire, serverWire, clientConn, serverConn}, clientConn, serverConn}
}

// pairConfigs returns configurations of c's client and v's server that suit each
// other. The version is fixed on the end whose provider can.
func pairConfigs(t *testing.T, c, v *suite, version uint16) (*tlsapi.ClientConfig, *tlsapi.ServerConfig) {
	t.Helper()
	clientConfig, serverConfig := c.clientConfig(), v.serverConfig()
	serverConfig.Certificates = []tls.Certificate{c.certs[ECDSA]}
	fixed := func(s *tlsapi.Settings) {
		switch version {
		case tls.VersionTLS12:
			s.MaxVersion = tls.VersionTLS12
		case tls.VersionTLS13:
			s.MinVersion = tls.VersionTLS13
		}
	}
	switch {
	case v.supported(tlsapi.ServerVersions):
		fixed(&serverConfig.Settings)
	case c.supported(tlsapi.ClientVersions):
		fixed(&clientConfig.Settings)
	default:
		t.Skipf("neither provider can fix the version")
	}
	return clientConfig, serverConfig
}

func pairHandshake(t *testing.T, c, v *suite, kind KeyType, version uint16) {
	cert := c.certs[kind]
	d := newPair(t, c, v, version, nil, func(s *tlsapi.ServerConfig) { s.Certificates = []tls.Certificate{cert} }, kind.String())
	clientErr, serverErr := d.handshake()
	if kind == Ed25519 && !slices.Contains(d.hello(t).SignatureSchemes, tls.Ed25519) {
		// A client cannot refuse this when it is configured.
		require.True(t, c.declares("client.", "Ed25519"), "the client does not offer Ed25519, and no note of its features says so")
		require.Error(t, errors.Join(clientErr, serverErr))
		t.Skipf("%s does not verify Ed25519, as declared", c.p.Name())
	}
	require.NoError(t, errors.Join(clientErr, serverErr))
	d.mustEcho(t)
	one, two := d.clientConn.Info(), d.serverConn.Info()
	assert.Equal(t, c.p.Name(), one.Provider)
	assert.Equal(t, v.p.Name(), two.Provider)
	assert.Equal(t, version, one.Version)
	assert.Equal(t, version, two.Version)
	assert.Equal(t, one.CipherSuite, two.CipherSuite)
	assert.NotZero(t, one.CipherSuite)
	if one.Group != 0 && two.Group != 0 {
		assert.Equal(t, one.Group, two.Group)
	}
	assert.Equal(t, serverName, two.ServerName)
	assert.Equal(t, one.HelloRetryRequest, two.HelloRetryRequest)
	assert.Equal(t, one.KeyShares, two.KeyShares)
	assert.True(t, one.Verified)
	assert.False(t, two.Verified)
	requirePeer(t, one, cert, "Server Organization")
}

func pairALPN(t *testing.T, c, v *suite, version uint16) {
	for _, x := range []struct {
		name            string
		client, server  []string
		strict          bool
		selected        string
		clientK, serveK tlsapi.Kind
	}{
		{name: "server's preference", client: []string{"alpha", "beta"}, server: []string{"beta", "alpha"}, selected: "beta"},
		{name: "none in common", client: []string{"alpha"}, server: []string{"beta"}},
		{name: "HTTP/2 only", client: []string{"h2"}, server: []string{"beta"}, clientK: tlsapi.KindNoALPN},
		{name: "strict", client: []string{"alpha"}, server: []string{"beta"}, strict: true, clientK: tlsapi.KindPeerAlert, serveK: tlsapi.KindNoALPN},
	} {
		t.Run(x.name, func(t *testing.T) {
			if x.strict {
				v.need(t, tlsapi.ServerALPNStrict)
			}
			d := newPair(t, c, v, version,
				func(config *tlsapi.ClientConfig) { config.ALPN = x.client },
				func(config *tlsapi.ServerConfig) { config.ALPN, config.ALPNStrict = x.server, x.strict })
			clientErr, serverErr := d.handshake()
			if x.clientK == 0 {
				require.NoError(t, errors.Join(clientErr, serverErr))
				d.mustEcho(t)
				assert.Equal(t, x.selected, d.clientConn.Info().ALPN)
				assert.Equal(t, x.selected, d.serverConn.Info().ALPN)
				return
			}
			if x.serveK == 0 {
				c.requireKind(t, clientErr, x.clientK)
				if serverErr == nil {
					// A server of TLS 1.2 learns of it from its first Read.
					_, serverErr = d.serverConn.Read(make([]byte, 1))
					require.NotEqual(t, io.EOF, serverErr, "this is no orderly close")
				}
				require.Error(t, serverErr)
				return
			}
			v.requireKind(t, serverErr, x.serveK)
			requireRefusedBy(t, v, server, inTheClear, clientErr, alertNoALPN)
		})
	}
}

// requireRefusedBy tests the error of the end whose peer, s's end, has refused
// the connection.
func requireRefusedBy(t *testing.T, s *suite, r role, when stage, err error, alerts ...tls.AlertError) {
	t.Helper()
	require.Error(t, err)
	var e *tlsapi.Error
	require.ErrorAs(t, err, &e)
	if e.Kind == tlsapi.KindPeerAlert {
		assert.Contains(t, alerts, e.Alert)
		return
	}
	require.True(t, when == encrypted && !s.native(r.feature("alerts")), "no alert of %s arrived, and its features do not say so: %v", s.p.Name(), err)
}

func pairClientAuth(t *testing.T, c, v *suite, version uint16) {
	wrong := NewAuthority(t, Spec{CommonName: "Another CA"}).Leaf(t, Spec{CommonName: "client"})
	for _, x := range []struct {
		name string
		mode tls.ClientAuthType
		cert *tls.Certificate
		kind tlsapi.Kind
	}{
		{"required and right", tls.RequireAndVerifyClientCert, &c.clientCert, 0},
		{"required and missing", tls.RequireAndVerifyClientCert, nil, tlsapi.KindNoCertificate},
		{"required and wrong", tls.RequireAndVerifyClientCert, &wrong, tlsapi.KindUntrusted},
		{"if given and right", tls.VerifyClientCertIfGiven, &c.clientCert, 0},
		{"if given and missing", tls.VerifyClientCertIfGiven, nil, 0},
		{"if given and wrong", tls.VerifyClientCertIfGiven, &wrong, tlsapi.KindUntrusted},
		{"any and wrong", tls.RequireAnyClientCert, &wrong, 0},
		{"requested and missing", tls.RequestClientCert, nil, 0},
		{"not requested", tls.NoClientCert, &c.clientCert, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			d := newPair(t, c, v, version,
				func(config *tlsapi.ClientConfig) { config.Certificate = x.cert },
				func(config *tlsapi.ServerConfig) { config.ClientAuth, config.ClientCAs = x.mode, Pool(c.ca) })
			clientErr, serverErr := d.handshake()
			if x.kind == 0 {
				require.NoError(t, errors.Join(clientErr, serverErr))
				d.mustEcho(t)
				if x.cert != nil && x.mode != tls.NoClientCert {
					assert.Equal(t, x.cert.Certificate[0], d.serverConn.ConnectionState().PeerCertificates[0].Raw)
				}
				return
			}
			v.requireKind(t, serverErr, x.kind)
			if version == tls.VersionTLS13 && clientErr == nil {
				_, clientErr = d.clientConn.Read(make([]byte, 1))
			}
			requireRefusedBy(t, v, server, certificateStage(version), clientErr, append([]tls.AlertError{alertHandshakeFailure}, certificateAlerts...)...)
		})
	}
}

func pairVerification(t *testing.T, c, v *suite, version uint16) {
	for _, x := range c.verificationCases(t) {
		switch x.name {
		case "right name", "wrong name", "untrusted", "expired", "not yet valid", "self-signed", "extended key usage of clients",
			"IPv4 address", "address in the common name", "intermediate missing", "two intermediates", "skip host name, untrusted":
		default:
			continue
		}
		t.Run(x.name, func(t *testing.T) {
			d := newPair(t, c, v, version, x.configure, func(config *tlsapi.ServerConfig) { config.Certificates = []tls.Certificate{x.cert} })
			clientErr, serverErr := d.handshake()
			if x.kind == 0 {
				require.NoError(t, errors.Join(clientErr, serverErr))
				d.mustEcho(t)
				return
			}
			c.requireKind(t, clientErr, x.kind)
			requireNoLastFlight(t, d.clientWire.Written(), version)
			requireRefusedBy(t, c, client, certificateStage(version), serverErr, certificateAlerts...)
		})
	}
}

func pairClose(t *testing.T, c, v *suite, version uint16) {
	t.Run("by the client", func(t *testing.T) {
		d := newPair(t, c, v, version, nil, nil)
		d.mustHandshake(t)
		d.mustEcho(t)
		_, err := d.client.Write([]byte("last words"))
		require.NoError(t, err)
		require.NoError(t, d.client.Close())
		got, err := io.ReadAll(d.server)
		require.NoError(t, err)
		assert.Equal(t, "last words", string(got))
	})
	t.Run("by the server", func(t *testing.T) {
		d := newPair(t, c, v, version, nil, nil)
		d.mustHandshake(t)
		d.mustEcho(t)
		_, err := d.server.Write([]byte("last words"))
		require.NoError(t, err)
		require.NoError(t, d.server.Close())
		got, err := io.ReadAll(d.client)
		require.NoError(t, err)
		assert.Equal(t, "last words", string(got))
	})
	t.Run("cut", func(t *testing.T) {
		d := newPair(t, c, v, version, nil, nil)
		d.mustHandshake(t)
		d.mustEcho(t)
		require.NoError(t, d.serverWire.Close())
		requireTruncated(t, d.client, "")
	})
}
