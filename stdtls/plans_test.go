package stdtls

import (
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

func TestPlansAreKept(t *testing.T) {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	leaf := ca.Leaf(t, tlstest.Spec{DNSNames: []string{"server.test"}})
	plan := func(c *tlsapi.ServerConfig) *serverPlan {
		p, err := serverPlanOf(c)
		require.NoError(t, err)
		return p
	}
	config := &tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf}}
	first := plan(config)
	require.Same(t, first, plan(config))
	same := *config
	require.NotSame(t, first, plan(&same), "an address is a configuration")

	config.MaxVersion = tls.VersionTLS12
	second := plan(config)
	require.NotSame(t, first, second, "a field was set")
	require.Equal(t, uint16(tls.VersionTLS12), second.standard.MaxVersion)
	config.MaxVersion = tls.VersionTLS10
	_, err := serverPlanOf(config)
	require.ErrorIs(t, err, tlsapi.KindConfig)
	config.MaxVersion = 0

	config.ConfigCacheSize = -1
	require.NotSame(t, plan(config), plan(config), "none is kept")

	config.ConfigCacheSize = 0
	kept := plan(config)
	for range planCacheSize {
		other := *config
		plan(&other)
	}
	require.LessOrEqual(t, serverPlans.known.Len(), planCacheSize)
	require.NotSame(t, kept, plan(config), "it had to go for newer ones")

	_, err = Provider.Client(newRecorder(), nil)
	requireKind(t, err, tlsapi.KindConfig, "config")
}

// A certificate of the hook is checked once, and again when it was changed.
func TestHookCertificatesAreKept(t *testing.T) {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	leaf, other := ca.Leaf(t, tlstest.Spec{CommonName: "a"}), ca.Leaf(t, tlstest.Spec{CommonName: "b"})
	config := &tlsapi.ServerConfig{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &leaf, nil }}
	plan, err := serverPlanOf(config)
	require.NoError(t, err)
	cert, a, err := plan.chooseCertificate(t.Context(), &tls.ClientHelloInfo{})
	require.NoError(t, err)
	require.Same(t, &leaf, cert)
	want := *config
	want.Certificates = []tls.Certificate{leaf}
	require.Equal(t, want.TicketBinding(), a)
	require.Equal(t, 1, plan.chosen.known.Len())
	_, again, err := plan.chooseCertificate(t.Context(), &tls.ClientHelloInfo{})
	require.NoError(t, err)
	require.Equal(t, a, again)

	leaf = other
	_, b, err := plan.chooseCertificate(t.Context(), &tls.ClientHelloInfo{})
	require.NoError(t, err)
	require.NotEqual(t, a, b)
	leaf.PrivateKey = nil
	_, _, err = plan.chooseCertificate(t.Context(), &tls.ClientHelloInfo{})
	require.ErrorIs(t, err, tlsapi.KindConfig)
}
