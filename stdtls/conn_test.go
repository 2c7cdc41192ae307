package stdtls

import (
	"crypto/tls"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

func TestEcho(t *testing.T) {
	ca := newAuthority(t, "CA")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for name, pair := range pairs {
			t.Run(tlsapi.VersionName(version)+" "+name, func(t *testing.T) {
				cert := ca.leaf(t, "server.test")
				client, server := connected(t, pair,
					&tlsapi.ClientConfig{ServerName: "server.test", RootCAs: ca.pool(), Settings: tlsapi.Settings{ALPN: []string{"x", "h2"}}},
					&tlsapi.ServerConfig{Certificates: []tls.Certificate{cert}, Settings: tlsapi.Settings{MaxVersion: version, ALPN: tlsapi.ALPNH2H1()}})
				go func() {
					_, _ = io.Copy(server, server)
					server.Close()
				}()
				go func() {
					_, _ = client.Write([]byte("hello"))
					_ = client.CloseWrite()
				}()
				got, err := io.ReadAll(client)
				require.NoError(t, err)
				require.Equal(t, "hello", string(got))
				t.Logf("%+v", client.Info())
				t.Logf("%+v", server.Info())
			})
		}
	}
}
