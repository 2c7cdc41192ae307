package tlstest

import (
	"crypto/tls"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func (s *suite) testALPN(t *testing.T) {
	offering := func(protocols ...string) *tlsapi.ClientConfig {
		return s.clientConfig(func(c *tlsapi.ClientConfig) { c.ALPN = protocols })
	}
	t.Run("client", func(t *testing.T) {
		s.need(t, tlsapi.ClientALPN)
		for _, c := range []struct {
			name           string
			offered, known []string
			selected       string
		}{
			{"preset HTTP/1.1", tlsapi.ALPNH1(), []string{"http/1.1"}, "http/1.1"},
			{"preset HTTP/2", tlsapi.ALPNH2(), []string{"h2"}, "h2"},
			{"preset both", tlsapi.ALPNH2H1(), []string{"http/1.1", "h2"}, "http/1.1"},
			{"any bytes", []string{"alpha", string([]byte{0, 1, 0xff}), strings.Repeat("x", 255)}, []string{strings.Repeat("x", 255)}, strings.Repeat("x", 255)},
			{"name of one byte", []string{"b"}, []string{"b"}, "b"},
			{"server without", []string{"http/1.1", "h3"}, nil, ""},
		} {
			t.Run(c.name, func(t *testing.T) {
				eachVersion(t, func(t *testing.T, version uint16) {
					d := s.clientDuo(t, offering(c.offered...), s.referenceServer(only(version), func(r *tls.Config) { r.NextProtos = c.known }), "NUL", "one byte")
					d.mustHandshake(t)
					d.mustEcho(t)
					assert.Equal(t, c.offered, d.hello(t).ALPN)
					assert.Equal(t, c.selected, d.conn.Info().ALPN)
					assert.Equal(t, c.selected, d.conn.ConnectionState().NegotiatedProtocol)
				})
			})
		}
		t.Run("none", func(t *testing.T) {
			d := s.clientDuo(t, s.clientConfig(), s.referenceServer(func(r *tls.Config) { r.NextProtos = []string{"h2"} }))
			d.mustHandshake(t)
			assert.False(t, d.hello(t).Has(extensionALPN))
			assert.Empty(t, d.conn.Info().ALPN)
		})
		t.Run("HTTP/2 only gets none", func(t *testing.T) {
			eachVersion(t, func(t *testing.T, version uint16) {
				d := s.clientDuo(t, offering("h2"), s.referenceServer(only(version)))
				err, peerErr := d.handshakes()
				s.requireKind(t, err, tlsapi.KindNoALPN)
				if peerErr == nil {
					// A server of TLS 1.2 may have finished; it learns of it
					// from its first Read.
					_, peerErr = d.peer.Read(make([]byte, 1))
					require.NotEqual(t, io.EOF, peerErr, "this is no orderly close")
				}
				require.Error(t, peerErr)
				_, err = d.conn.Write([]byte("secret"))
				require.Error(t, err)
			})
		})
		t.Run("alert 120", func(t *testing.T) {
			eachVersion(t, func(t *testing.T, version uint16) {
				d := s.clientDuo(t, offering("alpha"), s.referenceServer(only(version), func(r *tls.Config) { r.NextProtos = []string{"beta"} }))
				err, _ := d.handshakes()
				e := s.requireKind(t, err, tlsapi.KindPeerAlert)
				assert.Equal(t, alertNoALPN, e.Alert)
			})
		})
	})
	t.Run("server", func(t *testing.T) {
		s.need(t, tlsapi.ServerALPN)
		knowing := func(strict bool, protocols ...string) *tlsapi.ServerConfig {
			return s.serverConfig(func(c *tlsapi.ServerConfig) { c.ALPN, c.ALPNStrict = protocols, strict })
		}
		for _, c := range []struct {
			name           string
			known, offered []string
			selected       string
		}{
			{"own preference", []string{"alpha", "beta"}, []string{"beta", "alpha"}, "alpha"},
			{"own preference reversed", []string{"beta", "alpha"}, []string{"alpha", "beta"}, "beta"},
			{"one in common", []string{"alpha", "beta", "gamma"}, []string{"xi", "gamma"}, "gamma"},
			{"prefixes are no match", []string{"h2c", "h2"}, []string{"h2cc", "h2"}, "h2"},
			{"name of one byte", []string{"b"}, []string{"b"}, "b"},
			{"none in common goes on without", []string{"alpha"}, []string{"beta"}, ""},
			{"client without", []string{"alpha"}, nil, ""},
			{"server without", nil, []string{"alpha"}, ""},
		} {
			t.Run(c.name, func(t *testing.T) {
				eachVersion(t, func(t *testing.T, version uint16) {
					d := s.serverDuo(t, knowing(false, c.known...), s.referenceClient(only(version), func(r *tls.Config) { r.NextProtos = c.offered }), "one byte")
					d.mustHandshake(t)
					d.mustEcho(t)
					assert.Equal(t, c.selected, d.conn.Info().ALPN)
					assert.Equal(t, c.selected, d.conn.ConnectionState().NegotiatedProtocol)
					assert.Equal(t, c.selected, d.peer.ConnectionState().NegotiatedProtocol)
				})
			})
		}
		t.Run("strict", func(t *testing.T) {
			s.need(t, tlsapi.ServerALPNStrict)
			eachVersion(t, func(t *testing.T, version uint16) {
				offering := func(protocols ...string) *tls.Config {
					return s.referenceClient(only(version), func(r *tls.Config) { r.NextProtos = protocols })
				}
				t.Run("none in common", func(t *testing.T) {
					err, peerErr := s.serverDuo(t, knowing(true, "alpha"), offering("beta")).handshakes()
					e := s.requireKind(t, err, tlsapi.KindNoALPN)
					if e.HasAlert {
						assert.Equal(t, alertNoALPN, e.Alert)
					}
					s.requireAlertSeen(t, server, inTheClear, peerErr, alertNoALPN)
				})
				t.Run("in common", func(t *testing.T) {
					d := s.serverDuo(t, knowing(true, "alpha", "beta"), offering("beta"))
					d.mustHandshake(t)
					assert.Equal(t, "beta", d.conn.Info().ALPN)
				})
				t.Run("client without", func(t *testing.T) {
					s.serverDuo(t, knowing(true, "alpha"), offering()).mustHandshake(t)
				})
			})
		})
	})
}

func (s *suite) testCurves(t *testing.T) {
	testOwnLists(s, t, map[role]tlsapi.Feature{client: tlsapi.ClientCurves, server: tlsapi.ServerCurves},
		func(h *ClientHello) []tls.CurveID { return h.Groups }, func(c *tlsapi.Settings, own []tls.CurveID) { c.Curves = own })
	t.Run("client", func(t *testing.T) {
		s.need(t, tlsapi.ClientCurves)
		for _, curves := range curveLists {
			t.Run(curveNames(curves), func(t *testing.T) {
				config := s.clientConfig(func(c *tlsapi.ClientConfig) { c.Curves = curves })
				d := s.clientDuo(t, config, s.referenceServer(only(tls.VersionTLS13)), unusual(curves)...)
				err, _ := d.handshakes()
				hello := d.hello(t)
				s.requireList(t, tlsapi.ClientCurves, curves, hello.Groups)
				requireSubsequence(t, hello.Groups, hello.KeyShares)
				require.NoError(t, err)
				d.mustEcho(t)
				assert.Equal(t, hello.KeyShares, d.conn.Info().KeyShares)
				assert.Contains(t, curves, d.conn.Info().Group)
				assert.Equal(t, d.peer.ConnectionState().CurveID, d.conn.Info().Group)
			})
		}
		t.Run("TLS 1.2", func(t *testing.T) {
			for _, id := range []tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP256, tlsapi.CurveP384} {
				t.Run(tlsapi.CurveName(id), func(t *testing.T) {
					config := s.clientConfig(func(c *tlsapi.ClientConfig) { c.Curves = []tlsapi.CurveID{id} })
					// The curves of TLS 1.2 bind ECDSA certificates, too.
					d := s.clientDuo(t, config, s.referenceServer(only(tls.VersionTLS12), func(r *tls.Config) {
						r.Certificates = []tls.Certificate{s.certs[RSA]}
					}))
					d.mustHandshake(t)
					d.mustEcho(t)
					assert.Equal(t, id, d.peer.ConnectionState().CurveID)
				})
			}
		})
		t.Run("hello retry request", func(t *testing.T) {
			curves := []tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP384}
			config := s.clientConfig(func(c *tlsapi.ClientConfig) { c.Curves = curves })
			d := s.clientDuo(t, config, s.referenceServer(func(r *tls.Config) { r.CurvePreferences = []tls.CurveID{tls.CurveP384} }))
			d.mustHandshake(t)
			d.mustEcho(t)
			hellos, err := ParseClientHellos(d.clientWire.Written())
			require.NoError(t, err)
			if slices.Contains(hellos[0].KeyShares, tlsapi.CurveP384) {
				t.Skipf("the client sends shares for %v at once", hellos[0].KeyShares)
			}
			require.Len(t, hellos, 2)
			assert.Equal(t, []tls.CurveID{tls.CurveP384}, hellos[1].KeyShares)
			info := d.conn.Info()
			assert.True(t, info.HelloRetryRequest)
			assert.True(t, d.conn.ConnectionState().HelloRetryRequest)
			assert.Equal(t, tlsapi.CurveP384, info.Group)
			assert.Equal(t, hellos[0].KeyShares, info.KeyShares, "those of the first ClientHello")
		})
		t.Run("none in common", func(t *testing.T) {
			eachVersion(t, func(t *testing.T, version uint16) {
				config := s.clientConfig(func(c *tlsapi.ClientConfig) { c.Curves = []tlsapi.CurveID{tlsapi.X25519} })
				err, _ := s.clientDuo(t, config, s.referenceServer(only(version), func(r *tls.Config) {
					r.CurvePreferences = []tls.CurveID{tls.CurveP384}
				})).handshakes()
				s.requireKind(t, err, tlsapi.KindPeerAlert)
			})
		})
	})
	t.Run("server", func(t *testing.T) {
		s.need(t, tlsapi.ServerCurves)
		eachVersion(t, s.testServerCurves)
		t.Run("none in common", func(t *testing.T) {
			eachVersion(t, func(t *testing.T, version uint16) {
				config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.Curves = []tlsapi.CurveID{tlsapi.CurveP384} })
				err, peerErr := s.serverDuo(t, config, s.referenceClient(only(version), func(r *tls.Config) {
					r.CurvePreferences = []tls.CurveID{tls.X25519}
				})).handshakes()
				s.requireKind(t, err, tlsapi.KindProtocol)
				s.requireAlertSeen(t, server, inTheClear, peerErr, alertHandshakeFailure, 47, 71)
			})
		})
	})
}

// curveLists are configured on clients and looked for in the ClientHello.
var curveLists = [][]tlsapi.CurveID{
	{tlsapi.X25519},
	{tlsapi.CurveP256},
	{tlsapi.CurveP384},
	{tlsapi.CurveP521},
	{tlsapi.X25519, tlsapi.CurveP256},
	{tlsapi.CurveP256, tlsapi.X25519},
	{tlsapi.X25519, tlsapi.CurveP256, tlsapi.CurveP384},
	{tlsapi.CurveP384, tlsapi.X25519, tlsapi.CurveP256},
	{tlsapi.CurveP521, tlsapi.CurveP384, tlsapi.CurveP256, tlsapi.X25519},
	{tlsapi.X25519MLKEM768, tlsapi.X25519},
	{tlsapi.X25519MLKEM768},
	{tlsapi.X25519, tlsapi.X25519MLKEM768},
	{tlsapi.SecP256r1MLKEM768, tlsapi.CurveP256},
	{tlsapi.SecP384r1MLKEM1024, tlsapi.CurveP384},
	{tlsapi.X448, tlsapi.X25519},
	{tlsapi.MLKEM1024, tlsapi.CurveP384},
}

// unusual returns the names of the curves that a library may lack, when it
// says so.
func unusual(curves []tlsapi.CurveID) []string {
	var names []string
	for _, id := range curves {
		if id != tlsapi.X25519 && id != tlsapi.CurveP256 && id != tlsapi.CurveP384 {
			names = append(names, tlsapi.CurveName(id))
		}
	}
	return names
}

func curveNames(curves []tlsapi.CurveID) string {
	var names []string
	for _, id := range curves {
		names = append(names, tlsapi.CurveName(id))
	}
	return strings.Join(names, ":")
}

// requireList compares what was configured with what is on the wire: exactly
// when the library itself has the feature; in any order, when it is emulated.
func (s *suite) requireList(t *testing.T, feature tlsapi.Feature, configured, wire any) {
	t.Helper()
	if s.native(feature) {
		require.Equal(t, configured, wire)
		return
	}
	require.ElementsMatch(t, configured, wire)
}

// requireSubsequence tests that part occurs within list in the same order
// (RFC 8446 section 4.2.8).
func requireSubsequence[T comparable](t *testing.T, list, part []T) {
	t.Helper()
	rest := list
	for _, v := range part {
		i := slices.Index(rest, v)
		require.GreaterOrEqual(t, i, 0, "%v is no part of %v in order", part, list)
		rest = rest[i+1:]
	}
}

func (s *suite) testServerCurves(t *testing.T, version uint16) {
	for _, c := range []struct {
		server, client []tlsapi.CurveID
		// group is selected by a server that follows its own list, share by
		// one that spares a round trip; they differ in TLS 1.3 only.
		group, share tlsapi.CurveID
	}{
		{[]tlsapi.CurveID{tlsapi.X25519}, []tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP256}, tlsapi.X25519, tlsapi.X25519},
		{[]tlsapi.CurveID{tlsapi.CurveP256}, []tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP256}, tlsapi.CurveP256, tlsapi.CurveP256},
		{[]tlsapi.CurveID{tlsapi.CurveP384}, []tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP384}, tlsapi.CurveP384, tlsapi.CurveP384},
		{[]tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP256}, []tlsapi.CurveID{tlsapi.CurveP256}, tlsapi.CurveP256, tlsapi.CurveP256},
		{[]tlsapi.CurveID{tlsapi.CurveP384, tlsapi.X25519}, []tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP384}, tlsapi.CurveP384, tlsapi.X25519},
		{[]tlsapi.CurveID{tlsapi.CurveP256, tlsapi.X25519}, []tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP256}, tlsapi.CurveP256, tlsapi.X25519},
	} {
		t.Run(fmt.Sprintf("%s to %s", curveNames(c.server), curveNames(c.client)), func(t *testing.T) {
			// The curves of TLS 1.2 bind ECDSA certificates, too.
			config := s.serverConfig(func(config *tlsapi.ServerConfig) {
				config.Curves, config.Certificates = c.server, []tls.Certificate{s.certs[RSA]}
			})
			d := s.serverDuo(t, config, s.referenceClient(only(version), func(r *tls.Config) { r.CurvePreferences = c.client }))
			d.mustHandshake(t)
			d.mustEcho(t)
			hellos, err := ParseClientHellos(d.clientWire.Written())
			require.NoError(t, err)
			info := d.conn.Info()
			assert.Equal(t, d.peer.ConnectionState().CurveID, info.Group)
			assert.Contains(t, c.server, info.Group)
			assert.Equal(t, len(hellos) == 2, info.HelloRetryRequest)
			assert.Equal(t, hellos[0].KeyShares, info.KeyShares)
			if s.native(tlsapi.ServerCurves) {
				want := c.group
				if version == tls.VersionTLS13 {
					want = c.share
				}
				assert.Equal(t, tlsapi.CurveName(want), tlsapi.CurveName(info.Group))
			}
			if version == tls.VersionTLS13 && !slices.Contains(hellos[0].KeyShares, c.share) {
				assert.True(t, info.HelloRetryRequest)
				assert.True(t, d.peer.ConnectionState().HelloRetryRequest)
			}
		})
	}
}

func (s *suite) testVersions(t *testing.T) {
	const v12, v13 = tls.VersionTLS12, tls.VersionTLS13
	bounds := []struct {
		minimum, maximum uint16
		offered          []uint16
	}{
		{0, 0, []uint16{v13, v12}},
		{v12, v13, []uint16{v13, v12}},
		{v12, v12, []uint16{v12}},
		{v13, v13, []uint16{v13}},
		{0, v12, []uint16{v12}},
		{v13, 0, []uint16{v13}},
	}
	eachRole(t, func(t *testing.T, r role) {
		for _, b := range bounds {
			t.Run(fmt.Sprintf("from %s to %s", orAny(b.minimum), orAny(b.maximum)), func(t *testing.T) {
				if b.minimum != 0 || b.maximum != 0 {
					s.need(t, r.feature("versions"))
				}
				for _, version := range versions {
					t.Run("peer with "+versionName(version), func(t *testing.T) {
						d := s.unconnected(t, r, version, func(c *tlsapi.Settings) { c.MinVersion, c.MaxVersion = b.minimum, b.maximum })
						err, peerErr := d.handshakes()
						if r == client {
							s.requireOfferedVersions(t, d.hello(t), b.offered)
						}
						if slices.Contains(b.offered, version) {
							require.NoError(t, err)
							require.NoError(t, peerErr)
							d.mustEcho(t)
							assert.Equal(t, version, d.conn.Info().Version)
							assert.Equal(t, version, d.conn.ConnectionState().Version)
							return
						}
						require.Error(t, peerErr)
						if r == server {
							s.requireKind(t, err, tlsapi.KindProtocol)
							alerts := []tls.AlertError{alertProtocolVersion}
							if !s.native(tlsapi.ServerVersions) {
								alerts = append(alerts, alertHandshakeFailure)
							}
							s.requireAlertSeen(t, server, inTheClear, peerErr, alerts...)
							return
						}
						e := s.requireKinds(t, err, tlsapi.KindPeerAlert, tlsapi.KindProtocol)
						if e.Kind == tlsapi.KindPeerAlert {
							assert.Equal(t, alertProtocolVersion, e.Alert)
						}
					})
				}
			})
		}
		t.Run("TLS 1.1 is refused", func(t *testing.T) {
			d := s.unconnected(t, r, tls.VersionTLS11)
			err, peerErr := d.handshakes()
			s.requireKinds(t, err, tlsapi.KindPeerAlert, tlsapi.KindProtocol)
			require.Error(t, peerErr)
		})
	})
}

func (s *suite) requireOfferedVersions(t *testing.T, hello *ClientHello, want []uint16) {
	t.Helper()
	if !slices.Contains(want, tls.VersionTLS13) && !hello.Has(extensionSupportedVersions) {
		assert.Equal(t, want[0], hello.LegacyVersion)
		return
	}
	assert.Equal(t, want, hello.SupportedVersions)
}

func orAny(version uint16) string {
	if version == 0 {
		return "default"
	}
	return versionName(version)
}

func (s *suite) testCipherSuites(t *testing.T) {
	testOwnLists(s, t, map[role]tlsapi.Feature{client: tlsapi.ClientCipherSuites, server: tlsapi.ServerCipherSuites},
		func(h *ClientHello) []uint16 {
			tls13, tls12 := h.Suites()
			return append(tls13, tls12...)
		}, func(c *tlsapi.Settings, own []uint16) { c.CipherSuites = own })
	tls13 := []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}
	tls12 := []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	}
	t.Run("client", func(t *testing.T) {
		s.need(t, tlsapi.ClientCipherSuites)
		d := s.clientDuo(t, s.clientConfig(), s.referenceServer())
		d.mustHandshake(t)
		groups, versions, schemes := d.hello(t).Groups, d.hello(t).SupportedVersions, d.hello(t).SignatureSchemes
		for _, list := range [][]uint16{
			{tls13[0], tls12[0]},
			{tls13[0], tls13[1], tls13[2], tls12[0], tls12[1], tls12[2]},
			{tls13[2], tls13[1], tls12[2], tls12[1], tls12[0]},
			{tls12[1], tls13[1]},
			{tls13[0], tls13[1], tls12[0], tls12[1]},
			{tls12[1], tls12[0], tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls13[1], tls13[0]},
		} {
			t.Run(suiteNames(list), func(t *testing.T) {
				want13, want12 := (&ClientHello{CipherSuites: list}).Suites()
				eachVersion(t, func(t *testing.T, version uint16) {
					config := s.clientConfig(func(c *tlsapi.ClientConfig) { c.CipherSuites = list })
					d := s.clientDuo(t, config, s.referenceServer(only(version)))
					d.mustHandshake(t)
					d.mustEcho(t)
					got13, got12 := d.hello(t).Suites()
					s.requireList(t, tlsapi.ClientCipherSuites, want13, got13)
					s.requireList(t, tlsapi.ClientCipherSuites, want12, got12)
					// A library's way to choose suites must not choose the rest, too.
					assert.Equal(t, groups, d.hello(t).Groups)
					assert.Equal(t, versions, d.hello(t).SupportedVersions)
					assert.Equal(t, schemes, d.hello(t).SignatureSchemes)
					assert.Contains(t, list, d.conn.Info().CipherSuite)
					assert.Equal(t, d.peer.ConnectionState().CipherSuite, d.conn.Info().CipherSuite)
				})
			})
		}
		for _, id := range tls12 {
			t.Run("TLS 1.2 only, "+tlsapi.CipherSuiteName(id), func(t *testing.T) {
				config := s.clientConfig(func(c *tlsapi.ClientConfig) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{id} })
				d := s.clientDuo(t, config, s.referenceServer())
				d.mustHandshake(t)
				d.mustEcho(t)
				_, got := d.hello(t).Suites()
				assert.Equal(t, []uint16{id}, got)
				assert.Equal(t, id, d.conn.Info().CipherSuite)
			})
		}
		t.Run("none in common", func(t *testing.T) {
			config := s.clientConfig(func(c *tlsapi.ClientConfig) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, tls12[:1] })
			err, _ := s.clientDuo(t, config, s.referenceServer(func(r *tls.Config) { r.CipherSuites = tls12[1:2] })).handshakes()
			e := s.requireKind(t, err, tlsapi.KindPeerAlert)
			assert.Equal(t, alertHandshakeFailure, e.Alert)
		})
	})
	t.Run("server", func(t *testing.T) {
		s.need(t, tlsapi.ServerCipherSuites)
		for _, id := range tls12 {
			t.Run("TLS 1.2 only, "+tlsapi.CipherSuiteName(id), func(t *testing.T) {
				config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{id} })
				d := s.serverDuo(t, config, s.referenceClient())
				d.mustHandshake(t)
				d.mustEcho(t)
				assert.Equal(t, id, d.conn.Info().CipherSuite)
				assert.Equal(t, id, d.peer.ConnectionState().CipherSuite)
			})
		}
		for _, id := range tls13 {
			t.Run("TLS 1.3, "+tlsapi.CipherSuiteName(id), func(t *testing.T) {
				config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.MinVersion, c.CipherSuites = tls.VersionTLS13, []uint16{id} })
				d := s.serverDuo(t, config, s.referenceClient())
				d.mustHandshake(t)
				d.mustEcho(t)
				assert.Equal(t, id, d.conn.Info().CipherSuite)
				assert.Equal(t, id, d.peer.ConnectionState().CipherSuite)
			})
		}
		t.Run("none in common", func(t *testing.T) {
			config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, tls12[:1] })
			err, peerErr := s.serverDuo(t, config, s.referenceClient(only(tls.VersionTLS12), func(r *tls.Config) { r.CipherSuites = tls12[1:2] })).handshakes()
			s.requireKind(t, err, tlsapi.KindProtocol)
			s.requireAlertSeen(t, server, inTheClear, peerErr, alertHandshakeFailure, 71)
		})
	})
	// Whatever the defaults are, they must not hold what is unsafe.
	t.Run("defaults", func(t *testing.T) {
		d := s.clientDuo(t, s.clientConfig(), s.referenceServer())
		d.mustHandshake(t)
		insecure := map[uint16]bool{}
		for _, suite := range tls.InsecureCipherSuites() {
			// CBC with SHA-1 is on the list for lack of constant-time code,
			// RSA key exchange for lack of forward secrecy; RC4 and 3DES are
			// broken.
			if strings.Contains(suite.Name, "RC4") || strings.Contains(suite.Name, "3DES") {
				insecure[suite.ID] = true
			}
		}
		for _, id := range d.hello(t).CipherSuites {
			assert.False(t, insecure[id], "%s is offered by default", tlsapi.CipherSuiteName(id))
		}
	})
}

func suiteNames(list []uint16) string {
	var names []string
	for _, id := range list {
		names = append(names, strings.TrimPrefix(tlsapi.CipherSuiteName(id), "TLS_"))
	}
	return strings.Join(names, ":")
}

func (s *suite) testSignatureSchemes(t *testing.T) {
	// A list that is whole with libraries that take no parts of theirs.
	for _, r := range []role{client, server} {
		t.Run(string(r)+"/SHA-384 and SHA-512 in TLS 1.2", func(t *testing.T) {
			s.need(t, map[role]tlsapi.Feature{client: tlsapi.ClientSignatureSchemes, server: tlsapi.ServerSignatureSchemes}[r])
			list := []tls.SignatureScheme{tls.PKCS1WithSHA384, tls.PKCS1WithSHA512, tls.ECDSAWithP384AndSHA384, tls.ECDSAWithP521AndSHA512}
			cert := s.certs[RSA]
			if r == server {
				d := s.serverDuo(t, s.serverConfig(func(c *tlsapi.ServerConfig) {
					c.MaxVersion, c.SignatureSchemes, c.Certificates = tls.VersionTLS12, list, []tls.Certificate{cert}
				}), s.referenceClient())
				d.mustHandshake(t)
				d.mustEcho(t)
				return
			}
			d := s.clientDuo(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.MaxVersion, c.SignatureSchemes = tls.VersionTLS12, list }),
				s.referenceServer(func(c *tls.Config) { c.Certificates = []tls.Certificate{cert} }))
			d.mustHandshake(t)
			d.mustEcho(t)
			s.requireList(t, tlsapi.ClientSignatureSchemes, list, d.hello(t).SignatureSchemes)
			assert.Contains(t, list, d.conn.Info().SignatureScheme)
		})
	}
	t.Run("client", func(t *testing.T) {
		s.need(t, tlsapi.ClientSignatureSchemes)
		for _, list := range [][]tls.SignatureScheme{
			{tls.ECDSAWithP256AndSHA256},
			{tls.PSSWithSHA256, tls.ECDSAWithP256AndSHA256},
			{tls.ECDSAWithP384AndSHA384, tls.ECDSAWithP256AndSHA256, tls.PSSWithSHA384, tls.PKCS1WithSHA256},
		} {
			t.Run(fmt.Sprint(list), func(t *testing.T) {
				config := s.clientConfig(func(c *tlsapi.ClientConfig) { c.SignatureSchemes = list })
				d := s.clientDuo(t, config, s.referenceServer())
				d.mustHandshake(t)
				d.mustEcho(t)
				s.requireList(t, tlsapi.ClientSignatureSchemes, list, d.hello(t).SignatureSchemes)
			})
		}
		t.Run("peer has none", func(t *testing.T) {
			config := s.clientConfig(func(c *tlsapi.ClientConfig) { c.SignatureSchemes = []tls.SignatureScheme{tls.PSSWithSHA256} })
			err, _ := s.clientDuo(t, config, s.referenceServer(only(tls.VersionTLS13))).handshakes()
			s.requireKind(t, err, tlsapi.KindPeerAlert)
		})
	})
	t.Run("server", func(t *testing.T) {
		s.need(t, tlsapi.ServerSignatureSchemes)
		for _, scheme := range []tls.SignatureScheme{tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512} {
			t.Run(tlsapi.SchemeName(scheme), func(t *testing.T) {
				config := s.serverConfig(func(c *tlsapi.ServerConfig) {
					c.Certificates, c.SignatureSchemes = []tls.Certificate{s.certs[RSA]}, []tls.SignatureScheme{scheme}
				})
				d := s.serverDuo(t, config, s.referenceClient(only(tls.VersionTLS13)))
				d.mustHandshake(t)
				d.mustEcho(t)
			})
		}
	})
	// Whatever the defaults are: no SHA-1, no MD5.
	t.Run("defaults", func(t *testing.T) {
		d := s.clientDuo(t, s.clientConfig(), s.referenceServer())
		d.mustHandshake(t)
		for _, scheme := range d.hello(t).SignatureSchemes {
			sha1 := scheme == tls.PKCS1WithSHA1 || scheme == tls.ECDSAWithSHA1
			if sha1 && s.declares("client.", "SHA-1") {
				t.Logf("%v is offered by default, as declared", scheme)
				continue
			}
			assert.False(t, sha1 || scheme>>8 == 1, "%v is offered by default", scheme)
		}
	})
}
