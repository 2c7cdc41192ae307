package httptls_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/stdtls"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

var mux = http.DefaultServeMux

func ExampleServer() {
	provider := stdtls.Provider // or openssl.Provider, boringssl.Provider, s2n.Provider
	srv := &httptls.Server{Provider: provider}
	srv.Addr, srv.Handler = ":8443", mux
	srv.ReadHeaderTimeout = 10 * time.Second
	log.Fatal(srv.ListenAndServeTLS("server.pem", "server-key.pem"))
}

func ExampleTransport() {
	roots, err := tlsapi.CertPoolFromFiles("ca.pem")
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: &httptls.Transport{
		Provider: stdtls.Provider,
		Config:   &tlsapi.ClientConfig{RootCAs: roots},
	}}
	resp, err := client.Get("https://service.example/")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Proto, tls.VersionName(resp.TLS.Version))
}

func ExampleDial() {
	conn, err := httptls.Dial("tcp", "service.example:443", stdtls.Provider, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		log.Fatal(err)
	}
}

// What the examples above do, against a server that is there.
func TestMigration(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t)
		certFile, keyFile := tlstest.WriteFiles(t, s.config.Certificates[0])
		inner, err := httptls.Listen("tcp", "127.0.0.1:0", p, s.config)
		require.NoError(t, err)
		address := inner.Addr().String()
		require.NoError(t, inner.Close())

		srv := &httptls.Server{Provider: p}
		srv.Addr, srv.Handler = address, http.HandlerFunc(describe)
		ended := make(chan error, 1)
		go func() { ended <- srv.ListenAndServeTLS(certFile, keyFile) }()
		c := client(t, &httptls.Transport{Provider: p, Config: &tlsapi.ClientConfig{RootCAs: tlstest.Pool(s.authority)}})
		require.Eventually(t, func() bool {
			resp, err := c.Get("https://" + address)
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			return err == nil && resp.TLS != nil && string(text) == `HTTP/2.0 TLS 1.3 h2 "" `+p.Name()
		}, 20*time.Second, 20*time.Millisecond)
		require.NoError(t, srv.Shutdown(timeLimit(t)))
		assert.ErrorIs(t, <-ended, http.ErrServerClosed)
	})
}
