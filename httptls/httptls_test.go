package httptls_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

func TestMain(m *testing.M) { leftover.Main(m) }

// eachProvider skips providers whose library was not built; package providers
// has the test that fails where they are required.
func eachProvider(t *testing.T, test func(t *testing.T, p tlsapi.Provider)) {
	for _, p := range providers.All() {
		t.Run(p.Name(), func(t *testing.T) {
			if err := p.Available(); err != nil {
				t.Skip(err)
			}
			test(t, p)
		})
	}
}

// site is a server with its authority.
type site struct {
	authority *tlstest.Authority
	config    *tlsapi.ServerConfig
	client    *tlsapi.ClientConfig
}

func newSite(t *testing.T) site {
	a := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Test CA"})
	cert := a.Leaf(t, tlstest.Spec{DNSNames: []string{"localhost"}, IPAddresses: []string{"127.0.0.1"}})
	return site{
		authority: a,
		config:    &tlsapi.ServerConfig{Certificates: []tls.Certificate{cert}},
		client:    &tlsapi.ClientConfig{RootCAs: tlstest.Pool(a)},
	}
}

// serve runs srv until the end of the test and returns its address.
func serve(t *testing.T, srv *httptls.Server) string {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(inner, "", "") }()
	t.Cleanup(func() {
		srv.Close()
		assert.ErrorIs(t, <-ended, http.ErrServerClosed)
	})
	return inner.Addr().String()
}

// client returns a client whose connections end with the test.
func client(t *testing.T, transport *httptls.Transport) *http.Client {
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// stdTransport is net/http's own client.
func stdTransport(t *testing.T, s site, http2 bool) *http.Transport {
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: tlstest.X509Pool(s.authority)},
		Protocols:       protocols(true, http2),
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func protocols(http1, http2 bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(http1)
	p.SetHTTP2(http2)
	return p
}

// get returns the response with its body read.
func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	resp, err := c.Get(url)
	require.NoError(t, err)
	return resp, body(t, resp)
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(text)
}

func timeLimit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
