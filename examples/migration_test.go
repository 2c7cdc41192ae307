package examples

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/polytls/polytls/boringssl"
	"github.com/polytls/polytls/grpctls"
	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/metrics"
	"github.com/polytls/polytls/openssl"
	"github.com/polytls/polytls/promtls"
	"github.com/polytls/polytls/tlsapi"
)

// The code of docs/MIGRATION.md, so that it compiles. TestMigrationCode compares
// the two.
var _ = []any{serverBefore, serverAfter, clientBefore, clientAfter, migratedGRPC, migratedMetrics}

func serverBefore(mux *http.ServeMux) error {
	srv := &http.Server{Addr: ":8443", Handler: mux} // before
	err := srv.ListenAndServeTLS("server.pem", "server-key.pem")
	return err
}

func serverAfter(mux *http.ServeMux) error {
	srv := &httptls.Server{Provider: openssl.Provider} // after
	srv.Addr, srv.Handler = ":8443", mux
	err := srv.ListenAndServeTLS("server.pem", "server-key.pem")
	return err
}

func clientBefore(pool *x509.CertPool) *http.Client {
	client := &http.Client{Transport: &http.Transport{ // before
		TLSClientConfig: &tls.Config{RootCAs: pool},
	}}
	return client
}

func clientAfter(roots *tlsapi.CertPool) *http.Client {
	client := &http.Client{Transport: &httptls.Transport{ // after
		Provider: boringssl.Provider,
		Config:   &tlsapi.ClientConfig{RootCAs: roots}, // a tlsapi.CertPool
	}}
	return client
}

func migratedGRPC(config *tlsapi.ServerConfig) (*grpc.Server, error) {
	creds, err := grpctls.NewServer(openssl.Provider, config) // credentials.NewTLS before
	server := grpc.NewServer(grpc.Creds(creds))
	return server, err
}

func migratedMetrics() tlsapi.Provider {
	meter := &metrics.Meter{Log: slog.Default()}         // failed handshakes; at LevelDebug all
	provider := meter.Provider(openssl.Provider)         // for httptls, grpctls or a program's own use
	prometheus.MustRegister(promtls.NewCollector(meter)) // github.com/polytls/polytls/promtls
	return provider
}

func TestMigrationCode(t *testing.T) {
	document, err := os.ReadFile("../docs/MIGRATION.md")
	require.NoError(t, err)
	source, err := os.ReadFile("migration_test.go")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(document), -1)
	require.NotEmpty(t, blocks)
	after := regexp.MustCompile(`(?m)^.*// after$`)
	for _, block := range blocks {
		parts := []string{block[1]}
		if at := after.FindStringIndex(block[1]); at != nil {
			parts = []string{block[1][:at[0]], block[1][at[0]:]}
		}
		for _, part := range parts {
			assert.Contains(t, withoutSpaces(string(source)), withoutSpaces(part))
		}
	}
}

// withoutSpaces is code without its indentation and alignment.
func withoutSpaces(code string) string { return strings.Join(strings.Fields(code), " ") }
