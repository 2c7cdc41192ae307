package httptls_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/s2n"
	"github.com/polytls/polytls/stdtls"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// describe answers with what the handler knows of its connection.
func describe(w http.ResponseWriter, r *http.Request) {
	conn := httptls.ConnFromContext(r.Context())
	if r.TLS == nil || conn == nil {
		http.Error(w, "no TLS", http.StatusInternalServerError)
		return
	}
	var peer string
	if len(r.TLS.PeerCertificates) > 0 {
		peer = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	fmt.Fprintf(w, "%s %s %s %q %s", r.Proto, tls.VersionName(r.TLS.Version), r.TLS.NegotiatedProtocol, peer, conn.Info().Provider)
}

func TestServerWithGoClient(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t)
		s.config.ClientAuth = tls.VerifyClientCertIfGiven
		s.config.ClientCAs = tlstest.Pool(s.authority)
		var states sync.Map
		srv := &httptls.Server{Provider: p, Config: s.config}
		srv.Handler = http.HandlerFunc(describe)
		srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			_, ok := c.(tlsapi.Conn)
			assert.True(t, ok, "%T", c)
			return context.WithValue(ctx, ctxKey{}, "kept")
		}
		srv.ConnState = func(c net.Conn, state http.ConnState) {
			_, ok := c.(tlsapi.Conn)
			assert.True(t, ok, "%T", c)
			states.Store(state, true)
		}
		address := serve(t, srv)
		cert := s.authority.Leaf(t, tlstest.Spec{CommonName: "Client"})
		for _, http2 := range []bool{true, false} {
			tr := stdTransport(t, s, http2)
			tr.TLSClientConfig.Certificates = []tls.Certificate{cert}
			resp, text := get(t, &http.Client{Transport: tr}, "https://"+address)
			// Go's client offers no ALPN for HTTP/1.1.
			want := `HTTP/1.1 TLS 1.3  "Client" ` + p.Name()
			if http2 {
				want = `HTTP/2.0 TLS 1.3 h2 "Client" ` + p.Name()
			}
			assert.Equal(t, want, text)
			assert.Equal(t, http2, resp.ProtoMajor == 2)
		}
		for _, state := range []http.ConnState{http.StateNew, http.StateActive} {
			_, seen := states.Load(state)
			assert.True(t, seen, state)
		}
	})
}

type ctxKey struct{}

func TestServerProtocols(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct {
		name         string
		http1, http2 bool
		want         string
	}{{"HTTP/1.1 only", true, false, "HTTP/1.1"}, {"HTTP/2 only", false, true, "HTTP/2.0"}} {
		t.Run(c.name, func(t *testing.T) {
			srv := &httptls.Server{Provider: stdtls.Provider, Config: s.config}
			srv.Handler = http.HandlerFunc(describe)
			srv.Protocols = protocols(c.http1, c.http2)
			address := serve(t, srv)
			resp, _ := get(t, &http.Client{Transport: stdTransport(t, s, true)}, "https://"+address)
			assert.Equal(t, c.want, resp.Proto)
		})
	}
	for _, srv := range []*httptls.Server{
		{Provider: stdtls.Provider, Config: s.config, Server: http.Server{TLSConfig: &tls.Config{}}},
		{Provider: stdtls.Provider, Config: s.config, Server: http.Server{Protocols: protocols(false, false)}},
		{Provider: stdtls.Provider},
		{Config: s.config},
	} {
		srv.Addr = "127.0.0.1:0"
		assert.ErrorIs(t, srv.ListenAndServeTLS("", ""), tlsapi.KindConfig)
	}
}

// Shutdown waits for the requests that run, and refuses new connections.
func TestShutdownWaits(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		for _, http2 := range []bool{true, false} {
			t.Run(fmt.Sprintf("HTTP/2=%t", http2), func(t *testing.T) {
				s := newSite(t)
				running, finish := make(chan string, 3), make(chan struct{})
				srv := &httptls.Server{Provider: p, Config: s.config}
				srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					running <- r.Proto
					<-finish
					io.WriteString(w, "done")
				})
				address := serve(t, srv)
				c := &http.Client{Transport: stdTransport(t, s, http2)}
				answers := make(chan string, 3)
				for range 3 {
					go func() {
						resp, err := c.Get("https://" + address)
						if !assert.NoError(t, err) {
							answers <- ""
							return
						}
						defer resp.Body.Close()
						text, err := io.ReadAll(resp.Body)
						assert.NoError(t, err)
						answers <- string(text)
					}()
				}
				for range 3 {
					assert.Equal(t, http2, <-running == "HTTP/2.0")
				}
				shut := make(chan error, 1)
				go func() { shut <- srv.Shutdown(timeLimit(t)) }()
				select {
				case <-shut:
					t.Fatal("Shutdown did not wait")
				case <-time.After(300 * time.Millisecond):
				}
				_, err := net.DialTimeout("tcp", address, time.Second)
				assert.Error(t, err, "it still listens")
				close(finish)
				for range 3 {
					assert.Equal(t, "done", <-answers)
				}
				assert.NoError(t, <-shut)
			})
		}
	})
}

// http.Server tells its HTTP/2 connections once that it shuts down. A connection
// that begins after that would be waited for as long as its client likes.
func TestShutdownRefusesHTTP2ThatHasNotBegun(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t)
		srv := &httptls.Server{Provider: p, Config: s.config}
		srv.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request came through") })
		accepted := make(chan struct{}, 2)
		srv.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				accepted <- struct{}{}
			}
		}
		address := serve(t, srv)
		var conns [2]*tls.Conn
		for i := range conns {
			conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: tlstest.X509Pool(s.authority), NextProtos: []string{"h2"}})
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
			conns[i] = conn
			<-accepted
		}
		shut := make(chan error, 1)
		go func() { shut <- srv.Shutdown(timeLimit(t)) }()
		require.Eventually(t, func() bool {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				conn.Close()
			}
			return err != nil
		}, time.Minute, time.Millisecond, "it still listens")
		_, err := io.WriteString(conns[1], "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		require.NoError(t, err)
		for _, conn := range conns {
			frames, err := io.ReadAll(conn)
			require.NoError(t, err)
			assert.Equal(t, "\x00\x00\x00\x04\x00\x00\x00\x00\x00"+
				"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", string(frames))
			conn.Close()
		}
		assert.NoError(t, <-shut)
	})
}

// A client that has negotiated h2 and speaks HTTP/1.1 is cut off.
func TestNegotiatedProtocolCounts(t *testing.T) {
	s := newSite(t)
	srv := &httptls.Server{Provider: stdtls.Provider, Config: s.config}
	srv.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request came through") })
	address := serve(t, srv)
	config := *s.client
	config.ALPN = tlsapi.ALPNH2()
	conn, err := httptls.Dial("tcp", address, stdtls.Provider, &config)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	_, err = http.ReadResponse(bufio.NewReader(conn), nil)
	assert.Error(t, err)
}

// RFC 9113 section 9.2.2.
func TestHTTP2RefusesOldSuites(t *testing.T) {
	p := s2n.Provider
	if err := p.Available(); err != nil {
		t.Skip("no other provider has a suite to refuse: ", err)
	}
	s := newSite(t)
	s.config.MaxBlindingDelay = -1
	s.config.MaxVersion = tls.VersionTLS12 // A policy with CBC suites behind the others.
	srv := &httptls.Server{Provider: p, Config: s.config}
	address := serve(t, srv)
	conn, err := tls.Dial("tcp", address, &tls.Config{
		RootCAs: tlstest.X509Pool(s.authority), NextProtos: []string{"h2"},
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256}, MaxVersion: tls.VersionTLS12,
	})
	require.NoError(t, err)
	defer conn.Close()
	frames, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Len(t, frames, 9+17)
	assert.Equal(t, byte(7), frames[9+3], "not GOAWAY")
	assert.Equal(t, byte(0xc), frames[len(frames)-1], "not INADEQUATE_SECURITY")
}

func TestPlainHTTPIsAnswered(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t)
		s.config.MaxBlindingDelay = -1
		address := serve(t, &httptls.Server{Provider: p, Config: s.config})
		resp, err := http.Get("http://" + address)
		require.NoError(t, err)
		assert.Equal(t, http.StatusBadRequest, resp.StatusCode)
		assert.Contains(t, body(t, resp), "HTTP request to an HTTPS server")
	})
}

func TestHijack(t *testing.T) {
	s := newSite(t)
	srv := &httptls.Server{Provider: stdtls.Provider, Config: s.config}
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		defer conn.Close()
		_, err = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
		assert.NoError(t, errors.Join(err, rw.Flush()))
		line, err := rw.ReadString('\n')
		assert.NoError(t, err)
		_, err = io.WriteString(conn, line)
		assert.NoError(t, err)
	})
	address := serve(t, srv)
	// The transport offers h2 otherwise, over which nothing can be upgraded.
	tr := &httptls.Transport{Provider: stdtls.Provider, Config: s.client}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(timeLimit(t), "GET", "https://"+address, nil)
	require.NoError(t, err)
	req.Header.Set("Connection", "upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := tr.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	rw := resp.Body.(io.ReadWriter)
	_, err = io.WriteString(rw, "echoed\n")
	require.NoError(t, err)
	line, err := bufio.NewReader(rw).ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "echoed\n", line)
}

func TestServeFilesAndListeners(t *testing.T) {
	s := newSite(t)
	certFile, keyFile := tlstest.WriteFiles(t, s.config.Certificates[0])
	srv := &httptls.Server{Provider: stdtls.Provider}
	srv.Handler = http.HandlerFunc(describe)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	config := *s.config
	config.ALPN = tlsapi.ALPNH1()
	second, err := httptls.Listen("tcp", "127.0.0.1:0", stdtls.Provider, &config)
	require.NoError(t, err)
	ended := make(chan error, 2)
	go func() { ended <- srv.ServeTLS(inner, certFile, keyFile) }()
	go func() { ended <- srv.Serve(second) }()
	resp, _ := get(t, &http.Client{Transport: stdTransport(t, s, true)}, "https://"+inner.Addr().String())
	assert.Equal(t, "HTTP/2.0", resp.Proto)
	resp, _ = get(t, &http.Client{Transport: stdTransport(t, s, true)}, "https://"+second.Addr().String())
	assert.Equal(t, "HTTP/1.1", resp.Proto)
	require.NoError(t, srv.Close())
	assert.ErrorIs(t, <-ended, http.ErrServerClosed)
	assert.ErrorIs(t, <-ended, http.ErrServerClosed)
}

// curl is a client that shares no code with this one.
func TestServerWithCurl(t *testing.T) {
	program, err := exec.LookPath("curl")
	if err != nil {
		message := err.Error() + "; install it with: apt-get install curl"
		if os.Getenv("CI") == "true" || os.Getenv("POLYTLS_REQUIRE_PEERS") == "1" {
			t.Fatal(message)
		}
		t.Skip(message)
	}
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t)
		s.config.ClientAuth = tls.RequireAndVerifyClientCert
		s.config.ClientCAs = tlstest.Pool(s.authority)
		srv := &httptls.Server{Provider: p, Config: s.config}
		srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			describe(w, r)
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, " %d %v", n, err)
		})
		address := serve(t, srv)
		dir := t.TempDir()
		ca, upload := dir+"/ca.pem", dir+"/upload"
		require.NoError(t, os.WriteFile(ca, s.authority.PEM(), 0o600))
		require.NoError(t, os.WriteFile(upload, make([]byte, 1<<20), 0o600))
		certFile, keyFile := tlstest.WriteFiles(t, s.authority.Leaf(t, tlstest.Spec{CommonName: "Curl"}))
		for _, version := range []string{"1.2", "1.3"} {
			for _, c := range []struct{ flag, proto, alpn string }{
				{"--http1.1", "HTTP/1.1", "http/1.1"},
				{"--http2", "HTTP/2.0", "h2"},
			} {
				t.Run("TLS "+version+c.flag, func(t *testing.T) {
					out, err := exec.CommandContext(timeLimit(t), program, "--silent", "--show-error", "--fail", c.flag,
						"--tlsv"+version, "--tls-max", version, "--cacert", ca, "--cert", certFile, "--key", keyFile,
						"--data-binary", "@"+upload, "https://"+address+"/").CombinedOutput()
					require.NoError(t, err, string(out))
					assert.Equal(t, fmt.Sprintf("%s TLS %s %s %q %s %d <nil>", c.proto, version, c.alpn, "Curl", p.Name(), 1<<20),
						strings.TrimSpace(string(out)))
				})
			}
		}
	})
}

// A configuration that a hook chooses without a list of protocols serves HTTP/2
// as the server's own would.
func TestChosenConfigurationHasTheProtocols(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t)
		chosen := *s.config
		s.config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) { return &chosen, nil }
		srv := &httptls.Server{Provider: p, Config: s.config}
		srv.Handler = http.HandlerFunc(describe)
		resp, _ := get(t, &http.Client{Transport: stdTransport(t, s, true)}, "https://"+serve(t, srv))
		assert.Equal(t, "HTTP/2.0", resp.Proto)
		assert.Nil(t, chosen.ALPN, "the hook's configuration was changed")
	})
}
