package stdtls

import (
	"crypto/tls"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// What a Read and a Write allocate is crypto/tls's: the connection around it adds
// nothing.
func TestReadAndWriteAddNoAllocation(t *testing.T) {
	if instrumented {
		t.Skip("the detectors allocate, and make pools forget")
	}
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	leaf := ca.Leaf(t, tlstest.Spec{DNSNames: []string{"server.test"}})

	cost := func(size int, client, server func(net.Conn) net.Conn) float64 {
		one, two := unixPair(t)
		from, to := client(one), server(two)
		data, got := make([]byte, size), make([]byte, size)
		failed := make(chan error, 1)
		go func() {
			_, err := to.Read(got[:1])
			failed <- err
		}()
		_, err := from.Write(data[:1])
		require.NoError(t, err)
		require.NoError(t, <-failed)
		return testing.AllocsPerRun(200, func() {
			if _, err := from.Write(data); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(to, got); err != nil {
				t.Fatal(err)
			}
		})
	}
	own := func(c tlsapi.Conn, err error) net.Conn {
		require.NoError(t, err)
		return c
	}
	for _, size := range []int{128, 16 << 10} {
		reference := cost(size,
			func(c net.Conn) net.Conn {
				return tls.Client(c, &tls.Config{ServerName: "server.test", RootCAs: tlstest.X509Pool(ca)})
			},
			func(c net.Conn) net.Conn { return tls.Server(c, &tls.Config{Certificates: []tls.Certificate{leaf}}) })
		ours := cost(size,
			func(c net.Conn) net.Conn {
				return own(Provider.Client(c, &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca)}))
			},
			func(c net.Conn) net.Conn {
				return own(Provider.Server(c, &tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf}}))
			})
		assert.LessOrEqual(t, ours, reference, "%d bytes", size)
	}
}
