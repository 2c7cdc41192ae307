package stdtls

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

func newAuthority(t testing.TB, name string) *tlstest.Authority {
	return tlstest.NewAuthority(t, tlstest.Spec{CommonName: name})
}

func leaf(t testing.TB, issuer *tlstest.Authority, names ...string) tls.Certificate {
	return issuer.Leaf(t, leafSpec(names...))
}

// leafSpec sorts names into DNS names and addresses.
func leafSpec(names ...string) tlstest.Spec {
	spec := tlstest.Spec{CommonName: "leaf", Organization: "Leaf Inc"}
	for _, name := range names {
		if net.ParseIP(name) != nil {
			spec.IPAddresses = append(spec.IPAddresses, name)
		} else {
			spec.DNSNames = append(spec.DNSNames, name)
		}
	}
	return spec
}

// reissued lets the issuer sign a certificate once more, with a change that
// tlstest.Spec has no field for.
func reissued(t testing.TB, issuer *tlstest.Authority, cert tls.Certificate, change func(*x509.Certificate)) tls.Certificate {
	template := *cert.Leaf
	change(&template)
	der, err := x509.CreateCertificate(rand.Reader, &template, issuer.Certificate, cert.Leaf.PublicKey, issuer.Key)
	require.NoError(t, err)
	cert.Certificate = append([][]byte{der}, cert.Certificate[1:]...)
	cert.Leaf = mustParse(t, der)
	return cert
}

// tcpPair returns the two ends of a TCP connection over loopback.
func tcpPair(t testing.TB) (client, server net.Conn) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, _ := listener.Accept()
		accepted <- conn
	}()
	client, err = net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	server = <-accepted
	require.NotNil(t, server)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func pipePair(t testing.TB) (client, server net.Conn) {
	client, server = net.Pipe()
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

var pairs = map[string]func(testing.TB) (net.Conn, net.Conn){"TCP": tcpPair, "pipe": pipePair}

// connect makes both ends and runs both handshakes.
func connect(t testing.TB, pair func(testing.TB) (net.Conn, net.Conn), cc *tlsapi.ClientConfig, sc *tlsapi.ServerConfig) (client, server tlsapi.Conn, clientErr, serverErr error) {
	ct, st := pair(t)
	client, err := Provider.Client(ct, cc)
	require.NoError(t, err)
	server, err = Provider.Server(st, sc)
	require.NoError(t, err)
	t.Cleanup(func() { client.Close(); server.Close() })
	limit := time.Now().Add(time.Minute)
	require.NoError(t, client.SetDeadline(limit))
	require.NoError(t, server.SetDeadline(limit))
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	clientErr = client.Handshake()
	if clientErr == nil {
		// In TLS 1.3 the server's verdict on the client comes later.
		select {
		case serverErr = <-done:
			return client, server, nil, serverErr
		case <-time.After(time.Minute):
			t.Fatal("the server's handshake hangs")
		}
	}
	client.Close()
	serverErr = <-done
	return client, server, clientErr, serverErr
}

// connected is connect for handshakes that must succeed; the deadlines are
// gone.
func connected(t testing.TB, pair func(testing.TB) (net.Conn, net.Conn), cc *tlsapi.ClientConfig, sc *tlsapi.ServerConfig) (client, server tlsapi.Conn) {
	client, server, clientErr, serverErr := connect(t, pair, cc, sc)
	require.NoError(t, clientErr)
	require.NoError(t, serverErr)
	require.NoError(t, client.SetDeadline(time.Time{}))
	require.NoError(t, server.SetDeadline(time.Time{}))
	return client, server
}
