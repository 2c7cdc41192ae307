package metrics_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/metrics"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/stdtls"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

func TestMain(m *testing.M) { leftover.Main(m) }

// The connections of a wrapped provider do all that the contract promises.
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("stdtls runs the suite itself; what is added here is in the other tests")
	}
	var meter metrics.Meter
	p := meter.Provider(stdtls.Provider)
	tlstest.Run(t, p)

	// A subtest, as Run starts this test again with another environment.
	t.Run("counted", func(t *testing.T) {
		for role, c := range roles(t, &meter) {
			complete, resumed := c.Handshakes()
			assert.NotZero(t, complete, role)
			assert.NotZero(t, resumed, role)
			assert.NotZero(t, c.BytesRead, role)
			assert.NotZero(t, c.Failed[tlsapi.KindBadRecord]+c.Failed[tlsapi.KindProtocol], role)
			assert.NotZero(t, c.Blinded, role)
			assert.NotZero(t, c.Refused[tlsapi.KindConfig], role)
			assert.Zero(t, c.Handshaking, role)
			assert.Zero(t, c.Open, "%s: connections that nobody closed", role)
			assert.Zero(t, c.Failed[0], "%s: failures of no kind", role)
		}
	})
}

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

type ends struct{ client, server tlsapi.Conn }

// site has configurations that fit each other.
type site struct {
	client *tlsapi.ClientConfig
	server *tlsapi.ServerConfig
}

func newSite(t testing.TB) site {
	a := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Test CA"})
	cert := a.Leaf(t, tlstest.Spec{DNSNames: []string{"server.example"}})
	return site{
		client: &tlsapi.ClientConfig{ServerName: "server.example", RootCAs: tlstest.Pool(a)},
		server: &tlsapi.ServerConfig{Certificates: []tls.Certificate{cert}},
	}
}

func (s site) connect(t testing.TB, p tlsapi.Provider) ends {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	far, err := l.Accept()
	require.NoError(t, err)
	client, err := p.Client(near, s.client)
	require.NoError(t, err)
	server, err := p.Server(far, s.server)
	require.NoError(t, err)
	t.Cleanup(func() { client.Close(); server.Close() })
	for _, c := range []tlsapi.Conn{client, server} {
		require.NoError(t, c.SetDeadline(time.Now().Add(30*time.Second)))
	}
	return ends{client, server}
}

func (e ends) handshake() (clientErr, serverErr error) {
	var both sync.WaitGroup
	both.Go(func() { clientErr = e.client.Handshake() })
	both.Go(func() { serverErr = e.server.Handshake() })
	both.Wait()
	return clientErr, serverErr
}

func (e ends) close() {
	e.client.Close()
	e.server.Close()
}

// send makes n bytes go from one to another.
func send(t testing.TB, from, to tlsapi.Conn, n int) {
	t.Helper()
	written := make(chan error, 1)
	go func() {
		_, err := from.Write(make([]byte, n))
		written <- err
	}()
	_, err := io.ReadFull(to, make([]byte, n))
	require.NoError(t, err)
	require.NoError(t, <-written)
}

func connections(t testing.TB, m *metrics.Meter, role metrics.Role) metrics.Connections {
	t.Helper()
	for _, c := range m.Snapshot().Connections {
		if c.Role == role {
			return c
		}
	}
	require.FailNow(t, "there is no such role", role)
	return metrics.Connections{}
}

func roles(t testing.TB, m *metrics.Meter) map[metrics.Role]metrics.Connections {
	return map[metrics.Role]metrics.Connections{
		metrics.Client: connections(t, m, metrics.Client),
		metrics.Server: connections(t, m, metrics.Server),
	}
}

func TestCounts(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		var meter metrics.Meter
		s := newSite(t)
		var hooks sync.Map
		s.client.HandshakeComplete = func(tlsapi.ConnectionInfo) { hooks.Store("client", true) }
		s.server.HandshakeComplete = func(tlsapi.ConnectionInfo) { hooks.Store("server", true) }
		wrapped := meter.Provider(p)
		assert.Equal(t, p.Name(), wrapped.Name())
		assert.Equal(t, p.Features(), wrapped.Features())

		e := s.connect(t, wrapped)
		for role, c := range roles(t, &meter) {
			assert.Zero(t, c.Open, role)
			assert.Zero(t, c.Handshaking, role)
		}
		// The handshake comes with the first Write and Read.
		send(t, e.client, e.server, 70_000)
		send(t, e.server, e.client, 1_000)
		for role, c := range roles(t, &meter) {
			complete, resumed := c.Handshakes()
			assert.EqualValues(t, 1, complete, role)
			assert.Zero(t, resumed, role)
			require.Len(t, c.Complete, 2, role)
			index := map[uint16]int{tls.VersionTLS12: 0, tls.VersionTLS13: 1}[e.client.ConnectionState().Version]
			assert.EqualValues(t, 1, c.Complete[index].Full, role)
			assert.EqualValues(t, 1, c.FullDuration.Count, role)
			assert.Positive(t, c.FullDuration.Sum, role)
			assert.Zero(t, c.ResumedDuration.Count, role)
			assert.Zero(t, c.FailedDuration.Count, role)
			assert.EqualValues(t, 1, c.Open, role)
			assert.Zero(t, c.Handshaking, role)
			_, called := hooks.Load(string(role))
			assert.True(t, called, "the hook of the %s", role)
			_, caching := p.(tlsapi.CachingProvider)
			assert.Equal(t, caching, c.ConfigCache != nil, role)
		}
		client, server := connections(t, &meter, metrics.Client), connections(t, &meter, metrics.Server)
		assert.EqualValues(t, 70_000, client.BytesWritten)
		assert.EqualValues(t, 70_000, server.BytesRead)
		assert.EqualValues(t, 1_000, client.BytesRead)
		assert.EqualValues(t, 1_000, server.BytesWritten)

		e.close()
		assert.ErrorIs(t, e.client.Close(), net.ErrClosed)
		_, err := e.client.Read(make([]byte, 1))
		assert.ErrorIs(t, err, net.ErrClosed)
		for role, c := range roles(t, &meter) {
			assert.Zero(t, c.Open, role)
			assert.Empty(t, c.Broken, role)
			assert.Empty(t, c.Failed, role)
		}
	})
}

func TestResumption(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		var meter metrics.Meter
		s := newSite(t)
		s.client.SessionCache = tlsapi.NewLRUSessionCache(0)
		for range 3 {
			e := s.connect(t, meter.Provider(p))
			send(t, e.client, e.server, 10)
			send(t, e.server, e.client, 10)
			e.close()
		}
		for role, c := range roles(t, &meter) {
			complete, resumed := c.Handshakes()
			assert.EqualValues(t, 3, complete, role)
			assert.EqualValues(t, 2, resumed, role)
			assert.EqualValues(t, 2, c.ResumedDuration.Count, role)
			assert.EqualValues(t, 1, c.FullDuration.Count, role)
		}
	})
}

func TestFailures(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		var log bytes.Buffer
		meter := metrics.Meter{Log: slog.New(slog.NewTextHandler(&lockedWriter{w: &log}, nil))}
		wrapped := meter.Provider(p)
		s := newSite(t)
		s.client.ServerName = "other.example"
		s.client.MaxBlindingDelay = -1
		failed := make(chan error, 1)
		s.client.HandshakeFailed = func(err error) { failed <- err }
		e := s.connect(t, wrapped)
		var server sync.WaitGroup
		server.Go(func() { e.server.Handshake() })
		require.ErrorIs(t, e.client.Handshake(), tlsapi.KindHostname)
		assert.ErrorIs(t, <-failed, tlsapi.KindHostname)
		assert.ErrorIs(t, e.client.Handshake(), tlsapi.KindHostname)
		_, err := e.client.Read(make([]byte, 1))
		assert.ErrorIs(t, err, tlsapi.KindHostname)
		e.close()
		server.Wait()

		client := connections(t, &meter, metrics.Client)
		assert.Equal(t, map[tlsapi.Kind]uint64{tlsapi.KindHostname: 1}, client.Failed)
		assert.EqualValues(t, 1, client.Failures())
		assert.EqualValues(t, 1, client.FailedDuration.Count)
		assert.Zero(t, client.Open)
		assert.Zero(t, client.Handshaking)
		assert.Empty(t, client.Broken)
		assert.Zero(t, client.Blinded)
		assert.Contains(t, log.String(), `msg="TLS handshake failed" provider=`+p.Name()+" role=client remote=127.0.0.1:")
		assert.Contains(t, log.String(), "kind=hostname")

		// Connections that are closed, or only made, have no handshake.
		unused := s.connect(t, wrapped)
		unused.close()
		assert.ErrorIs(t, unused.client.Handshake(), net.ErrClosed)
		assert.EqualValues(t, 1, roles(t, &meter)[metrics.Client].Failures())

		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		_, err = wrapped.Client(near, &tlsapi.ClientConfig{})
		require.ErrorIs(t, err, tlsapi.KindConfig)
		assert.Equal(t, map[tlsapi.Kind]uint64{tlsapi.KindConfig: 1}, connections(t, &meter, metrics.Client).Refused)
	})
}

func TestPanickingHook(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		var meter metrics.Meter
		s := newSite(t)
		s.client.HandshakeComplete = func(tlsapi.ConnectionInfo) { panic("a program's mistake") }
		e := s.connect(t, meter.Provider(p))
		go e.server.Handshake()
		assert.Panics(t, func() { _ = e.client.Handshake() })
		c := connections(t, &meter, metrics.Client)
		assert.Zero(t, c.Handshaking)
		assert.Equal(t, map[tlsapi.Kind]uint64{tlsapi.KindInternal: 1}, c.Failed)
	})
}

func TestBlinded(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		var meter metrics.Meter
		s := newSite(t)
		s.server.MaxBlindingDelay = time.Hour
		s.server.ClientAuth = tls.RequireAnyClientCert
		e := s.connect(t, meter.Provider(p))
		_, err := e.handshake()
		require.Error(t, err)
		e.close()
		assert.EqualValues(t, 1, connections(t, &meter, metrics.Server).Blinded)
		assert.Zero(t, connections(t, &meter, metrics.Client).Blinded)
		assert.Equal(t, 1, meter.Snapshot().BlindedConnections)
		// The hour is over when there is no room to wait.
		defer tlsapi.SetBlindedConnectionLimit(tlsapi.SetBlindedConnectionLimit(-1))
		assert.Eventually(t, func() bool { return meter.Snapshot().BlindedConnections == 0 }, time.Minute, 10*time.Millisecond)
	})
}

// A connection that ends without close_notify is broken, once.
func TestBroken(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		var meter metrics.Meter
		e := newSite(t).connect(t, meter.Provider(p))
		clientErr, serverErr := e.handshake()
		require.NoError(t, clientErr)
		require.NoError(t, serverErr)
		require.NoError(t, e.client.SetReadDeadline(time.Now()))
		_, err := e.client.Read(make([]byte, 1))
		require.ErrorIs(t, err, tlsapi.KindTimeout)
		require.NoError(t, e.client.SetReadDeadline(time.Time{}))
		assert.Empty(t, connections(t, &meter, metrics.Client).Broken, "a passed deadline")

		require.NoError(t, e.server.NetConn().Close())
		for range 2 {
			_, err = e.client.Read(make([]byte, 1))
			require.ErrorIs(t, err, tlsapi.KindTransport)
		}
		assert.Equal(t, map[tlsapi.Kind]uint64{tlsapi.KindTransport: 1}, connections(t, &meter, metrics.Client).Broken)
		assert.EqualValues(t, 1, connections(t, &meter, metrics.Client).Open)
	})
}

// A peer's alert is counted by its number.
func TestAlerts(t *testing.T) {
	var meter metrics.Meter
	s := newSite(t)
	s.client.RootCAs = tlstest.Pool(tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Test CA"}))
	e := s.connect(t, meter.Provider(stdtls.Provider))
	clientErr, serverErr := e.handshake()
	require.ErrorIs(t, clientErr, tlsapi.KindUntrusted)
	if serverErr == nil {
		// In TLS 1.3 the server is done before.
		_, serverErr = e.server.Read(make([]byte, 1))
	}
	require.ErrorIs(t, serverErr, tlsapi.KindPeerAlert)
	server := connections(t, &meter, metrics.Server)
	assert.Equal(t, map[tls.AlertError]uint64{42: 1}, server.Alerts, "bad_certificate")
	assert.EqualValues(t, 1, server.Failed[tlsapi.KindPeerAlert]+server.Broken[tlsapi.KindPeerAlert])
	assert.Empty(t, connections(t, &meter, metrics.Client).Alerts, "its own")
}

func TestForgotten(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		var meter metrics.Meter
		s := newSite(t)
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		func() {
			client, err := meter.Provider(p).Client(near, s.client)
			require.NoError(t, err)
			server, err := p.Server(far, s.server)
			require.NoError(t, err)
			clientErr, serverErr := ends{client, server}.handshake()
			require.NoError(t, clientErr)
			require.NoError(t, serverErr)
			go func() {
				// Its close_notify has nobody to take it.
				near.Close()
				server.Close()
			}()
		}()
		assert.Eventually(t, func() bool {
			runtime.GC()
			c := connections(t, &meter, metrics.Client)
			return c.Forgotten == 1 && c.Open == 0
		}, 20*time.Second, 10*time.Millisecond)
	})
}

func TestWrapping(t *testing.T) {
	var one, other metrics.Meter
	wrapped := one.Provider(stdtls.Provider)
	assert.Same(t, wrapped, one.Provider(wrapped), "counted once")
	assert.Nil(t, one.Provider(nil), "left to whoever takes it")
	assert.NotSame(t, wrapped, other.Provider(wrapped))
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		_, caching := p.(tlsapi.CachingProvider)
		w := one.Provider(p)
		_, wrappedCaching := w.(tlsapi.CachingProvider)
		assert.Equal(t, caching, wrappedCaching)
		assert.Same(t, w, one.Provider(w))
	})
	names := []string{}
	for _, p := range one.Snapshot().Providers {
		names = append(names, p.Name)
		assert.NotEmpty(t, p.Library)
	}
	assert.IsIncreasing(t, names)
	assert.Len(t, one.Snapshot().Connections, 2*len(names))
}

func TestLog(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		var log bytes.Buffer
		level := new(slog.LevelVar)
		meter := metrics.Meter{Log: slog.New(slog.NewTextHandler(&lockedWriter{w: &log}, &slog.HandlerOptions{Level: level}))}
		s := newSite(t)
		connect := func() {
			e := s.connect(t, meter.Provider(p))
			clientErr, serverErr := e.handshake()
			require.NoError(t, clientErr)
			require.NoError(t, serverErr)
			e.close()
		}
		connect()
		assert.Empty(t, log.String(), "handshakes that succeed are for LevelDebug")
		level.Set(slog.LevelDebug)
		connect()
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		require.Len(t, lines, 2)
		for _, line := range lines {
			assert.Contains(t, line, `level=DEBUG msg="TLS handshake complete" provider=`+p.Name()+" role=")
			assert.Contains(t, line, `version="TLS 1.`)
			assert.Contains(t, line, "suite=TLS_")
			assert.Contains(t, line, "server_name=server.example")
			assert.Equal(t, strings.Contains(line, "role=client"), strings.Contains(line, "verified=true"))
		}
	})
}

// A connection prints what it prints without the Meter.
func TestPrinting(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		var meter metrics.Meter
		s := newSite(t)
		bare, counted := s.connect(t, p), s.connect(t, meter.Provider(p))
		for _, format := range []string{"%v", "%+v", "%s"} {
			text := fmt.Sprintf(format, counted.client)
			assert.Less(t, len(text), 200)
			cut := func(s string) string { before, _, _ := strings.Cut(s, "127."); return before }
			assert.Equal(t, cut(fmt.Sprintf(format, bare.client)), cut(text), format)
		}
	})
}

// A context that ends counts as one failure, whoever waits.
func TestConcurrentHandshakes(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		var meter metrics.Meter
		e := newSite(t).connect(t, meter.Provider(p))
		ctx, cancel := context.WithCancel(context.Background())
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() { assert.Error(t, e.client.HandshakeContext(ctx)) })
		}
		assert.Eventually(t, func() bool { return connections(t, &meter, metrics.Client).Handshaking == 1 }, 10*time.Second, time.Millisecond)
		cancel()
		all.Wait()
		c := connections(t, &meter, metrics.Client)
		assert.EqualValues(t, 1, c.Failures())
		assert.Zero(t, c.Handshaking)
	})
}

// Snapshots are taken while connections go on; the race detector judges.
func TestSnapshotsMeanwhile(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		var meter metrics.Meter
		s := newSite(t)
		stop := make(chan struct{})
		var reader, workers sync.WaitGroup
		reader.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					meter.Snapshot()
					runtime.Gosched()
				}
			}
		})
		const connectionsEach, bytesEach = 4, 5000
		for range 4 {
			workers.Go(func() {
				for range connectionsEach {
					e := s.connect(t, meter.Provider(p))
					send(t, e.client, e.server, bytesEach)
					e.close()
				}
			})
		}
		workers.Wait()
		close(stop)
		reader.Wait()
		server := connections(t, &meter, metrics.Server)
		complete, _ := server.Handshakes()
		assert.EqualValues(t, 4*connectionsEach, complete)
		assert.EqualValues(t, 4*connectionsEach*bytesEach, server.BytesRead)
	})
}

// freeOfCost is a provider whose connections do nothing, so that what is left is
// the counting.
type freeOfCost struct{ tlsapi.Provider }

func (freeOfCost) Client(net.Conn, *tlsapi.ClientConfig) (tlsapi.Conn, error) { return idle{}, nil }

type idle struct{ tlsapi.Conn }

func (idle) HandshakeContext(context.Context) error { return nil }
func (idle) Info() tlsapi.ConnectionInfo            { return tlsapi.ConnectionInfo{} }
func (idle) RemoteAddr() net.Addr                   { return nil }
func (idle) Read(p []byte) (int, error)             { return len(p), nil }
func (idle) Write(p []byte) (int, error)            { return len(p), nil }
func (idle) Close() error                           { return nil }

func TestDataPathDoesNotAllocate(t *testing.T) {
	var meter metrics.Meter
	conn, err := meter.Provider(freeOfCost{stdtls.Provider}).Client(nil, nil)
	require.NoError(t, err)
	require.NoError(t, conn.Handshake())
	buf := make([]byte, 128)
	assert.Zero(t, testing.AllocsPerRun(200, func() {
		_, _ = conn.Write(buf)
		_, _ = conn.Read(buf)
	}))
	assert.EqualValues(t, 201*len(buf), connections(t, &meter, metrics.Client).BytesRead)
	require.NoError(t, conn.Close())
}

func BenchmarkDataPath(b *testing.B) {
	var meter metrics.Meter
	conn, err := meter.Provider(freeOfCost{stdtls.Provider}).Client(nil, nil)
	require.NoError(b, err)
	require.NoError(b, conn.Handshake())
	buf := make([]byte, 128)
	for b.Loop() {
		_, _ = conn.Write(buf)
		_, _ = conn.Read(buf)
	}
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// BenchmarkHandshake and BenchmarkPingPong compare a provider with itself,
// wrapped.
func BenchmarkHandshake(b *testing.B) {
	eachCounted(b, func(b *testing.B, p tlsapi.Provider) {
		s := newSite(b)
		for b.Loop() {
			near, far := tlstest.Pipe()
			client, err := p.Client(near, s.client)
			require.NoError(b, err)
			server, err := p.Server(far, s.server)
			require.NoError(b, err)
			clientErr, serverErr := ends{client, server}.handshake()
			require.NoError(b, clientErr)
			require.NoError(b, serverErr)
			client.Close()
			server.Close()
		}
	})
}

func BenchmarkPingPong(b *testing.B) {
	eachCounted(b, func(b *testing.B, p tlsapi.Provider) {
		e := newSite(b).connect(b, p)
		clientErr, serverErr := e.handshake()
		require.NoError(b, clientErr)
		require.NoError(b, serverErr)
		require.NoError(b, e.client.SetDeadline(time.Time{}))
		require.NoError(b, e.server.SetDeadline(time.Time{}))
		buf := make([]byte, 128)
		for b.Loop() {
			for _, ends := range [][2]tlsapi.Conn{{e.client, e.server}, {e.server, e.client}} {
				if _, err := ends[0].Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(ends[1], buf); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

func eachCounted(b *testing.B, run func(b *testing.B, p tlsapi.Provider)) {
	var meter metrics.Meter
	for _, p := range providers.All() {
		if p.Available() != nil {
			continue
		}
		b.Run(p.Name()+"/bare", func(b *testing.B) { run(b, p) })
		b.Run(p.Name()+"/counted", func(b *testing.B) { run(b, meter.Provider(p)) })
	}
}
