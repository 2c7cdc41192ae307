package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/polytls/polytls/internal/freeport"
	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

func TestMain(m *testing.M) { leftover.Main(m) }

// patience is far more than anything here takes.
const patience = time.Minute

// site is a proxy to be with its certificates.
type site struct {
	authority *tlstest.Authority
	config    *Config
	listener  *Listener // the only one of config
	metrics   *Metrics
	log       *lockedBuffer
	server    *Server
}

func newSite(t *testing.T, p tlsapi.Provider, mode Mode, backends ...string) *site {
	t.Helper()
	s := &site{authority: tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"}), metrics: NewMetrics(), log: &lockedBuffer{}}
	s.listener = &Listener{
		Name: "test", Address: "127.0.0.1:0", Mode: mode, Provider: p, TLS: s.serverConfig(t, "proxy"),
		MaxConnections: 1000, HeaderTimeout: patience, IdleTimeout: patience, StallTimeout: patience,
		ConnectTimeout: patience, ResponseTimeout: patience, RetryAfter: time.Minute, AcceptProxy: AcceptProxyOff,
	}
	for _, address := range backends {
		s.listener.Backends = append(s.listener.Backends, &Backend{Address: address})
	}
	s.config = &Config{Listeners: []*Listener{s.listener}, DrainTimeout: patience}
	return s
}

func (s *site) serverConfig(t *testing.T, name string) *tlsapi.ServerConfig {
	return &tlsapi.ServerConfig{Certificates: []tls.Certificate{s.leaf(t, name)}}
}

func (s *site) leaf(t *testing.T, name string) tls.Certificate {
	return s.authority.Leaf(t, tlstest.Spec{CommonName: name, DNSNames: []string{"localhost"}, IPAddresses: []string{"127.0.0.1"}})
}

// start starts the proxy, which is shut down with the test, and returns its
// address.
func (s *site) start(t *testing.T) string {
	t.Helper()
	var err error
	s.server, err = Start(s.config, Options{Log: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Metrics: s.metrics})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.server.Shutdown(ctx)
		if t.Failed() {
			t.Log(s.log)
		}
	})
	return s.server.Address(0).String()
}

// changed returns the configuration with another listener in place of the only
// one.
func (s *site) changed(change func(l *Listener)) *Config {
	l := *s.listener
	change(&l)
	config := *s.config
	config.Listeners = []*Listener{&l}
	return &config
}

func (s *site) clientTLS() *tls.Config {
	return &tls.Config{RootCAs: tlstest.X509Pool(s.authority), ServerName: "localhost"}
}

// client returns a client of crypto/tls for the proxy's address.
func (s *site) client(t *testing.T, http2 bool) *http.Client {
	tr := &http.Transport{TLSClientConfig: s.clientTLS(), ForceAttemptHTTP2: http2, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (s *site) dial(t *testing.T, address string) *tls.Conn {
	t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, s.clientTLS())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// eachProvider skips providers whose library was not built; package providers has
// the test that fails where they are required.
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

func standard(t *testing.T) tlsapi.Provider {
	p, err := providers.Lookup("std")
	require.NoError(t, err)
	return p
}

func supports(p tlsapi.Provider, feature tlsapi.Feature) bool {
	for _, cell := range p.Features() {
		if cell.Feature == feature {
			return cell.Support != tlsapi.Unsupported
		}
	}
	return false
}

// mirror answers with what a backend sees of a request.
func mirror(w http.ResponseWriter, r *http.Request) {
	digest := sha256.New()
	_, _ = io.Copy(digest, r.Body)
	w.Header().Set("Seen-Peer", r.RemoteAddr)
	w.Header().Set("Seen-Host", r.Host)
	w.Header().Set("Seen-Uri", r.RequestURI)
	w.Header().Set("Seen-Proto", r.Proto)
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "X-Real-Ip", "Connection"} {
		w.Header().Set("Seen-"+name, strings.Join(r.Header.Values(name), "|"))
	}
	fmt.Fprintf(w, "%s %x", r.Method, digest.Sum(nil))
}

// httpBackend is a plain server; its address is HOST:PORT.
func httpBackend(t *testing.T, handler http.HandlerFunc) string {
	b := httptest.NewServer(handler)
	t.Cleanup(b.Close)
	return b.Listener.Addr().String()
}

// tcpBackend serves every connection with serve, and closes it then.
func tcpBackend(t *testing.T, serve func(c *net.TCPConn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var running sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			running.Go(func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return l.Addr().String()
}

// deadAddress is one at which nobody listens.
func deadAddress(t *testing.T) string {
	// None that the system could give to others meanwhile.
	port, err := freeport.Choose()
	require.NoError(t, err)
	return "127.0.0.1:" + port
}

func do(t *testing.T, client *http.Client, method, url, body string) (*http.Response, string) {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, url, reader)
	require.NoError(t, err)
	return send(t, client, req)
}

func send(t *testing.T, client *http.Client, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(text)
}

func TestHTTP(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t, p, HTTP, httpBackend(t, mirror))
		address := s.start(t)
		for _, http2 := range []bool{false, true} {
			client := s.client(t, http2)
			resp, text := do(t, client, "GET", "https://"+address+"/a%2Fb//c?x=1;y&z=%zz", "")
			assert.Equal(t, http2, resp.ProtoMajor == 2)
			assert.Equal(t, "GET "+fmt.Sprintf("%x", sha256.Sum256(nil)), text)
			assert.Equal(t, address, resp.Header.Get("Seen-Host"))
			assert.Equal(t, "/a%2Fb//c?x=1;y&z=%zz", resp.Header.Get("Seen-Uri"))
			assert.Equal(t, "HTTP/1.1", resp.Header.Get("Seen-Proto"))
			assert.Equal(t, "127.0.0.1", resp.Header.Get("Seen-X-Forwarded-For"))
			assert.Equal(t, address, resp.Header.Get("Seen-X-Forwarded-Host"))
			assert.Equal(t, "https", resp.Header.Get("Seen-X-Forwarded-Proto"))

			body := strings.Repeat("0123456789abcdef", 1<<16)
			_, text = do(t, client, "POST", "https://"+address, body)
			assert.Equal(t, fmt.Sprintf("POST %x", sha256.Sum256([]byte(body))), text)
		}
	})
}

func TestHTTPToHTTP2WithoutTLS(t *testing.T) {
	backend := httptest.NewUnstartedServer(http.HandlerFunc(mirror))
	backend.Config.Protocols = new(http.Protocols)
	backend.Config.Protocols.SetUnencryptedHTTP2(true)
	backend.Start()
	defer backend.Close()
	s := newSite(t, standard(t), HTTP, backend.Listener.Addr().String())
	s.listener.Backends[0].H2C = true
	address := s.start(t)
	resp, _ := do(t, s.client(t, true), "POST", "https://"+address, "body")
	assert.Equal(t, "HTTP/2.0", resp.Header.Get("Seen-Proto"))
	assert.Equal(t, address, resp.Header.Get("Seen-Host"))
}

func TestUnixSockets(t *testing.T) {
	front, back := filepath.Join(t.TempDir(), "front"), filepath.Join(t.TempDir(), "back")
	l, err := net.Listen("unix", back)
	require.NoError(t, err)
	backend := &http.Server{Handler: http.HandlerFunc(mirror)}
	go func() { _ = backend.Serve(l) }()
	defer backend.Close()
	s := newSite(t, standard(t), HTTP, "unix:"+back)
	s.listener.Address = "unix:" + front
	s.start(t)
	client := s.client(t, true)
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", front)
	}
	resp, _ := do(t, client, "GET", "https://localhost/", "")
	assert.Equal(t, "localhost", resp.Header.Get("Seen-Host"))
	assert.Empty(t, resp.Header.Get("Seen-X-Forwarded-For"))
}

func TestWebSocket(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		for _, encrypted := range []bool{false, true} {
			echo := websocket.Handler(func(c *websocket.Conn) { _, _ = io.Copy(c, c) })
			back := httptest.NewUnstartedServer(echo)
			s := newSite(t, p, HTTP, back.Listener.Addr().String())
			if encrypted {
				back.TLS = &tls.Config{Certificates: []tls.Certificate{s.leaf(t, "backend")}}
				back.StartTLS()
				b := s.listener.Backends[0]
				b.Provider, b.TLS = p, &tlsapi.ClientConfig{ServerName: "localhost", RootCAs: tlstest.Pool(s.authority)}
			} else {
				back.Start()
			}
			defer back.Close()
			address := s.start(t)
			config, err := websocket.NewConfig("wss://"+address+"/chat", "https://localhost")
			require.NoError(t, err)
			config.TlsConfig = s.clientTLS()
			c, err := websocket.DialConfig(config)
			require.NoError(t, err)
			defer c.Close()
			require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
			for i := range 100 {
				message, answer := fmt.Sprintf("message %d", i), ""
				require.NoError(t, websocket.Message.Send(c, message))
				require.NoError(t, websocket.Message.Receive(c, &answer))
				assert.Equal(t, message, answer)
			}
		}
	})
}

// An upgraded connection is idle when no byte moves; the backend's end goes
// with it.
func TestIdleWebSocket(t *testing.T) {
	ended := make(chan struct{})
	back := httptest.NewServer(websocket.Handler(func(c *websocket.Conn) {
		_, _ = io.Copy(io.Discard, c)
		close(ended)
	}))
	defer back.Close()
	s := newSite(t, standard(t), HTTP, back.Listener.Addr().String())
	s.listener.IdleTimeout = 100 * time.Millisecond
	config, err := websocket.NewConfig("wss://"+s.start(t)+"/", "https://localhost")
	require.NoError(t, err)
	config.TlsConfig = s.clientTLS()
	c, err := websocket.DialConfig(config)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	_, err = c.Read(make([]byte, 1))
	var timeout net.Error
	assert.False(t, err == nil || errors.As(err, &timeout) && timeout.Timeout(), "%v", err)
	<-ended
}

// What the client sends arrives, its end arrives, and what the backend answers
// after that arrives with its end.
func TestTCP(t *testing.T) {
	payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		got := make(chan string, 1)
		backend := tcpBackend(t, func(c *net.TCPConn) {
			digest := sha256.New()
			if _, err := io.Copy(digest, c); err != nil {
				return
			}
			got <- fmt.Sprintf("%x", digest.Sum(nil))
			_, _ = c.Write(payload)
		})
		s := newSite(t, p, TCP, backend)
		s.listener.TLS.ALPN = []string{"digest"}
		address := s.start(t)
		c := s.dial(t, address)
		_, err := c.Write(payload)
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		answer, err := io.ReadAll(c)
		assert.Equal(t, fmt.Sprintf("%x", sha256.Sum256(payload)), <-got)
		if !supports(p, tlsapi.ServerCloseWrite) {
			// The library sends nothing once it has a close_notify. The client
			// is told: the end is not a clean one.
			assert.Error(t, err)
			return
		}
		require.NoError(t, err)
		assert.True(t, bytes.Equal(payload, answer), "%d bytes", len(answer))
	})
}

// The backend's end reaches a client that goes on sending; where the library
// cannot half-close, as the end of the connection.
func TestTCPBackendClosesFirst(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		received := make(chan string, 1)
		backend := tcpBackend(t, func(c *net.TCPConn) {
			_, _ = c.Write([]byte("that is all"))
			_ = c.CloseWrite()
			text, _ := io.ReadAll(c)
			received <- string(text)
		})
		s := newSite(t, p, TCP, backend)
		c := s.dial(t, s.start(t))
		answer, err := io.ReadAll(c)
		require.NoError(t, err)
		assert.Equal(t, "that is all", string(answer))
		if !supports(p, tlsapi.ServerCloseWrite) {
			return
		}
		_, err = c.Write([]byte("thanks"))
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		assert.Equal(t, "thanks", <-received)
	})
}

// A client's end reaches a backend behind a library that cannot half-close, too,
// once the backend has said what it has to say.
func TestTCPEndReachesTLSBackend(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t, standard(t), TCP)
		inner, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{s.leaf(t, "backend")}})
		require.NoError(t, err)
		defer inner.Close()
		ended := make(chan error, 1)
		go func() {
			c, err := inner.Accept()
			if err != nil {
				ended <- err
				return
			}
			defer c.Close()
			_, _ = io.ReadFull(c, make([]byte, 5))
			_, _ = c.Write([]byte("world"))
			_, err = io.Copy(io.Discard, c)
			ended <- err
		}()
		s.listener.Backends = []*Backend{{
			Address: inner.Addr().String(), Provider: p,
			TLS: &tlsapi.ClientConfig{ServerName: "localhost", RootCAs: tlstest.Pool(s.authority)},
		}}
		c := s.dial(t, s.start(t))
		_, err = c.Write([]byte("hello"))
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		answer, err := io.ReadAll(c)
		require.NoError(t, err)
		assert.Equal(t, "world", string(answer))
		assert.NoError(t, <-ended)
	})
}

// An end that is not clean is not passed on as one.
func TestTCPTruncation(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		ended := make(chan error, 1)
		s := newSite(t, p, TCP, tcpBackend(t, func(c *net.TCPConn) {
			_, err := io.Copy(io.Discard, c)
			ended <- err
		}))
		c := s.dial(t, s.start(t))
		_, err := c.Write([]byte("half of it"))
		require.NoError(t, err)
		require.NoError(t, c.NetConn().Close())
		assert.Error(t, <-ended, "the client was cut off")

		s = newSite(t, p, TCP, tcpBackend(t, func(c *net.TCPConn) {
			_, _ = io.ReadFull(c, make([]byte, 5))
			_ = c.SetLinger(0)
		}))
		c = s.dial(t, s.start(t))
		_, err = c.Write([]byte("hello"))
		require.NoError(t, err)
		_, err = io.ReadAll(c)
		assert.Error(t, err, "the backend was cut off")
	})
}

func TestNoBackend(t *testing.T) {
	s := newSite(t, standard(t), TCP, deadAddress(t), deadAddress(t))
	c := s.dial(t, s.start(t))
	_, err := io.ReadAll(c)
	assert.Error(t, err)

	s = newSite(t, standard(t), HTTP, deadAddress(t), deadAddress(t))
	resp, _ := do(t, s.client(t, true), "GET", "https://"+s.start(t), "")
	assert.Equal(t, http.StatusBadGateway, resp.StatusCode)
}

// Every provider as the client of a backend that insists on a certificate.
func TestReencryption(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		for _, tc := range []struct {
			name string
			mode Mode
			alpn []string
			want string
		}{
			{"http1", HTTP, nil, "HTTP/1.1"},
			{"http2", HTTP, tlsapi.ALPNH2(), "HTTP/2.0"},
			{"tcp", TCP, nil, "HTTP/1.1"},
		} {
			t.Run(tc.name, func(t *testing.T) {
				var resumed sync.Map
				var peers sync.Map
				backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					peers.Store(r.TLS.PeerCertificates[0].Subject.CommonName+" "+r.TLS.ServerName, true)
					resumed.Store(r.TLS.DidResume, true)
					mirror(w, r)
				}))
				s := newSite(t, p, tc.mode, backend.Listener.Addr().String())
				backend.EnableHTTP2 = tc.alpn != nil
				backend.TLS = &tls.Config{
					Certificates: []tls.Certificate{s.leaf(t, "backend")},
					ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: tlstest.X509Pool(s.authority),
				}
				backend.StartTLS()
				defer backend.Close()
				certificate := s.leaf(t, "the proxy")
				b := s.listener.Backends[0]
				b.Provider = p
				b.TLS = &tlsapi.ClientConfig{
					ServerName: "localhost", RootCAs: tlstest.Pool(s.authority), Certificate: &certificate,
					Settings: tlsapi.Settings{ALPN: tc.alpn},
				}
				address := s.start(t)
				for range 3 {
					resp, text := do(t, s.client(t, tc.mode == HTTP), "POST", "https://"+address, "body")
					assert.Equal(t, fmt.Sprintf("POST %x", sha256.Sum256([]byte("body"))), text)
					assert.Equal(t, tc.want, resp.Header.Get("Seen-Proto"))
				}
				_, told := peers.Load("the proxy localhost")
				assert.True(t, told)

				// Its trust is that of the configuration.
				stranger := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "stranger"})
				require.NoError(t, s.server.Apply(s.changed(func(l *Listener) {
					config := *b.TLS
					config.RootCAs = tlstest.Pool(stranger)
					other := *b
					other.TLS = &config
					l.Backends = []*Backend{&other}
				})))
				resp, err := s.client(t, tc.mode == HTTP).Get("https://" + address)
				if tc.mode == TCP {
					assert.Error(t, err)
					return
				}
				require.NoError(t, err)
				resp.Body.Close()
				assert.Equal(t, http.StatusBadGateway, resp.StatusCode)
			})
		}
	})
}

// Whatever a client claims to have forwarded is replaced, unless it is trusted.
func TestForwardedHeaders(t *testing.T) {
	spoof := func(address string) *http.Request {
		req, err := http.NewRequest("GET", "https://"+address, nil)
		require.NoError(t, err)
		for name, value := range map[string]string{
			"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Host": "bank.example", "X-Forwarded-Proto": "gopher",
			"Forwarded": "for=203.0.113.7;host=bank.example", "X-Real-Ip": "203.0.113.7",
		} {
			req.Header.Add(name, value)
		}
		req.Header.Add("X-Forwarded-For", "203.0.113.8")
		// A header of the connection must not take ours out.
		req.Header.Set("Connection", "X-Forwarded-For, X-Forwarded-Proto")
		return req
	}
	s := newSite(t, standard(t), HTTP, httpBackend(t, mirror))
	address := s.start(t)
	resp, _ := send(t, s.client(t, false), spoof(address))
	assert.Equal(t, "127.0.0.1", resp.Header.Get("Seen-X-Forwarded-For"))
	assert.Equal(t, address, resp.Header.Get("Seen-X-Forwarded-Host"))
	assert.Equal(t, "https", resp.Header.Get("Seen-X-Forwarded-Proto"))
	assert.Empty(t, resp.Header.Get("Seen-Forwarded"))
	assert.Empty(t, resp.Header.Get("Seen-X-Real-Ip"))

	require.NoError(t, s.server.Apply(s.changed(func(l *Listener) {
		l.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	})))
	resp, _ = send(t, s.client(t, false), spoof(address))
	assert.Equal(t, "127.0.0.1", resp.Header.Get("Seen-X-Forwarded-For"))

	require.NoError(t, s.server.Apply(s.changed(func(l *Listener) {
		l.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})))
	resp, _ = send(t, s.client(t, false), spoof(address))
	assert.Equal(t, "203.0.113.7, 203.0.113.8, 127.0.0.1", resp.Header.Get("Seen-X-Forwarded-For"))
	assert.Equal(t, "bank.example", resp.Header.Get("Seen-X-Forwarded-Host"))
	assert.Equal(t, "gopher", resp.Header.Get("Seen-X-Forwarded-Proto"))
	assert.Empty(t, resp.Header.Get("Seen-Forwarded"))
}

func TestConnectionLimit(t *testing.T) {
	for _, mode := range []Mode{HTTP, TCP} {
		t.Run(string(mode), func(t *testing.T) {
			s := newSite(t, standard(t), mode, httpBackend(t, mirror))
			s.listener.MaxConnections = 1
			address := s.start(t)
			first := s.dial(t, address)
			// The second one is connected by the system, and waits.
			waiting, err := net.Dial("tcp", address)
			require.NoError(t, err)
			second := tls.Client(waiting, s.clientTLS())
			require.NoError(t, second.SetDeadline(time.Now().Add(200*time.Millisecond)))
			assert.Error(t, second.Handshake())
			waiting.Close()
			first.Close()
			third := s.dial(t, address)
			fmt.Fprint(third, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
			_, err = http.ReadResponse(bufio.NewReader(third), nil)
			assert.NoError(t, err)
			// A reload changes the limit of a socket that is at its limit.
			more := s.changed(func(l *Listener) { l.MaxConnections = 3 })
			require.NoError(t, s.server.Apply(more))
			s.dial(t, address)
			s.dial(t, address)
		})
	}
}

func TestTimeouts(t *testing.T) {
	requireClosed := func(t *testing.T, c net.Conn) {
		t.Helper()
		require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
		_, err := io.ReadAll(c)
		var timeout net.Error
		assert.False(t, errors.As(err, &timeout) && timeout.Timeout(), "%v", err)
	}
	short := 100 * time.Millisecond
	silent := tcpBackend(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	t.Run("handshake", func(t *testing.T) {
		for _, mode := range []Mode{HTTP, TCP} {
			s := newSite(t, standard(t), mode, silent)
			s.listener.TLS.HandshakeTimeout = short
			c, err := net.Dial("tcp", s.start(t))
			require.NoError(t, err)
			defer c.Close()
			requireClosed(t, c)
		}
	})
	t.Run("header", func(t *testing.T) {
		s := newSite(t, standard(t), HTTP, silent)
		s.listener.HeaderTimeout = short
		c := s.dial(t, s.start(t))
		fmt.Fprint(c, "GET / HTTP/1.1\r\n")
		requireClosed(t, c)
	})
	t.Run("idle HTTP", func(t *testing.T) {
		s := newSite(t, standard(t), HTTP, httpBackend(t, mirror))
		s.listener.IdleTimeout = short
		c := s.dial(t, s.start(t))
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		requireClosed(t, c)
	})
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		t.Run("idle TCP", func(t *testing.T) {
			gone := make(chan struct{})
			s := newSite(t, p, TCP, tcpBackend(t, func(c *net.TCPConn) {
				_, _ = io.Copy(io.Discard, c)
				close(gone)
			}))
			s.listener.IdleTimeout = short
			requireClosed(t, s.dial(t, s.start(t)))
			<-gone
		})
		t.Run("stalled client", func(t *testing.T) {
			gone := make(chan struct{})
			s := newSite(t, p, TCP, tcpBackend(t, func(c *net.TCPConn) {
				for err := error(nil); err == nil; {
					_, err = c.Write(make([]byte, 1<<16))
				}
				close(gone)
			}))
			s.listener.StallTimeout = short
			s.dial(t, s.start(t))
			<-gone
		})
	})
	t.Run("body", func(t *testing.T) {
		s := newSite(t, standard(t), HTTP, httpBackend(t, mirror))
		s.listener.StallTimeout = short
		c := s.dial(t, s.start(t))
		fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
		requireClosed(t, c)
	})
	t.Run("a body is no limit for the response", func(t *testing.T) {
		slow := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			time.Sleep(longerThanAStall)
			mirror(w, r)
		})
		s := newSite(t, standard(t), HTTP, slow)
		s.listener.StallTimeout = stall
		address := s.start(t)
		bothVersions(func(http2 bool) {
			resp, _ := do(t, s.client(t, http2), "POST", "https://"+address, "body")
			assert.Equal(t, http.StatusOK, resp.StatusCode)
		})
	})
	t.Run("response", func(t *testing.T) {
		s := newSite(t, standard(t), HTTP, silent)
		s.listener.ResponseTimeout = short
		resp, _ := do(t, s.client(t, true), "GET", "https://"+s.start(t), "")
		assert.Equal(t, http.StatusGatewayTimeout, resp.StatusCode)
	})
	t.Run("connect", func(t *testing.T) {
		// It accepts and says nothing where a handshake is expected.
		s := newSite(t, standard(t), HTTP, silent)
		s.listener.ConnectTimeout = short
		s.listener.Backends[0].Provider = standard(t)
		s.listener.Backends[0].TLS = &tlsapi.ClientConfig{ServerName: "localhost"}
		resp, _ := do(t, s.client(t, true), "GET", "https://"+s.start(t), "")
		assert.Contains(t, []int{http.StatusGatewayTimeout, http.StatusBadGateway}, resp.StatusCode)
	})
}

func TestDeadBackendsArePassedOver(t *testing.T) {
	dead := deadAddress(t)
	s := newSite(t, standard(t), HTTP, dead, httpBackend(t, mirror), dead)
	address := s.start(t)
	client := s.client(t, true)
	for range 10 {
		// Nothing of the body was sent to the dead one.
		resp, text := do(t, client, "POST", "https://"+address, "body")
		assert.Equal(t, http.StatusOK, resp.StatusCode)
		assert.Equal(t, fmt.Sprintf("POST %x", sha256.Sum256([]byte("body"))), text)
	}

	s = newSite(t, standard(t), TCP, dead, httpBackend(t, mirror))
	address = s.start(t)
	for range 4 {
		do(t, s.client(t, false), "GET", "https://"+address, "")
	}
}

// A request that may have had its effect is not sent again.
func TestNoRequestIsDoneTwice(t *testing.T) {
	var mu sync.Mutex
	got := map[string]int{}
	breaks := func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		got[r.Method]++
		mu.Unlock()
		c, _, err := http.NewResponseController(w).Hijack()
		if assert.NoError(t, err) {
			c.Close()
		}
	}
	s := newSite(t, standard(t), HTTP, httpBackend(t, breaks), httpBackend(t, breaks))
	s.listener.RetryAfter = 0
	address := s.start(t)
	for _, method := range []string{"GET", "POST", "PATCH"} {
		resp, _ := do(t, s.client(t, true), method, "https://"+address, "")
		assert.Equal(t, http.StatusBadGateway, resp.StatusCode)
	}
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, map[string]int{"GET": 2, "POST": 1, "PATCH": 1}, got)
}

// A response that breaks off reaches the client as one.
func TestTruncatedResponse(t *testing.T) {
	s := newSite(t, standard(t), HTTP, httpBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, "some")
	}))
	address := s.start(t)
	for _, http2 := range []bool{false, true} {
		resp, err := s.client(t, http2).Get("https://" + address)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		assert.Error(t, err)
	}
}

// A response is passed on while it comes.
func TestStreaming(t *testing.T) {
	next := make(chan struct{})
	s := newSite(t, standard(t), HTTP, httpBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 3 {
			fmt.Fprint(w, "data: x\n\n")
			_ = http.NewResponseController(w).Flush()
			<-next
		}
	}))
	address := s.start(t)
	for _, http2 := range []bool{false, true} {
		resp, err := s.client(t, http2).Get("https://" + address)
		require.NoError(t, err)
		for range 3 {
			_, err := io.ReadFull(resp.Body, make([]byte, 9))
			require.NoError(t, err)
			next <- struct{}{}
		}
		resp.Body.Close()
	}
}

func TestAccessLog(t *testing.T) {
	var out lockedBuffer
	for _, queries := range []bool{false, true} {
		for _, mode := range []Mode{HTTP, TCP} {
			log, err := NewAccessLog("", &out, "json")
			require.NoError(t, err)
			log.Queries = queries
			s := newSite(t, standard(t), mode, httpBackend(t, mirror))
			s.config.AccessLog = log
			address := s.start(t)
			client := s.client(t, false)
			req, err := http.NewRequest("GET", "https://"+address+"/path?token=hunter2", nil)
			require.NoError(t, err)
			req.Header.Set("Authorization", "Bearer s3cret")
			req.Header.Set("Cookie", "id=s3cret")
			send(t, client, req)
			client.CloseIdleConnections()
			require.Eventually(t, func() bool { return strings.Contains(out.String(), `"listener":"test"`) }, patience, time.Millisecond)
			line := out.String()
			assert.NotContains(t, line, "s3cret")
			assert.Equal(t, queries && mode == HTTP, strings.Contains(line, "hunter2"), line)
			assert.Contains(t, line, `"backend":"`+s.listener.Backends[0].Address)
			assert.Contains(t, line, `"version":"TLS 1.3"`)
			out.mu.Lock()
			out.buf.Reset()
			out.mu.Unlock()
		}
	}
}

// A reload brings another log, and closes the one that a request under way has
// begun with.
func TestAccessLogOfRequestsDuringReload(t *testing.T) {
	reached, release := make(chan struct{}), make(chan struct{})
	s := newSite(t, standard(t), HTTP, httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		close(reached)
		<-release
	}))
	dir := t.TempDir()
	logTo := func(name string) *AccessLog {
		log, err := NewAccessLog(filepath.Join(dir, name), nil, "text")
		require.NoError(t, err)
		return log
	}
	s.config.AccessLog = logTo("old")
	address := s.start(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		client := s.client(t, false)
		do(t, client, "GET", "https://"+address+"/slow", "")
		client.CloseIdleConnections()
	}()
	<-reached
	config := *s.config
	config.AccessLog = logTo("new")
	require.NoError(t, s.server.Apply(&config))
	close(release)
	<-done
	require.NoError(t, s.server.Shutdown(context.Background()))
	text, err := os.ReadFile(filepath.Join(dir, "new"))
	require.NoError(t, err)
	assert.Contains(t, string(text), "path=/slow")
	assert.Contains(t, string(text), "backend="+s.listener.Backends[0].Address)
}

func TestAdmin(t *testing.T) {
	s := newSite(t, standard(t), HTTP, httpBackend(t, mirror))
	s.config.Admin = "127.0.0.1:0"
	address := s.start(t)
	do(t, s.client(t, true), "GET", "https://"+address, "")
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	admin := "http://" + s.server.AdminAddress()
	resp, text := do(t, plain, "GET", admin+"/healthz", "")
	assert.Equal(t, 200, resp.StatusCode)
	assert.Contains(t, text, "ok")
	_, text = do(t, plain, "GET", admin+"/metrics", "")
	for _, line := range []string{
		`polytls_proxy_requests_total{code="2xx",listener="test"} 1`,
		`polytls_proxy_connections{listener="test"} 1`,
	} {
		assert.Contains(t, text, line+"\n")
	}
	assert.Regexp(t, `polytls_handshakes_total\{listener="test",provider="std",result="success",role="server",version="[^"]*1.3"\} 1\n`, text)
	// It moves with the configuration, and goes away.
	config := *s.config
	config.Admin = "unix:" + filepath.Join(t.TempDir(), "admin")
	require.NoError(t, s.server.Apply(&config))
	_, err := plain.Get(admin + "/healthz")
	assert.Error(t, err)
	config.Admin = ""
	require.NoError(t, s.server.Apply(&config))
	assert.Empty(t, s.server.AdminAddress())
}

// The errors that a client meets are told apart by where they come from.
func TestURLOfRequestsIsUntouched(t *testing.T) {
	s := newSite(t, standard(t), HTTP, httpBackend(t, mirror))
	address := s.start(t)
	c := s.dial(t, address)
	u := &url.URL{Scheme: "https", Host: "other.example", Path: "/"}
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: other.example\r\n\r\n", u)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, "other.example", resp.Header.Get("Seen-Host"), "it goes to the backend, not where the client says")
}
