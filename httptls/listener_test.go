package httptls_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/metrics"
	"github.com/polytls/polytls/stdtls"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

func TestDialAndListen(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t)
		l, err := httptls.Listen("tcp", "127.0.0.1:0", p, s.config)
		require.NoError(t, err)
		defer l.Close()
		accepted := make(chan tlsapi.Conn, 1)
		go func() {
			conn, err := l.Accept()
			if assert.NoError(t, err) {
				accepted <- conn.(tlsapi.Conn)
			}
		}()
		conn, err := httptls.Dial("tcp", l.Addr().String(), p, s.client)
		require.NoError(t, err)
		defer conn.Close()
		assert.True(t, conn.ConnectionState().HandshakeComplete)
		assert.True(t, conn.Info().Verified)
		assert.Empty(t, s.client.ServerName, "the caller's configuration was changed")

		server := <-accepted
		defer server.Close()
		assert.True(t, server.ConnectionState().HandshakeComplete, "accepted before its handshake")
		_, err = io.WriteString(conn, "hello\n")
		require.NoError(t, err)
		line, err := bufio.NewReader(server).ReadString('\n')
		require.NoError(t, err)
		assert.Equal(t, "hello\n", line)

		// The name is the address's, as with tls.Dial.
		_, port, err := net.SplitHostPort(l.Addr().String())
		require.NoError(t, err)
		_, err = httptls.Dial("tcp", net.JoinHostPort("127.0.0.2", port), p, s.client)
		require.Error(t, err)
	})
}

func TestDialVerifiesTheHost(t *testing.T) {
	s := newSite(t)
	s.config.Certificates = []tls.Certificate{s.authority.Leaf(t, tlstest.Spec{DNSNames: []string{"elsewhere.test"}})}
	l, err := httptls.Listen("tcp", "127.0.0.1:0", stdtls.Provider, s.config)
	require.NoError(t, err)
	defer l.Close()
	go l.Accept()
	_, err = httptls.DialContext(timeLimit(t), "tcp", l.Addr().String(), stdtls.Provider, s.client)
	assert.ErrorIs(t, err, tlsapi.KindHostname)
}

func TestListenRefusesConfigurations(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		_, err := httptls.Listen("tcp", "127.0.0.1:0", p, &tlsapi.ServerConfig{})
		assert.ErrorIs(t, err, tlsapi.KindConfig)
	})
	_, err := httptls.Listen("tcp", "127.0.0.1:0", nil, newSite(t).config)
	assert.ErrorIs(t, err, tlsapi.KindConfig)
	_, err = httptls.Dial("tcp", "127.0.0.1:1", nil, nil)
	assert.ErrorIs(t, err, tlsapi.KindConfig)
}

// silentClients listens, with a limit for handshakes, and lets clients come that
// say nothing.
func silentClients(t *testing.T, p tlsapi.Provider, limit time.Duration) (s site, l *httptls.Listener, failures chan error) {
	s, failures = newSite(t), make(chan error, 10)
	s.config.HandshakeFailed = func(err error) { failures <- err }
	l, err := httptls.Listen("tcp", "127.0.0.1:0", p, s.config)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	l.HandshakeTimeout = limit
	for range cap(failures) {
		silent, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { silent.Close() })
	}
	return s, l, failures
}

// Clients that say nothing keep nobody waiting.
func TestSlowHandshakesDelayNobody(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s, l, failures := silentClients(t, p, time.Hour)
		conns := make(chan net.Conn, 1)
		go func() {
			if conn, err := l.Accept(); assert.NoError(t, err) {
				conns <- conn
			}
		}()
		conn, err := httptls.DialContext(timeLimit(t), "tcp", l.Addr().String(), p, s.client)
		require.NoError(t, err)
		defer conn.Close()
		select {
		case c := <-conns:
			c.Close()
		case <-time.After(time.Minute):
			t.Fatal("Accept waits for slow handshakes")
		}
		assert.Empty(t, failures)
	})
}

// Clients that say nothing end at the timeout.
func TestSlowHandshakesEnd(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		const limit = 200 * time.Millisecond
		began := time.Now()
		_, l, failures := silentClients(t, p, limit)
		accepted := make(chan error, 1)
		go func() {
			_, err := l.Accept()
			accepted <- err
		}()
		for range cap(failures) {
			select {
			case err := <-failures:
				assert.ErrorIs(t, err, tlsapi.KindTimeout)
			case <-time.After(time.Minute):
				t.Fatal("a silent client was not cut off")
			}
		}
		assert.GreaterOrEqual(t, time.Since(began), limit)
		require.NoError(t, l.Close())
		assert.ErrorIs(t, <-accepted, net.ErrClosed)
	})
}

func TestPendingHandshakesAreBounded(t *testing.T) {
	s := newSite(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	counting := &countingListener{Listener: inner}
	l, err := httptls.NewListener(counting, stdtls.Provider, s.config)
	require.NoError(t, err)
	l.MaxPendingHandshakes = 2
	ended := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		ended <- err
	}()
	for range 5 {
		silent, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		defer silent.Close()
	}
	require.Eventually(t, func() bool { return counting.count() == 2 }, time.Minute, 5*time.Millisecond)
	time.Sleep(50 * time.Millisecond)
	assert.Equal(t, 2, counting.count())

	require.NoError(t, l.Close())
	assert.ErrorIs(t, <-ended, net.ErrClosed)
	_, err = l.Accept()
	assert.ErrorIs(t, err, net.ErrClosed)
}

type countingListener struct {
	net.Listener
	mu sync.Mutex
	n  int
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		l.n++
		l.mu.Unlock()
	}
	return conn, err
}

func (l *countingListener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// Errors of the listener below reach Accept one by one.
func TestAcceptErrors(t *testing.T) {
	inner := &failingListener{closed: make(chan struct{})}
	l, err := httptls.NewListener(inner, stdtls.Provider, newSite(t).config)
	require.NoError(t, err)
	for range 3 {
		_, err := l.Accept()
		assert.ErrorIs(t, err, errTooManyFiles)
	}
	require.NoError(t, l.Close())
	_, err = l.Accept()
	assert.ErrorIs(t, err, net.ErrClosed)
	assert.LessOrEqual(t, inner.calls, 4, "Accept was tried again without anybody knowing")
}

var errTooManyFiles = errors.New("too many open files")

type failingListener struct {
	calls  int
	closed chan struct{}
}

func (l *failingListener) Accept() (net.Conn, error) { l.calls++; return nil, errTooManyFiles }
func (l *failingListener) Close() error              { return nil }
func (l *failingListener) Addr() net.Addr            { return &net.TCPAddr{} }

func TestFailuresAreLogged(t *testing.T) {
	s := newSite(t)
	failed := make(chan struct{}, 1)
	var log bytes.Buffer
	l, err := httptls.Listen("tcp", "127.0.0.1:0", stdtls.Provider, s.config)
	require.NoError(t, err)
	l.Log = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		n, err := log.Write(p)
		failed <- struct{}{}
		return n, err
	}), nil))
	go l.Accept()
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "this is not TLS\n")
	require.NoError(t, err)
	<-failed
	assert.Contains(t, log.String(), "provider=std")
	assert.Contains(t, log.String(), "level=WARN msg=\"TLS handshake failed\"")
	assert.Contains(t, log.String(), "role=server")
	assert.Contains(t, log.String(), "kind=not_tls")
	assert.Contains(t, log.String(), "remote="+conn.LocalAddr().String())
	assert.True(t, strings.Contains(log.String(), tlsapi.KindNotTLS.Error()), log.String())
}

func TestServerLogs(t *testing.T) {
	s := newSite(t)
	lines := make(chan string, 10)
	log := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		lines <- string(p)
		return len(p), nil
	}), nil))
	addr := serve(t, &httptls.Server{
		Provider: stdtls.Provider, Config: s.config, Log: log,
		Server: http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a program's mistake") })},
	})
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "this is not TLS\n")
	require.NoError(t, err)
	assert.Contains(t, <-lines, "kind=not_tls")

	_, err = client(t, &httptls.Transport{Provider: stdtls.Provider, Config: s.client}).Get("https://" + addr)
	require.Error(t, err)
	assert.Contains(t, <-lines, "a program's mistake")
}

// A Meter changes nothing for servers and clients.
func TestCounted(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t)
		meter := new(metrics.Meter)
		counted := meter.Provider(p)
		addr := serve(t, &httptls.Server{
			Provider: counted, Config: s.config,
			Server: http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn := httptls.ConnFromContext(r.Context())
				if assert.NotNil(t, conn) {
					assert.Equal(t, conn.ConnectionState().CipherSuite, r.TLS.CipherSuite)
				}
				_, _ = io.WriteString(w, r.Proto)
			})},
		})
		requests := uint64(0)
		for _, http2 := range []bool{false, true} {
			web := client(t, &httptls.Transport{Provider: counted, Config: s.client, HTTP: &http.Transport{Protocols: protocols(true, http2)}})
			for range 2 {
				resp, err := web.Get("https://" + addr)
				require.NoError(t, err)
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				require.NoError(t, err)
				assert.Equal(t, map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[http2], string(body))
				assert.NotNil(t, resp.TLS)
			}
			requests++
		}
		for _, c := range meter.Snapshot().Connections {
			complete, _ := c.Handshakes()
			assert.Equal(t, requests, complete, "%s: one connection for two requests", c.Role)
			assert.EqualValues(t, requests, c.Open, c.Role)
			assert.NotZero(t, c.BytesRead, c.Role)
			assert.Zero(t, c.Failures(), c.Role)
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestDialContextEnds(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer inner.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_, err = httptls.DialContext(ctx, "tcp", inner.Addr().String(), p, newSite(t).client)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
	})
}
