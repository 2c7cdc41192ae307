package tlstest

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// guideline is what Mozilla's Server Side TLS guidelines, edition 6.0, say of a
// configuration. It is written down here once more: a mistake in
// tlsapi.LookupPolicy must not be one of the test.
type guideline struct {
	versions       []uint16
	suites, groups []string
}

var guidelines = map[string]guideline{
	tlsapi.PolicyIntermediate: {
		versions: []uint16{tls.VersionTLS13, tls.VersionTLS12},
		suites: append(slices.Clone(guidelineSuites),
			"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
			"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
			"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
		groups: guidelineGroups,
	},
	tlsapi.PolicyModern: {
		versions: []uint16{tls.VersionTLS13},
		suites:   guidelineSuites,
		groups:   guidelineGroups,
	},
}

var (
	guidelineSuites = []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
	guidelineGroups = []string{"X25519MLKEM768", "X25519", "P-256", "P-384"}
)

func (s *suite) testPolicies(t *testing.T) {
	for name, g := range guidelines {
		t.Run(name, func(t *testing.T) {
			using := func(c *tlsapi.Settings) { c.SecurityPolicy = name }
			t.Run("client", func(t *testing.T) { s.testClientPolicy(t, g, using) })
			t.Run("server", func(t *testing.T) { s.testServerPolicy(t, g, using) })
		})
	}
	t.Run("named", func(t *testing.T) {
		eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
			s.need(t, r.feature("policy-named"))
			d := s.connected(t, r, version, func(c *tlsapi.Settings) { c.SecurityPolicy = namedPolicy })
			assert.Equal(t, version, d.conn.Info().Version)
			if r == client {
				s.requireOfferedVersions(t, d.hello(t), []uint16{tls.VersionTLS13, tls.VersionTLS12})
			}
		})
	})
	t.Run("unknown", func(t *testing.T) {
		eachRole(t, func(t *testing.T, r role) {
			wire, _ := newWire(t)
			conn, err := s.make(r, wire, func(c *tlsapi.Settings) { c.SecurityPolicy = "no-such-policy" })
			require.Error(t, err)
			require.Nil(t, conn)
			e := s.requireKinds(t, err, tlsapi.KindConfig, tlsapi.KindUnsupported)
			assert.Equal(t, "SecurityPolicy", e.Option)
			// What could be meant is listed.
			assert.Contains(t, err.Error(), tlsapi.PolicyIntermediate)
			assert.Contains(t, err.Error(), tlsapi.PolicyModern)
			if s.supported(r.feature("policy-named")) {
				assert.Contains(t, err.Error(), namedPolicy)
			}
			requireUntouched(t, wire)
		})
	})
}

// presetLacks reports whether the provider says that its presets are without a
// suite or group.
func (s *suite) presetLacks(r role, name string) bool {
	_, lacking, _ := strings.Cut(s.cells[r.feature("policy-preset")].Note, "without ")
	// Whole words: one name may be the beginning of another.
	return slices.Contains(strings.FieldsFunc(lacking, func(r rune) bool { return strings.ContainsRune(" ,;", r) }), name)
}

// testClientPolicy looks at the ClientHello: what the guideline names, what the
// library lacks and says so left out, and nothing else.
func (s *suite) testClientPolicy(t *testing.T, g guideline, using func(*tlsapi.Settings)) {
	s.need(t, tlsapi.ClientPolicyPreset)
	eachVersion(t, func(t *testing.T, version uint16) {
		d := s.unconnected(t, client, version, using)
		err, peerErr := d.handshakes()
		hello := d.hello(t)
		s.requireOfferedVersions(t, hello, g.versions)
		got13, got12 := hello.Suites()
		s.requireGuideline(t, g.suites, append(named(got13, tlsapi.CipherSuiteName), named(got12, tlsapi.CipherSuiteName)...))
		s.requireGuideline(t, g.groups, named(hello.Groups, tlsapi.CurveName))
		for _, scheme := range hello.SignatureSchemes {
			weak := scheme == tls.PKCS1WithSHA1 || scheme == tls.ECDSAWithSHA1
			assert.False(t, weak && !s.declares("client.policy-preset", "SHA-1"), "%v is offered", scheme)
		}
		if !slices.Contains(g.versions, version) {
			s.requireKinds(t, err, tlsapi.KindProtocol, tlsapi.KindPeerAlert)
			require.Error(t, peerErr)
			return
		}
		require.NoError(t, err)
		require.NoError(t, peerErr)
		d.mustEcho(t)
		assert.Contains(t, g.suites, tlsapi.CipherSuiteName(d.conn.Info().CipherSuite))
		assert.Contains(t, g.groups, tlsapi.CurveName(d.conn.Info().Group))
	})
}

// requireGuideline compares a list of the wire with the guideline's.
func (s *suite) requireGuideline(t *testing.T, guideline, wire []string) {
	t.Helper()
	want := slices.DeleteFunc(slices.Clone(guideline), func(name string) bool { return s.presetLacks(client, name) })
	if s.declares("client.policy-preset", "in its own order") {
		require.ElementsMatch(t, want, wire)
		return
	}
	require.Equal(t, want, wire)
}

func named[T any](list []T, name func(T) string) []string {
	var names []string
	for _, v := range list {
		names = append(names, name(v))
	}
	return names
}

// testServerPolicy offers one thing at a time to a server: what the guideline
// names is taken, everything else refused.
func (s *suite) testServerPolicy(t *testing.T, g guideline, using func(*tlsapi.Settings)) {
	s.need(t, tlsapi.ServerPolicyPreset)
	attempt := func(t *testing.T, kind KeyType, offer func(*tls.Config), want bool) *duo {
		t.Helper()
		config := s.serverConfig(func(c *tlsapi.ServerConfig) {
			c.Certificates = []tls.Certificate{s.certs[kind]}
			using(&c.Settings)
		})
		d := s.serverDuo(t, config, s.referenceClient(offer))
		err, peerErr := d.handshakes()
		if want {
			require.NoError(t, err)
			require.NoError(t, peerErr)
			d.mustEcho(t)
		} else {
			s.requireKind(t, err, tlsapi.KindProtocol)
			require.Error(t, peerErr)
		}
		return d
	}
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(versionName(version), func(t *testing.T) {
			attempt(t, ECDSA, only(version), slices.Contains(g.versions, version))
		})
	}
	for _, version := range g.versions {
		for _, group := range []tlsapi.CurveID{tlsapi.X25519MLKEM768, tlsapi.X25519, tlsapi.CurveP256, tlsapi.CurveP384, tlsapi.CurveP521, tlsapi.SecP384r1MLKEM1024} {
			if tlsapi.PostQuantum(group) && version != tls.VersionTLS13 {
				continue
			}
			name := tlsapi.CurveName(group)
			t.Run(versionName(version)+" with "+name, func(t *testing.T) {
				want := slices.Contains(g.groups, name) && !s.presetLacks(server, name)
				// The groups of TLS 1.2 bind ECDSA certificates, too.
				d := attempt(t, RSA, func(c *tls.Config) {
					only(version)(c)
					c.CurvePreferences = []tls.CurveID{group}
				}, want)
				if want {
					assert.Equal(t, group, d.conn.Info().Group)
				}
			})
		}
	}
	if !slices.Contains(g.versions, tls.VersionTLS12) {
		return
	}
	// Go has no name for the insecure ones in tls.CipherSuites.
	for _, known := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if tlsapi.CipherSuiteTLS13(known.ID) {
			continue
		}
		t.Run("TLS-1.2 with "+known.Name, func(t *testing.T) {
			kind := RSA
			if strings.Contains(known.Name, "_ECDSA_") {
				kind = ECDSA
			}
			want := slices.Contains(g.suites, known.Name) && !s.presetLacks(server, known.Name)
			d := attempt(t, kind, func(c *tls.Config) {
				only(tls.VersionTLS12)(c)
				c.CipherSuites = []uint16{known.ID}
			}, want)
			if want {
				assert.Equal(t, known.ID, d.conn.Info().CipherSuite)
			}
		})
	}
}
