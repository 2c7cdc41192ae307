package stdtls

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

// authority issues certificates for the tests.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	// sent are the certificates between this authority and a root, this
	// one's first.
	sent [][]byte
}

func ecKey(t testing.TB) crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func rsaKey(t testing.TB, bits int) crypto.Signer {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	require.NoError(t, err)
	return key
}

func edKey(t testing.TB) crypto.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return key
}

func serial(t testing.TB) *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	require.NoError(t, err)
	return n
}

func caTemplate(t testing.TB, name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          serial(t),
		Subject:               pkix.Name{CommonName: name, Organization: []string{"Polytls tests"}},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
}

func newAuthority(t testing.TB, name string, changes ...func(*x509.Certificate)) *authority {
	return newAuthorityWithKey(t, name, ecKey(t), changes...)
}

func newAuthorityWithKey(t testing.TB, name string, key crypto.Signer, changes ...func(*x509.Certificate)) *authority {
	template := caTemplate(t, name)
	for _, change := range changes {
		change(template)
	}
	return &authority{cert: sign(t, template, template, key.Public(), key), key: key}
}

func (a *authority) intermediate(t testing.TB, name string, changes ...func(*x509.Certificate)) *authority {
	template := caTemplate(t, name)
	for _, change := range changes {
		change(template)
	}
	key := ecKey(t)
	cert := sign(t, template, a.cert, key.Public(), a.key)
	return &authority{cert: cert, key: key, sent: append([][]byte{cert.Raw}, a.sent...)}
}

func leafTemplate(t testing.TB, names ...string) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: serial(t),
		Subject:      pkix.Name{CommonName: "leaf", Organization: []string{"Leaf Inc"}},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return template
}

func (a *authority) issue(t testing.TB, key crypto.Signer, template *x509.Certificate) tls.Certificate {
	cert := sign(t, template, a.cert, key.Public(), a.key)
	return tls.Certificate{Certificate: append([][]byte{cert.Raw}, a.sent...), PrivateKey: key}
}

func (a *authority) leaf(t testing.TB, names ...string) tls.Certificate {
	return a.issue(t, ecKey(t), leafTemplate(t, names...))
}

func (a *authority) pool() *tlsapi.CertPool {
	pool := tlsapi.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func sign(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
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
	limit := time.Now().Add(10 * time.Second)
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
		case <-time.After(10 * time.Second):
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
