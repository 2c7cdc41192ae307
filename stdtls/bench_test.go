package stdtls

import (
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// BenchmarkNewConn is what a connection costs before its handshake: with the
// configuration known, and without.
func BenchmarkNewConn(b *testing.B) {
	ca := tlstest.NewAuthority(b, tlstest.Spec{CommonName: "CA"})
	leaf := ca.Intermediate(b, tlstest.Spec{CommonName: "Intermediate"}).Leaf(b, tlstest.Spec{DNSNames: []string{"server.test"}})
	for name, size := range map[string]int{"known": 0, "converted each time": -1} {
		settings := tlsapi.Settings{ConfigCacheSize: size}
		client := &tlsapi.ClientConfig{Settings: settings, ServerName: "server.test", RootCAs: tlstest.Pool(ca), Certificate: &leaf}
		server := &tlsapi.ServerConfig{Settings: settings, Certificates: []tls.Certificate{leaf}}
		transport := newRecorder()
		b.Run("client/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := Provider.Client(transport, client)
				require.NoError(b, err)
			}
		})
		b.Run("server/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := Provider.Server(transport, server)
				require.NoError(b, err)
			}
		})
	}
}
