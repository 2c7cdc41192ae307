package httptls_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/stdtls"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// standardServer is net/http's own, over crypto/tls. It counts connections.
func standardServer(t *testing.T, s site, http2 bool, handler http.HandlerFunc) (address string, connections *atomic.Int64) {
	t.Helper()
	connections = new(atomic.Int64)
	cert := s.config.Certificates[0]
	srv := &http.Server{
		Handler:   handler,
		Protocols: protocols(true, http2),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert},
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() { _ = srv.ServeTLS(l, "", ""); close(ended) }()
	t.Cleanup(func() { srv.Close(); <-ended })
	return l.Addr().String(), connections
}

func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Proto", r.Proto)
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		w.Header().Set("Peer", r.TLS.PeerCertificates[0].Subject.CommonName)
	}
	// HTTP/1 answers after the request only.
	text, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = w.Write(text)
}

func TestTransport(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		for _, http2 := range []bool{true, false} {
			t.Run(fmt.Sprintf("HTTP/2=%t", http2), func(t *testing.T) {
				s := newSite(t)
				address, connections := standardServer(t, s, http2, echo)
				cert := s.authority.Leaf(t, tlstest.Spec{CommonName: "Client"})
				config := *s.client
				config.Certificate = &cert
				c := client(t, &httptls.Transport{Provider: p, Config: &config})
				for i := range 5 {
					// The first request learns of HTTP/2 after its dial: its body
					// must come through whole all the same, without GetBody.
					payload := bytes.Repeat([]byte{byte(i)}, 300_000)
					started, done := new(atomic.Int64), new(atomic.Int64)
					var reused atomic.Bool
					ctx := httptrace.WithClientTrace(timeLimit(t), &httptrace.ClientTrace{
						TLSHandshakeStart: func() { started.Add(1) },
						TLSHandshakeDone: func(state tls.ConnectionState, err error) {
							assert.NoError(t, err)
							assert.True(t, state.HandshakeComplete)
							done.Add(1)
						},
						GotConn: func(info httptrace.GotConnInfo) { reused.Store(info.Reused) },
					})
					req, err := http.NewRequestWithContext(ctx, "POST", "https://"+address+"/path", io.MultiReader(bytes.NewReader(payload)))
					require.NoError(t, err)
					resp, err := c.Do(req)
					require.NoError(t, err)
					assert.Equal(t, string(payload), body(t, resp))
					assert.Equal(t, http2, resp.Header.Get("Proto") == "HTTP/2.0")
					assert.Equal(t, http2, resp.ProtoMajor == 2)
					assert.Equal(t, "Client", resp.Header.Get("Peer"))
					assert.Equal(t, "/path", resp.Request.URL.Path)
					if assert.NotNil(t, resp.TLS) {
						assert.True(t, resp.TLS.HandshakeComplete)
						assert.NotEmpty(t, resp.TLS.VerifiedChains)
					}
					handshakes := int64(0)
					if i == 0 {
						handshakes = 1
					}
					assert.Equal(t, handshakes, started.Load())
					assert.Equal(t, handshakes, done.Load())
					assert.Equal(t, i > 0, reused.Load())
				}
				assert.EqualValues(t, 1, connections.Load())
				c.CloseIdleConnections()
				get(t, c, "https://"+address)
				assert.EqualValues(t, 2, connections.Load(), "CloseIdleConnections did not")
			})
		}
	})
}

func TestTransportManyRequests(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t)
		srv := &httptls.Server{Provider: p, Config: s.config}
		srv.Handler = http.HandlerFunc(echo)
		address := serve(t, srv)
		c := client(t, &httptls.Transport{Provider: p, Config: s.client})
		var group sync.WaitGroup
		for i := range 20 {
			group.Go(func() {
				for j := range 10 {
					text := fmt.Sprintf("%d/%d", i, j)
					resp, err := c.Post("https://"+address, "text/plain", strings.NewReader(text))
					if assert.NoError(t, err) {
						assert.Equal(t, text, body(t, resp))
						assert.Equal(t, 2, resp.ProtoMajor)
					}
				}
			})
		}
		group.Wait()
	})
}

func TestTransportVerifies(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t)
		address, _ := standardServer(t, s, true, echo)
		stranger := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Other CA"})
		c := client(t, &httptls.Transport{Provider: p, Config: &tlsapi.ClientConfig{RootCAs: tlstest.Pool(stranger)}})
		closed := make(chan struct{})
		req, err := http.NewRequest("POST", "https://"+address, closeNotifier{strings.NewReader("x"), closed})
		require.NoError(t, err)
		_, err = c.Do(req)
		var tlsError *tlsapi.Error
		require.ErrorAs(t, err, &tlsError)
		assert.ErrorIs(t, err, tlsapi.KindUntrusted)
		assert.Equal(t, p.Name(), tlsError.Provider)
		<-closed
	})
}

type closeNotifier struct {
	io.Reader
	closed chan struct{}
}

func (c closeNotifier) Close() error { close(c.closed); return nil }

// Connections are not shared by configurations that differ in what they trust
// or who they are.
func TestReuseOnlyBetweenInterchangeableConfigurations(t *testing.T) {
	for _, http2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("HTTP/2=%t", http2), func(t *testing.T) {
			s := newSite(t)
			address, connections := standardServer(t, s, http2, echo)
			stranger := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Other CA"})
			withCert := func(name string) *tlsapi.ClientConfig {
				cert := s.authority.Leaf(t, tlstest.Spec{CommonName: name})
				return &tlsapi.ClientConfig{RootCAs: tlstest.Pool(s.authority), Certificate: &cert}
			}
			alice := withCert("Alice")
			copied := *alice
			configs := map[string]*tlsapi.ClientConfig{
				"alice": alice, "alice again": &copied, "bob": withCert("Bob"),
				"untrusting": {RootCAs: tlstest.Pool(stranger)},
			}
			c := client(t, &httptls.Transport{Select: func(r *http.Request) (tlsapi.Provider, *tlsapi.ClientConfig, error) {
				config, ok := configs[r.Header.Get("Who")]
				if !ok {
					return nil, nil, errors.New("who is it?")
				}
				return stdtls.Provider, config, nil
			}})
			ask := func(who string) (string, error) {
				req, err := http.NewRequestWithContext(timeLimit(t), "GET", "https://"+address, nil)
				require.NoError(t, err)
				req.Header.Set("Who", who)
				resp, err := c.Do(req)
				if err != nil {
					return "", err
				}
				body(t, resp)
				return resp.Header.Get("Peer"), nil
			}
			for _, step := range []struct {
				who, peer   string
				connections int64
			}{{"alice", "Alice", 1}, {"alice again", "Alice", 1}, {"bob", "Bob", 2}, {"alice", "Alice", 2}} {
				peer, err := ask(step.who)
				require.NoError(t, err)
				assert.Equal(t, step.peer, peer)
				assert.Equal(t, step.connections, connections.Load(), step.who)
			}
			_, err := ask("untrusting")
			assert.ErrorIs(t, err, tlsapi.KindUntrusted)
			_, err = ask("nobody")
			assert.ErrorContains(t, err, "who is it?")
		})
	}
}

func TestTransportRefusesSettings(t *testing.T) {
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("unused") }
	for _, tr := range []*httptls.Transport{
		{},
		{Provider: stdtls.Provider, HTTP: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}},
		{Provider: stdtls.Provider, HTTP: &http.Transport{DialTLSContext: dial}},
		{Provider: stdtls.Provider, HTTP: &http.Transport{Protocols: protocols(false, false)}},
	} {
		_, err := (&http.Client{Transport: tr}).Get("https://127.0.0.1:1")
		assert.ErrorIs(t, err, tlsapi.KindConfig)
	}
}

func TestTransportHandshakeTimeout(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer silent.Close()
		c := client(t, &httptls.Transport{Provider: p, HTTP: &http.Transport{TLSHandshakeTimeout: 50 * time.Millisecond}})
		_, err = c.Get("https://" + silent.Addr().String())
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		assert.True(t, timeout.Timeout())
	})
}

func TestTransportProtocols(t *testing.T) {
	s := newSite(t)
	address, _ := standardServer(t, s, true, echo)
	c := client(t, &httptls.Transport{Provider: stdtls.Provider, Config: s.client, HTTP: &http.Transport{Protocols: protocols(true, false)}})
	resp, _ := get(t, c, "https://"+address)
	assert.Equal(t, "HTTP/1.1", resp.Proto)

	old, _ := standardServer(t, s, false, echo)
	c = client(t, &httptls.Transport{Provider: stdtls.Provider, Config: s.client, HTTP: &http.Transport{Protocols: protocols(false, true)}})
	_, err := c.Get("https://" + old)
	assert.Error(t, err)
	resp, _ = get(t, c, "https://"+address)
	assert.Equal(t, "HTTP/2.0", resp.Proto)
}

// What goes through a proxy is the provider's TLS, end to end.
func TestTransportThroughProxies(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		for _, http2 := range []bool{true, false} {
			for _, scheme := range []string{"http", "https", "socks5", "socks5h"} {
				t.Run(fmt.Sprintf("%s HTTP/2=%t", scheme, http2), func(t *testing.T) {
					s := newSite(t)
					address, _ := standardServer(t, s, http2, echo)
					proxyAddress, tunnels := tunnelProxy(t, s, scheme)
					proxyURL := &url.URL{Scheme: scheme, Host: proxyAddress, User: url.UserPassword("user", "secret")}
					c := client(t, &httptls.Transport{
						Provider: p, Config: s.client,
						HTTP: &http.Transport{Proxy: http.ProxyURL(proxyURL)},
					})
					for range 2 {
						resp, _ := get(t, c, "https://"+address)
						assert.Equal(t, http2, resp.ProtoMajor == 2)
						require.NotNil(t, resp.TLS)
					}
					require.Len(t, tunnels(), 1)
					assert.Equal(t, address, tunnels()[0])

					proxyURL.User = url.UserPassword("user", "wrong")
					c = client(t, &httptls.Transport{
						Provider: p, Config: s.client,
						HTTP: &http.Transport{Proxy: http.ProxyURL(proxyURL)},
					})
					_, err := c.Get("https://" + address)
					require.Error(t, err)
					assert.NotContains(t, err.Error(), "wrong")
				})
			}
		}
	})
}

// tunnelProxy is a proxy for user:secret that records where its tunnels lead.
func tunnelProxy(t *testing.T, s site, scheme string) (address string, tunnels func() []string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var mu sync.Mutex
	var seen []string
	var group sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	if scheme == "https" {
		l = tls.NewListener(l, &tls.Config{Certificates: s.config.Certificates})
	}
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				defer stop()
				answer := answerCONNECT
				if strings.HasPrefix(scheme, "socks5") {
					answer = answerSOCKS
				}
				target, ok := answer(conn)
				if !ok {
					return
				}
				mu.Lock()
				seen = append(seen, target)
				mu.Unlock()
				far, err := net.Dial("tcp", target)
				if err != nil {
					return
				}
				defer far.Close()
				stopFar := context.AfterFunc(ctx, func() { far.Close() })
				defer stopFar()
				group.Go(func() { _, _ = io.Copy(far, conn); far.Close() })
				_, _ = io.Copy(conn, far)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		group.Wait()
	})
	return l.Addr().String(), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), seen...)
	}
}

func answerCONNECT(conn net.Conn) (target string, ok bool) {
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil || req.Method != http.MethodConnect {
		return "", false
	}
	if req.Header.Get("Proxy-Authorization") != "Basic dXNlcjpzZWNyZXQ=" {
		fmt.Fprint(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
		return "", false
	}
	fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
	return req.RequestURI, true
}

// answerSOCKS follows RFC 1928 and RFC 1929.
func answerSOCKS(conn net.Conn) (target string, ok bool) {
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(conn, b); err != nil {
			return make([]byte, n)
		}
		return b
	}
	methods := read(2)
	read(int(methods[1]))
	_, _ = conn.Write([]byte{5, 2})
	user := string(read(int(read(2)[1])))
	password := string(read(int(read(1)[0])))
	if user != "user" || password != "secret" {
		_, _ = conn.Write([]byte{1, 1})
		return "", false
	}
	_, _ = conn.Write([]byte{1, 0})
	var host string
	switch head := read(4); head[3] {
	case 1:
		host = net.IP(read(4)).String()
	case 3:
		host = string(read(int(read(1)[0])))
	default:
		return "", false
	}
	port := binary.BigEndian.Uint16(read(2))
	_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	return net.JoinHostPort(host, fmt.Sprint(port)), true
}
