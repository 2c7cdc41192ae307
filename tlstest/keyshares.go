package tlstest

import (
	"crypto/tls"
	"slices"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sharesNotes are what notes call the limits of the second key share: nothing
// post-quantum at all, or not in the default list.
var sharesNotes = []string{"X25519MLKEM768", "without Curves"}

func sharing(share tlsapi.SecondKeyShare, curves ...tlsapi.CurveID) func(*tlsapi.ClientConfig) {
	return func(c *tlsapi.ClientConfig) { c.SecondKeyShare, c.Curves = share, curves }
}

func (s *suite) testKeyShares(t *testing.T) {
	lists := [][]tlsapi.CurveID{
		nil,
		{tlsapi.X25519MLKEM768, tlsapi.X25519, tlsapi.CurveP256},
		{tlsapi.X25519MLKEM768, tlsapi.CurveP256},
		{tlsapi.X25519, tlsapi.X25519MLKEM768},
		{tlsapi.CurveP256, tlsapi.X25519, tlsapi.X25519MLKEM768},
	}
	t.Run("on", func(t *testing.T) {
		s.need(t, tlsapi.ClientSecondKeyShareOn)
		for _, curves := range lists {
			t.Run(listName(curves), func(t *testing.T) { s.testShares(t, tlsapi.SecondKeyShareOn, curves) })
		}
	})
	t.Run("off", func(t *testing.T) {
		s.need(t, tlsapi.ClientSecondKeyShareOff)
		for _, curves := range append(lists,
			[]tlsapi.CurveID{tlsapi.X25519},
			[]tlsapi.CurveID{tlsapi.X25519MLKEM768},
			[]tlsapi.CurveID{tlsapi.CurveP384, tlsapi.X25519}) {
			t.Run(listName(curves), func(t *testing.T) { s.testShares(t, tlsapi.SecondKeyShareOff, curves) })
		}
		t.Run("TLS 1.2", s.testNoShares)
	})
	t.Run("classical server", func(t *testing.T) {
		for _, classical := range []tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP256} {
			t.Run(tlsapi.CurveName(classical), func(t *testing.T) {
				t.Run("on", func(t *testing.T) { s.testClassicalServer(t, tlsapi.SecondKeyShareOn, classical) })
				t.Run("off", func(t *testing.T) { s.testClassicalServer(t, tlsapi.SecondKeyShareOff, classical) })
			})
		}
	})
	t.Run("share of the first group only", s.testRetryFromDefault)
	t.Run("post-quantum", s.testPostQuantum)
	t.Run("refused", s.testSharesRefused)
}

func listName(curves []tlsapi.CurveID) string {
	if curves == nil {
		return "default"
	}
	return curveNames(curves)
}

// sharesHandshake does a handshake and returns it with its first ClientHello.
func (s *suite) sharesHandshake(t *testing.T, share tlsapi.SecondKeyShare, curves []tlsapi.CurveID) (*duo, *ClientHello) {
	t.Helper()
	notes := sharesNotes[:1]
	if curves == nil {
		notes = sharesNotes
	}
	d := s.clientDuo(t, s.clientConfig(sharing(share, curves...)), s.referenceServer(), notes...)
	d.mustHandshake(t)
	d.mustEcho(t)
	return d, d.hello(t)
}

func (s *suite) testShares(t *testing.T, share tlsapi.SecondKeyShare, curves []tlsapi.CurveID) {
	_, library := s.sharesHandshake(t, tlsapi.SecondKeyShareDefault, curves)
	d, hello := s.sharesHandshake(t, share, curves)
	require.Equal(t, library.Groups, hello.Groups, "supported_groups is unchanged by the option")
	if curves != nil {
		s.requireList(t, tlsapi.ClientCurves, curves, hello.Groups)
	}
	want := hello.Groups[:1:1]
	if share == tlsapi.SecondKeyShareOn {
		other := slices.IndexFunc(hello.Groups, func(id tlsapi.CurveID) bool {
			return tlsapi.PostQuantum(id) != tlsapi.PostQuantum(hello.Groups[0])
		})
		require.Positive(t, other, "%v", hello.Groups)
		want = append(want, hello.Groups[other])
	}
	assert.Equal(t, want, hello.KeyShares)
	info := d.conn.Info()
	assert.Equal(t, hello.KeyShares, info.KeyShares)
	assert.Equal(t, d.peer.ConnectionState().HelloRetryRequest, info.HelloRetryRequest)
}

// testNoShares: a client that offers TLS 1.2 only has no share to leave out.
func (s *suite) testNoShares(t *testing.T) {
	s.need(t, tlsapi.ClientVersions)
	config := s.clientConfig(sharing(tlsapi.SecondKeyShareOff), func(c *tlsapi.ClientConfig) { c.MaxVersion = tls.VersionTLS12 })
	d := s.clientDuo(t, config, s.referenceServer())
	d.mustHandshake(t)
	assert.False(t, d.hello(t).Has(extensionKeyShare))
	assert.Empty(t, d.conn.Info().KeyShares)
}

// testClassicalServer: what the second share is for. The server has the second
// group of the list only.
func (s *suite) testClassicalServer(t *testing.T, share tlsapi.SecondKeyShare, classical tlsapi.CurveID) {
	feature := tlsapi.ClientSecondKeyShareOff
	if share == tlsapi.SecondKeyShareOn {
		feature = tlsapi.ClientSecondKeyShareOn
	}
	s.need(t, feature)
	config := s.clientConfig(sharing(share, tlsapi.X25519MLKEM768, classical))
	d := s.clientDuo(t, config, s.referenceServer(func(r *tls.Config) { r.CurvePreferences = []tls.CurveID{classical} }), sharesNotes[0])
	d.mustHandshake(t)
	d.mustEcho(t)
	hellos, err := ParseClientHellos(d.clientWire.Written())
	require.NoError(t, err)
	info := d.conn.Info()
	if share == tlsapi.SecondKeyShareOn {
		require.Len(t, hellos, 1)
		assert.Equal(t, []tls.CurveID{tlsapi.X25519MLKEM768, classical}, hellos[0].KeyShares)
		assert.False(t, info.HelloRetryRequest)
	} else {
		require.Len(t, hellos, 2)
		assert.Equal(t, []tls.CurveID{tlsapi.X25519MLKEM768}, hellos[0].KeyShares)
		assert.Equal(t, []tls.CurveID{classical}, hellos[1].KeyShares)
		assert.Equal(t, hellos[0].Groups, hellos[1].Groups)
		assert.True(t, info.HelloRetryRequest)
	}
	assert.Equal(t, hellos[0].KeyShares, info.KeyShares, "those of the first ClientHello")
	assert.Equal(t, info.HelloRetryRequest, d.peer.ConnectionState().HelloRetryRequest)
	assert.Equal(t, classical, info.Group)
}

// testRetryFromDefault: also without a post-quantum group in the library, one
// share makes the server ask for another one.
func (s *suite) testRetryFromDefault(t *testing.T) {
	s.need(t, tlsapi.ClientSecondKeyShareOff)
	config := s.clientConfig(sharing(tlsapi.SecondKeyShareOff))
	d := s.clientDuo(t, config, s.referenceServer(func(r *tls.Config) { r.CurvePreferences = []tls.CurveID{tls.CurveP384} }))
	d.mustHandshake(t)
	d.mustEcho(t)
	hellos, err := ParseClientHellos(d.clientWire.Written())
	require.NoError(t, err)
	require.Len(t, hellos, 2)
	assert.Equal(t, hellos[0].Groups[:1], hellos[0].KeyShares)
	assert.Equal(t, []tls.CurveID{tls.CurveP384}, hellos[1].KeyShares)
	assert.True(t, d.conn.Info().HelloRetryRequest)
	assert.Equal(t, hellos[0].KeyShares, d.conn.Info().KeyShares)
}

func (s *suite) testPostQuantum(t *testing.T) {
	hybrid := []tlsapi.CurveID{tlsapi.X25519MLKEM768, tlsapi.X25519}
	t.Run("client", func(t *testing.T) {
		s.need(t, tlsapi.ClientCurves)
		for _, share := range []tlsapi.SecondKeyShare{tlsapi.SecondKeyShareDefault, tlsapi.SecondKeyShareOn, tlsapi.SecondKeyShareOff} {
			t.Run(share.String(), func(t *testing.T) {
				config := s.clientConfig(sharing(share, hybrid...))
				for _, use := range config.Features() {
					s.need(t, use.Feature)
				}
				d := s.clientDuo(t, config, s.referenceServer(func(r *tls.Config) { r.CurvePreferences = hybrid }), sharesNotes[0])
				d.mustHandshake(t)
				d.mustEcho(t)
				assert.Equal(t, tlsapi.X25519MLKEM768, d.conn.Info().Group)
				assert.Equal(t, tlsapi.X25519MLKEM768, d.peer.ConnectionState().CurveID)
				assert.False(t, d.conn.Info().HelloRetryRequest)
			})
		}
	})
	t.Run("server", func(t *testing.T) {
		s.need(t, tlsapi.ServerCurves)
		config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.Curves = hybrid })
		d := s.serverDuo(t, config, s.referenceClient(func(r *tls.Config) { r.CurvePreferences = hybrid }), sharesNotes[0])
		d.mustHandshake(t)
		d.mustEcho(t)
		assert.Equal(t, tlsapi.X25519MLKEM768, d.conn.Info().Group)
		assert.Equal(t, tlsapi.X25519MLKEM768, d.peer.ConnectionState().CurveID)
		assert.Equal(t, d.hello(t).KeyShares, d.conn.Info().KeyShares)
	})
}

func (s *suite) testSharesRefused(t *testing.T) {
	t.Run("on without a pair", func(t *testing.T) {
		for _, curves := range [][]tlsapi.CurveID{{tlsapi.X25519, tlsapi.CurveP256}, {tlsapi.X25519MLKEM768}} {
			s.requireClientRefusal(t, s.clientConfig(sharing(tlsapi.SecondKeyShareOn, curves...)), tlsapi.KindConfig, "SecondKeyShare")
		}
	})
	t.Run("on with TLS 1.2", func(t *testing.T) {
		config := s.clientConfig(sharing(tlsapi.SecondKeyShareOn), func(c *tlsapi.ClientConfig) { c.MaxVersion = tls.VersionTLS12 })
		s.requireClientRefusal(t, config, tlsapi.KindUnsupported, "SecondKeyShare")
	})
	t.Run("on with a preset without post-quantum groups", func(t *testing.T) {
		if !s.presetLacks(client, tlsapi.CurveName(tlsapi.X25519MLKEM768)) {
			t.Skip("the presets have X25519MLKEM768")
		}
		config := s.clientConfig(sharing(tlsapi.SecondKeyShareOn), func(c *tlsapi.ClientConfig) { c.SecurityPolicy = tlsapi.PolicyIntermediate })
		s.requireClientRefusal(t, config, tlsapi.KindUnsupported, "SecondKeyShare")
	})
	t.Run("declared", func(t *testing.T) {
		for share, feature := range map[tlsapi.SecondKeyShare]tlsapi.Feature{
			tlsapi.SecondKeyShareOn: tlsapi.ClientSecondKeyShareOn, tlsapi.SecondKeyShareOff: tlsapi.ClientSecondKeyShareOff,
		} {
			if !s.supported(feature) {
				s.requireClientRefusal(t, s.clientConfig(sharing(share)), tlsapi.KindUnsupported, "SecondKeyShare")
			}
		}
	})
}
