package providers_test

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/boringssl"
	"github.com/polytls/polytls/certreload"
	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/metrics"
	"github.com/polytls/polytls/openssl"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/s2n"
	"github.com/polytls/polytls/tlsapi"
)

// The code of README.md, so that it compiles. TestReadme compares the two.
var _ = []any{readmeClient, readmeServer, readmeShares, readmePSK, readmePolicy, readmeMutual, readmeSessions, readmeBlinding,
	readmeHTTPServer, readmeHTTPClient, readmeReload, readmeMetrics}

func readmeClient() error {
	provider := boringssl.Provider // or openssl, s2n, stdtls
	raw, err := net.Dial("tcp", "example.org:443")
	if err != nil {
		return err
	}
	conn, err := provider.Client(raw, &tlsapi.ClientConfig{ServerName: "example.org"})
	if err != nil {
		return err // a configuration that the provider cannot honour
	}
	defer conn.Close()
	_, err = conn.Write([]byte("hello")) // a net.Conn; the handshake runs first
	return err
}

func readmeServer(listener net.Listener) error {
	config, err := tlsapi.ServerConfigFromFiles("server.pem", "server-key.pem") // Mozilla's intermediate
	if err != nil {
		return err
	}
	raw, err := listener.Accept()
	if err != nil {
		return err
	}
	conn, err := openssl.Provider.Server(raw, config)
	if err != nil {
		return err
	}
	go io.Copy(conn, conn)
	return nil
}

func readmeShares(raw net.Conn) error {
	provider, err := providers.Lookup("boringssl") // by name, at run time
	if err != nil {
		return err
	}
	config := &tlsapi.ClientConfig{ServerName: "example.org"}
	if config.Curves, err = tlsapi.ParseCurves("X25519MLKEM768:X25519"); err != nil {
		return err
	}
	config.SecondKeyShare = tlsapi.SecondKeyShareOn // shares of both groups in the first ClientHello
	conn, err := provider.Client(raw, config)
	if errors.Is(err, errors.ErrUnsupported) {
		log.Print(err) // names provider, option and reason; nothing was sent
	}
	if err != nil {
		return err
	}
	return conn.Handshake()
}

func readmePSK(config *tlsapi.ClientConfig, secret []byte) {
	config.PSKs = []tlsapi.PSK{{Identity: []byte("device 7"), Secret: secret, Hash: tlsapi.PSKSHA384}}
	config.RequirePSK = true // no falling back to certificates
}

func readmePolicy(raw net.Conn, config *tlsapi.ServerConfig) (tlsapi.Conn, error) {
	config.SecurityPolicy = "AWS-CRT-SDK-TLSv1.3" // one of s2n's; intermediate and modern work everywhere
	return s2n.Provider.Server(raw, config)
}

func readmeMutual(server *tlsapi.ServerConfig) (client *tlsapi.ClientConfig, err error) {
	server.ClientAuth = tls.RequireAndVerifyClientCert
	if server.ClientCAs, err = tlsapi.CertPoolFromFiles("clients-ca.pem"); err != nil { // never the system's
		return nil, err
	}
	return tlsapi.MutualTLSClientConfig("internal.example", "client.pem", "client-key.pem", "servers-ca.pem")
}

func readmeSessions(client *tlsapi.ClientConfig, server *tlsapi.ServerConfig, newKey, oldKey [32]byte) {
	client.SessionCache = tlsapi.NewLRUSessionCache(0) // 64 servers; may be shared by all configurations
	server.SessionTicketKeys = [][32]byte{newKey, oldKey}
}

func readmeBlinding(server *tlsapi.ServerConfig) {
	server.MaxBlindingDelay = 15 * time.Second // failed handshakes are closed after 5 to 15 s, without a goroutine
	tlsapi.SetBlindedConnectionLimit(10_000)
}

func readmeHTTPServer(mux *http.ServeMux) error {
	srv := &httptls.Server{Provider: openssl.Provider} // an http.Server: HTTP/1.1 and HTTP/2
	srv.Addr, srv.Handler = ":8443", mux
	err := srv.ListenAndServeTLS("server.pem", "server-key.pem")
	return err
}

func readmeHTTPClient(roots *tlsapi.CertPool) *http.Client {
	client := &http.Client{Transport: &httptls.Transport{ // also through proxies
		Provider: boringssl.Provider,
		Config:   &tlsapi.ClientConfig{RootCAs: roots},
	}}
	return client
}

func readmeReload(srv *httptls.Server) error {
	files, err := certreload.New(certreload.Options{ // watched; replaced without dropping connections
		Certificates: []certreload.KeyPair{{CertFile: "tls.crt", KeyFile: "tls.key"}},
		Reloaded:     func(err error) { slog.Info("certificates", "error", err) },
	})
	if err != nil {
		return err
	}
	srv.Config = files.ServerConfig()
	return nil
}

func readmeMetrics(srv *httptls.Server) {
	meter := &metrics.Meter{Log: slog.Default()}    // logs failed handshakes, at LevelDebug all
	srv.Provider = meter.Provider(openssl.Provider) // the same provider, counted
}

func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("readme_test.go")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		assert.Contains(t, unindented(string(source)), unindented(block[1]))
	}
}

func unindented(code string) string {
	lines := strings.Split(code, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}
