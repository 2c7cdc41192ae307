package native_test

import (
	"crypto/tls"
	"testing"

	"github.com/polytls/polytls/boringssl"
	"github.com/polytls/polytls/openssl"
	"github.com/polytls/polytls/s2n"
	"github.com/polytls/polytls/stdtls"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
	"github.com/stretchr/testify/require"
)

// BenchmarkConnection makes connections of a known configuration and closes them
// without a handshake: what a configuration costs each connection.
func BenchmarkConnection(b *testing.B) {
	ca := tlstest.NewAuthority(b, tlstest.Spec{CommonName: "CA"})
	cert := ca.Leaf(b, tlstest.Spec{DNSNames: []string{"server.example"}})
	client := &tlsapi.ClientConfig{ServerName: "server.example", RootCAs: tlstest.Pool(ca), Certificate: &cert}
	server := &tlsapi.ServerConfig{Certificates: []tls.Certificate{cert}}
	for _, p := range []tlsapi.Provider{stdtls.Provider, openssl.Provider, boringssl.Provider, s2n.Provider} {
		run := func(role string, connect func(*tlstest.Transport) (tlsapi.Conn, error)) {
			b.Run(p.Name()+"/"+role, func(b *testing.B) {
				if err := p.Available(); err != nil {
					b.Skip(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					wire, _ := tlstest.Pipe()
					conn, err := connect(wire)
					require.NoError(b, err)
					require.NoError(b, conn.Close())
				}
			})
		}
		run("client", func(w *tlstest.Transport) (tlsapi.Conn, error) { return p.Client(w, client) })
		run("server", func(w *tlstest.Transport) (tlsapi.Conn, error) { return p.Server(w, server) })
	}
}
