package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// load are clients that send requests without a pause. A request that fails
// once its connection is there is lost.
type load struct {
	stop    atomic.Bool
	running sync.WaitGroup
	done    atomic.Int64
	refused atomic.Int64 // connections that were not made
	pause   atomic.Int64 // the longest time in which nothing of this process ran

	mu   sync.Mutex
	lost []error
}

var errNotConnected = errors.New("not connected")

// startLoad sends requests over kept connections of both versions of HTTP, and
// over new ones. Clients whose connection is refused try again.
func startLoad(t *testing.T, s *site, address string) *load {
	l := &load{}
	for i := range 6 {
		tr := &http.Transport{
			ForceAttemptHTTP2: i%3 == 1, DisableKeepAlives: i%3 == 2,
			DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				config := s.clientTLS()
				if i%3 == 1 {
					config.NextProtos = []string{"h2"}
				}
				c, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
				if err != nil {
					return nil, fmt.Errorf("%w: %w", errNotConnected, err)
				}
				return c, nil
			},
		}
		client := &http.Client{Transport: tr, Timeout: patience}
		l.running.Go(func() {
			defer tr.CloseIdleConnections()
			for n := 0; !l.stop.Load(); n++ {
				l.one(client, fmt.Sprintf("https://%s/%d/%d", address, i, n))
			}
		})
	}
	l.running.Go(func() {
		for last := time.Now(); !l.stop.Load(); last = time.Now() {
			time.Sleep(10 * time.Millisecond)
			l.pause.Store(max(l.pause.Load(), int64(time.Since(last))))
		}
	})
	t.Cleanup(func() { l.finish(t) })
	return l
}

func (l *load) one(client *http.Client, url string) {
	resp, err := client.Get(url)
	if err == nil {
		var text []byte
		text, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil && (resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(text), "GET ")) {
			err = fmt.Errorf("%s %q", resp.Status, text)
		}
	}
	switch {
	case err == nil:
		l.done.Add(1)
	case errors.Is(err, errNotConnected):
		l.refused.Add(1)
		time.Sleep(time.Millisecond)
	default:
		l.mu.Lock()
		l.lost = append(l.lost, fmt.Errorf("%s: %w", url, err))
		l.mu.Unlock()
	}
}

// wait lets some requests pass.
func (l *load) wait(t *testing.T, requests int64) {
	t.Helper()
	until := l.done.Load() + requests
	require.Eventually(t, func() bool { return l.done.Load() >= until }, patience+time.Duration(requests)*50*time.Millisecond, time.Millisecond)
}

// finish ends the load: no request has been lost.
func (l *load) finish(t *testing.T) {
	l.stop.Store(true)
	l.running.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	assert.Empty(t, l.lost, "of %d requests; the process stood still for %v at most", l.done.Load(), time.Duration(l.pause.Load()))
	l.lost = nil
}

// someRequests pass before the next event. POLYTLS_PROXY_REQUESTS makes it more,
// for "make proxy-load".
var someRequests = sync.OnceValue(func() int64 {
	if n, err := strconv.ParseInt(os.Getenv("POLYTLS_PROXY_REQUESTS"), 10, 64); err == nil {
		return n
	}
	return 50
})

func TestReloadUnderLoad(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t, p, HTTP, httpBackend(t, mirror), httpBackend(t, mirror))
		address := s.start(t)
		l := startLoad(t, s, address)
		l.wait(t, someRequests())
		for i := range 3 {
			// Other settings, the other backend: connections are exchanged.
			require.NoError(t, s.server.Apply(s.changed(func(l *Listener) {
				l.HeaderTimeout = patience + time.Duration(i)*time.Second
				l.Backends = []*Backend{s.listener.Backends[i%2]}
			})))
			l.wait(t, someRequests())
		}
		assert.Zero(t, l.refused.Load())
		l.finish(t)
		// The old generations have gone with their last connections.
		require.Eventually(t, func() bool {
			n := 0
			s.server.retirees.Range(func(_, _ any) bool { n++; return true })
			return n == 0
		}, patience, time.Millisecond)
	})
}

// New connections get the new certificate; those that are open go on, the same
// ones.
func TestCertificateSwapUnderLoad(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t, p, HTTP, httpBackend(t, mirror))
		// One connection waits for as long as the load takes.
		s.listener.HeaderTimeout, s.listener.IdleTimeout = 0, 0
		address := s.start(t)
		l := startLoad(t, s, address)
		kept := s.dial(t, address)
		for i := range 3 {
			l.wait(t, someRequests())
			name := fmt.Sprintf("number %d", i)
			require.NoError(t, s.server.Apply(s.changed(func(l *Listener) { l.TLS = s.serverConfig(t, name) })))
			fresh := s.dial(t, address)
			assert.Equal(t, name, fresh.ConnectionState().PeerCertificates[0].Subject.CommonName)
			fresh.Close()
		}
		l.finish(t)
		assert.Zero(t, l.refused.Load())
		require.NoError(t, kept.SetDeadline(time.Now().Add(patience)))
		_, err := fmt.Fprint(kept, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		require.NoError(t, err)
		_, err = kept.Read(make([]byte, 1))
		assert.NoError(t, err)
	})
}

func TestBackendDeathUnderLoad(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		stable := httpBackend(t, mirror)
		mortal, err := net.Listen("tcp", deadAddress(t))
		require.NoError(t, err)
		s := newSite(t, p, HTTP, stable, mortal.Addr().String())
		s.listener.RetryAfter = 20 * time.Millisecond
		address := s.start(t)
		var l *load
		for range 3 {
			var served atomic.Int64
			backend := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				served.Add(1)
				mirror(w, r)
			})}
			listener := mortal
			go func() { _ = backend.Serve(listener) }()
			if l == nil {
				l = startLoad(t, s, address)
			}
			require.Eventually(t, func() bool { return served.Load() > 20 }, patience, time.Millisecond, "its turn comes again")
			// With its connections, in the middle of requests.
			backend.Close()
			l.wait(t, someRequests())
			mortal, err = net.Listen("tcp", mortal.Addr().String())
			require.NoError(t, err)
		}
		mortal.Close()
		l.finish(t)
		assert.Zero(t, l.refused.Load())
	})
}

// What was accepted is finished; then the proxy is gone.
func TestShutdownUnderLoad(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t, p, HTTP, httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Millisecond)
			mirror(w, r)
		}))
		address := s.start(t)
		l := startLoad(t, s, address)
		l.wait(t, someRequests())
		require.NoError(t, s.server.Shutdown(t.Context()))
		// Who tries now is refused, by the system.
		before := l.refused.Load()
		require.Eventually(t, func() bool { return l.refused.Load() > before+10 }, patience, time.Millisecond)
		l.finish(t)
		_, err := net.Dial("tcp", address)
		assert.Error(t, err)
	})
}

// A second proxy takes over while the first one drains: nobody is refused.
func TestRestartUnderLoad(t *testing.T) {
	first := newSite(t, standard(t), HTTP, httpBackend(t, mirror))
	first.listener.ReusePort = true
	address := first.start(t)
	l := startLoad(t, first, address)
	l.wait(t, someRequests())

	second := newSite(t, standard(t), HTTP, first.listener.Backends[0].Address)
	second.authority = first.authority
	second.listener.TLS = first.listener.TLS
	second.listener.ReusePort, second.listener.Address = true, address
	second.start(t)
	require.NoError(t, first.server.Shutdown(t.Context()))
	l.wait(t, someRequests())
	l.finish(t)
}

// Connections of mode tcp go on through a reload to their end, and through a
// shutdown for as long as they are given.
func TestTCPConnectionsOutliveReloads(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		echo := tcpBackend(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
		s := newSite(t, p, TCP, echo)
		address := s.start(t)
		c := s.dial(t, address)
		say := func() {
			t.Helper()
			_, err := c.Write([]byte("hello"))
			require.NoError(t, err)
			_, err = io.ReadFull(c, make([]byte, 5))
			require.NoError(t, err)
		}
		say()
		require.NoError(t, s.server.Apply(s.changed(func(l *Listener) { l.Mode = HTTP })))
		say()
		// The socket is another mode's now.
		other := s.dial(t, address)
		fmt.Fprint(other, "nonsense\r\n\r\n")
		text, err := io.ReadAll(other)
		require.NoError(t, err)
		assert.Contains(t, string(text), "400 Bad Request")

		ended := make(chan error, 1)
		go func() { ended <- s.server.Shutdown(context.Background()) }()
		require.Eventually(t, func() bool {
			probe, err := net.Dial("tcp", address)
			if err == nil {
				probe.Close()
			}
			return err != nil
		}, patience, time.Millisecond)
		say()
		c.Close()
		assert.NoError(t, <-ended)
	})
}

// A backend that accepts and says nothing more holds no drain up, also where the
// connecting to it has no limit.
func TestShutdownEndsTheConnectingToABackend(t *testing.T) {
	reached := make(chan struct{})
	backend := tcpBackend(t, func(c *net.TCPConn) {
		close(reached)
		_, _ = io.Copy(io.Discard, c)
	})
	s := newSite(t, standard(t), TCP, backend)
	s.listener.ConnectTimeout = 0
	s.listener.Backends[0].Provider = standard(t)
	s.listener.Backends[0].TLS = &tlsapi.ClientConfig{ServerName: "localhost", RootCAs: tlstest.Pool(s.authority)}
	s.config.DrainTimeout = 100 * time.Millisecond
	address := s.start(t)
	client := s.dial(t, address)
	defer client.Close()
	<-reached
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.server.Shutdown(context.Background())
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the drain has not ended")
	}
}

func TestShutdownCutsOffAtItsLimit(t *testing.T) {
	for _, mode := range []Mode{HTTP, TCP} {
		t.Run(string(mode), func(t *testing.T) {
			blocked := make(chan struct{})
			s := newSite(t, standard(t), mode, httpBackend(t, func(_ http.ResponseWriter, r *http.Request) {
				close(blocked)
				<-r.Context().Done()
			}))
			s.config.DrainTimeout = 100 * time.Millisecond
			c := s.dial(t, s.start(t))
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			<-blocked
			assert.ErrorContains(t, s.server.Shutdown(t.Context()), "1 connections were still in use")
			_, err := io.ReadAll(c)
			assert.Error(t, err)
			assert.Error(t, s.server.Apply(s.config), "it is stopping")
		})
	}
}

// endsInTime returns what Shutdown does.
func endsInTime(t *testing.T, s *Server) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- s.Shutdown(context.Background()) }()
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		t.Fatal("it does not end")
		return nil
	}
}

// A backend that accepts and says nothing keeps nobody, also where nothing bounds
// the time to connect.
func TestShutdownCutsOffConnecting(t *testing.T) {
	for _, mode := range []Mode{TCP, HTTP} {
		t.Run(string(mode), func(t *testing.T) {
			met, over := make(chan bool, 1), make(chan bool)
			defer close(over)
			s := newSite(t, standard(t), mode, tcpBackend(t, func(*net.TCPConn) {
				met <- true
				<-over
			}))
			s.listener.ConnectTimeout = 0
			b := s.listener.Backends[0]
			b.Provider, b.TLS = s.listener.Provider, &tlsapi.ClientConfig{ServerName: "localhost", RootCAs: tlstest.Pool(s.authority)}
			s.config.DrainTimeout = 100 * time.Millisecond
			address := s.start(t)
			c := s.dial(t, address)
			_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
			require.NoError(t, err)
			<-met
			assert.ErrorContains(t, endsInTime(t, s.server), "were cut off")
		})
	}
}

// Nor does a client that owes its PROXY protocol header.
func TestShutdownCutsOffSilentClients(t *testing.T) {
	for _, mode := range []Mode{TCP, HTTP} {
		t.Run(string(mode), func(t *testing.T) {
			s := newSite(t, standard(t), mode, deadAddress(t))
			s.listener.AcceptProxy = AcceptProxyAlways
			s.config.DrainTimeout = 100 * time.Millisecond
			c, err := net.Dial("tcp", s.start(t))
			require.NoError(t, err)
			defer c.Close()
			endsInTime(t, s.server)
		})
	}
}

// A configuration that cannot be had changes nothing.
func TestApplyRefuses(t *testing.T) {
	s := newSite(t, standard(t), HTTP, httpBackend(t, mirror))
	address := s.start(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, tc := range []struct {
		field  string
		change func(c *Config, l *Listener)
	}{
		{"listeners", func(c *Config, _ *Listener) { c.Listeners = nil }},
		{"admin", func(c *Config, _ *Listener) { c.Admin = "nowhere" }},
		{"admin", func(c *Config, _ *Listener) { c.Admin = taken.Addr().String() }},
		{"drain-timeout", func(c *Config, _ *Listener) { c.DrainTimeout = -1 }},
		{"mode", func(_ *Config, l *Listener) { l.Mode = "smtp" }},
		{"backends", func(_ *Config, l *Listener) { l.Backends = nil }},
		{"address", func(_ *Config, l *Listener) { l.Address = "localhost" }},
		{"address", func(_ *Config, l *Listener) { l.Address = "unix:" }},
		{"address", func(_ *Config, l *Listener) { l.Address = "127.0.0.1:http9" }},
		{"address", func(_ *Config, l *Listener) { l.Address = taken.Addr().String() }},
		{"name", func(c *Config, l *Listener) {
			l.Address = "127.0.0.1:0"
			c.Listeners = append(c.Listeners, s.listener)
		}},
		{"address", func(c *Config, l *Listener) {
			l.Address = "127.0.0.1:9"
			twin := *l
			twin.Name = "twin"
			c.Listeners = append(c.Listeners, &twin)
		}},
		{"max-connections", func(_ *Config, l *Listener) { l.MaxConnections = 0 }},
		{"max-header-bytes", func(_ *Config, l *Listener) { l.MaxHeaderBytes = -1 }},
		{"idle-timeout", func(_ *Config, l *Listener) { l.IdleTimeout = -1 }},
		{"accept-proxy", func(_ *Config, l *Listener) { l.AcceptProxy = "maybe" }},
		{"accept-proxy", func(_ *Config, l *Listener) { l.AcceptProxy = AcceptProxyTrusted }},
		{"reuse-port", func(_ *Config, l *Listener) { l.ReusePort = true }},
		{"alpn", func(_ *Config, l *Listener) {
			config := *l.TLS
			config.ALPN = []string{"h2", "acme-tls/1"}
			l.TLS = &config
		}},
		{"provider", func(_ *Config, l *Listener) {
			l.TLS = &tlsapi.ServerConfig{Certificates: l.TLS.Certificates, ClientAuth: tls.RequireAndVerifyClientCert}
		}},
		{"address", func(_ *Config, l *Listener) { l.Backends = []*Backend{{Address: "127.0.0.1:0"}} }},
		{"max-idle", func(_ *Config, l *Listener) { l.Backends = []*Backend{{Address: "a:1", MaxIdle: -1}} }},
		{"send-proxy", func(_ *Config, l *Listener) { l.Backends = []*Backend{{Address: "a:1", SendProxy: 3}} }},
		{"send-proxy", func(_ *Config, l *Listener) { l.Backends = []*Backend{{Address: "a:1", SendProxy: 1, H2C: true}} }},
		{"h2c", func(_ *Config, l *Listener) { l.Mode, l.Backends = TCP, []*Backend{{Address: "a:1", H2C: true}} }},
		{"provider", func(_ *Config, l *Listener) {
			l.Backends = []*Backend{{Address: "a:1", Provider: standard(t), TLS: &tlsapi.ClientConfig{}}}
		}},
		{"alpn", func(_ *Config, l *Listener) {
			config := &tlsapi.ClientConfig{ServerName: "a", Settings: tlsapi.Settings{ALPN: []string{"smtp"}}}
			l.Backends = []*Backend{{Address: "a:1", Provider: standard(t), TLS: config}}
		}},
	} {
		l := *s.listener
		config := *s.config
		config.Listeners = []*Listener{&l}
		tc.change(&config, &l)
		err := s.server.Apply(&config)
		var e *ConfigError
		if assert.ErrorAs(t, err, &e, tc.field) {
			assert.Equal(t, tc.field, e.Field, "%v", err)
		}
		resp, _ := do(t, s.client(t, true), "GET", "https://"+address, "")
		assert.Equal(t, http.StatusOK, resp.StatusCode)
	}
}

func TestListenersComeAndGo(t *testing.T) {
	s := newSite(t, standard(t), HTTP, httpBackend(t, mirror))
	first := s.start(t)
	second := deadAddress(t)
	l := *s.listener
	l.Name, l.Address = "second", second
	both := *s.config
	both.Listeners = []*Listener{s.listener, &l}
	require.NoError(t, s.server.Apply(&both))
	for _, address := range []string{first, second} {
		do(t, s.client(t, true), "GET", "https://"+address, "")
	}
	require.NoError(t, s.server.Apply(s.config))
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", second)
		if err == nil {
			c.Close()
		}
		return err != nil
	}, patience, time.Millisecond)
	do(t, s.client(t, true), "GET", "https://"+first, "")
}
