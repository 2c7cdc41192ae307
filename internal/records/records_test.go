package records_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/records"
	"github.com/polytls/polytls/tlstest"
)

// What the keys of a key log make is what crypto/tls takes, in both directions
// and with every kind of suite.
func TestRecordsOfCryptoTLS(t *testing.T) {
	const host = "server.example"
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	cert := ca.Leaf(t, tlstest.Spec{CommonName: host, DNSNames: []string{host}})
	for _, suite := range []uint16{
		0, // TLS 1.3
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	} {
		for _, fromClient := range []bool{true, false} {
			var log bytes.Buffer
			version := uint16(tls.VersionTLS13)
			config := &tls.Config{ServerName: host, RootCAs: tlstest.X509Pool(ca), KeyLogWriter: &log}
			if suite != 0 {
				version, config.CipherSuites = tls.VersionTLS12, []uint16{suite}
			}
			config.MinVersion, config.MaxVersion = version, version
			wire, serverWire := tlstest.Pipe()
			client := tls.Client(wire, config)
			server := tls.Server(serverWire, &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true})
			done := make(chan error, 1)
			go func() { done <- server.Handshake() }()
			require.NoError(t, client.Handshake())
			require.NoError(t, <-done)

			keys, err := records.FromKeyLog(version, client.ConnectionState().CipherSuite, strings.Split(log.String(), "\n"), serverWire.Written(), fromClient)
			require.NoError(t, err)
			from, to := io.Writer(wire), io.Reader(server)
			if !fromClient {
				from, to = serverWire, client
			}
			out := keys.Record(records.ApplicationData, []byte("one"))
			if version == tls.VersionTLS13 {
				out = append(out, keys.KeyUpdate(false)...)
			}
			_, err = from.Write(append(out, keys.Record(records.ApplicationData, []byte("two"))...))
			require.NoError(t, err)
			got := make([]byte, 6)
			_, err = io.ReadFull(to, got)
			require.NoError(t, err, "%s", tls.CipherSuiteName(suite))
			assert.Equal(t, "onetwo", string(got))
			client.Close()
			server.Close()
		}
	}
}

func TestKeyLogWithoutTheConnection(t *testing.T) {
	_, err := records.FromKeyLog(tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, []string{"CLIENT_RANDOM 00 00"}, nil, true)
	assert.ErrorContains(t, err, "CLIENT_TRAFFIC_SECRET_0")
	_, err = records.FromKeyLog(tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, []string{"CLIENT_RANDOM 00 00"}, nil, true)
	assert.ErrorContains(t, err, "ServerHello")
}
