package providers_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/internal/records"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// target is a server that good clients and attackers connect to.
type target struct {
	t        *testing.T
	provider tlsapi.Provider
	client   *tlsapi.ClientConfig
	fixtures *fuzzFixtures
	// reference is crypto/tls's client, for attackers.
	reference *tls.Config
	listener  net.Listener
	served    sync.WaitGroup
	stopped   atomic.Bool
}

func newTarget(t *testing.T, p tlsapi.Provider) *target {
	f := newFuzzFixtures(t)
	x := &target{t: t, provider: p, fixtures: f}
	x.client = f.clientConfig()
	server := f.serverConfig()
	settings(p, &x.client.Settings)
	settings(p, &server.Settings)
	x.reference = &tls.Config{ServerName: fuzzHost, RootCAs: tlstest.X509Pool(f.ca)}
	var err error
	x.listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	x.served.Go(func() {
		for {
			c, err := x.listener.Accept()
			if err != nil {
				return
			}
			x.served.Go(func() {
				conn, err := p.Server(c, server)
				if err != nil {
					t.Error(err)
					c.Close()
					return
				}
				// What attackers cause is the server's error here.
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			})
		}
	})
	return x
}

func (x *target) stop() {
	require.NoError(x.t, x.listener.Close())
	x.served.Wait()
}

// good makes good connections one after the other and returns how long each has
// taken.
func (x *target) good(count int) []time.Duration {
	times := make([]time.Duration, 0, count)
	for range count {
		begin := time.Now()
		c, err := net.Dial("tcp", x.listener.Addr().String())
		require.NoError(x.t, err)
		client, err := x.provider.Client(c, x.client)
		require.NoError(x.t, err)
		require.NoError(x.t, roundTrip(client))
		require.NoError(x.t, client.Close())
		times = append(times, time.Since(begin))
	}
	return times
}

// attacks are what an attacker does again and again.
var attacks = []struct {
	name string
	once func(x *target, c net.Conn)
}{
	{"empty records, TLS 1.2", floodWith(tls.VersionTLS12, func(k *records.Keys) []byte { return k.Record(records.ApplicationData, nil) })},
	{"empty records, TLS 1.3", floodWith(tls.VersionTLS13, func(k *records.Keys) []byte { return k.Record(records.ApplicationData, nil) })},
	{"warnings", floodWith(tls.VersionTLS13, func(k *records.Keys) []byte { return k.Record(records.Alert, []byte{1, 90}) })},
	{"key updates", floodWith(tls.VersionTLS13, func(k *records.Keys) []byte { return k.KeyUpdate(false) })},
	{"requests for key updates", floodWith(tls.VersionTLS13, func(k *records.Keys) []byte { return k.KeyUpdate(true) })},
	{"renegotiations", floodWith(tls.VersionTLS12, func(k *records.Keys) []byte {
		hello := append([]byte{1, 0, 0, 43, 3, 3}, make([]byte, 32)...)
		return k.Record(records.Handshake, append(hello, 0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 0))
	})},
	{"a ClientHello of 16 MiB", func(_ *target, c net.Conn) { hugeHello(c) }},
	{"tickets from elsewhere", func(x *target, c net.Conn) {
		config := x.reference.Clone()
		ticket := make([]byte, 12000)
		_, _ = rand.Read(ticket)
		config.ClientSessionCache = &forgedTicket{ca: x.fixtures, ticket: ticket}
		client := tls.Client(c, config)
		_, _ = client.Write([]byte("x"))
		_, _ = client.Read(make([]byte, 1))
	}},
	{"garbage", func(_ *target, c net.Conn) {
		junk := make([]byte, 20000)
		_, _ = rand.Read(junk)
		_, _ = c.Write(junk)
	}},
}

// transcript keeps what a connection receives first.
type transcript struct {
	net.Conn
	received []byte
}

func (c *transcript) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if len(c.received) < 1<<12 {
		c.received = append(c.received, p[:n]...)
	}
	return n, err
}

// floodWith makes a connection and sends such records without end, and reads
// nothing.
func floodWith(version uint16, record func(*records.Keys) []byte) func(*target, net.Conn) {
	return func(x *target, c net.Conn) {
		var log bytes.Buffer
		config := x.reference.Clone()
		config.MinVersion, config.MaxVersion, config.KeyLogWriter = version, version, &log
		seen := &transcript{Conn: c}
		client := tls.Client(seen, config)
		if client.Handshake() != nil {
			return
		}
		keys, err := records.FromKeyLog(version, client.ConnectionState().CipherSuite, strings.Split(log.String(), "\n"), seen.received, true)
		if err != nil {
			x.t.Error(err)
			return
		}
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		for range 500 {
			var out []byte
			for range 100 {
				out = append(out, record(keys)...)
			}
			if _, err := c.Write(out); err != nil || x.stopped.Load() {
				return
			}
		}
	}
}

// hugeHello sends a ClientHello that says it has 16 MiB, until nobody takes it.
func hugeHello(c net.Conn) (sent int) {
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	fragment := append([]byte{records.Handshake, 3, 1, 0x40, 0}, make([]byte, 1<<14)...)
	copy(fragment[5:], []byte{1, 0xff, 0xff, 0xff, 3, 3})
	for range 1024 {
		n, err := c.Write(fragment)
		sent += n
		if err != nil {
			break
		}
		copy(fragment[5:], make([]byte, 6))
	}
	return sent
}

// TestAttackers lets good clients connect while attackers do what they can: all
// of them are served, and how much slower than without attackers is reported.
func TestAttackers(t *testing.T) {
	leftover.Check(t)
	count := max(20, int(soakScale(t)*1000))
	if testing.Short() {
		count = 5
	}
	eachNamed(t, "", func(t *testing.T, p tlsapi.Provider) {
		x := newTarget(t, p)
		defer x.stop()
		x.good(20)
		idle := percentile(x.good(count), 99)
		t.Logf("%s: p99 of good connections without attackers %v", p.Name(), idle.Round(10*time.Microsecond))
		for _, a := range attacks {
			t.Run(a.name, func(t *testing.T) {
				before := resident(t)
				var attackers sync.WaitGroup
				var rounds atomic.Int64
				x.stopped.Store(false)
				for range 4 {
					attackers.Go(func() {
						for !x.stopped.Load() {
							c, err := net.Dial("tcp", x.listener.Addr().String())
							if err != nil {
								t.Error(err)
								return
							}
							_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
							a.once(x, c)
							_ = c.Close()
							rounds.Add(1)
						}
					})
				}
				busy := percentile(x.good(count), 99)
				grown := resident(t) - before
				x.stopped.Store(true)
				attackers.Wait()
				t.Logf("%s, %s: p99 %v, %.1f times idle, beside %d attacks of 4 attackers; resident memory grew by %d KiB",
					p.Name(), a.name, busy.Round(10*time.Microsecond), float64(busy)/float64(idle), rounds.Load(), grown>>10)
				if !instrumented {
					assert.Less(t, grown, 64<<20, "resident memory")
				}
			})
		}
		t.Run("half-open peers", func(t *testing.T) { x.silentPeers(t, idle, count) })
	})
}

// silentPeers holds connections open whose peers say nothing, or a byte now and
// then.
func (x *target) silentPeers(t *testing.T, idle time.Duration, good int) {
	count := withDescriptors(t, max(50, int(soakScale(t)*5000)), 2)
	before, threads := resident(t), threadsOf(t)
	peers := make([]net.Conn, count)
	for i := range peers {
		var err error
		peers[i], err = net.Dial("tcp", x.listener.Addr().String())
		require.NoError(t, err)
	}
	stop := make(chan struct{})
	var slow sync.WaitGroup
	slow.Go(func() {
		// A ClientHello that never ends, byte by byte.
		hello := append([]byte{22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb, 3, 3}, bytes.Repeat([]byte{0}, 3000)...)
		for i := range hello {
			for _, p := range peers {
				select {
				case <-stop:
					return
				default:
					_, _ = p.Write(hello[i : i+1])
				}
			}
		}
	})
	busy := percentile(x.good(good), 99)
	each := (resident(t) - before) / count
	t.Logf("%s, %d half-open peers, slow bytes: p99 %v, %.1f times idle; %d KiB each; %d threads, %d without", x.provider.Name(), count,
		busy.Round(10*time.Microsecond), float64(busy)/float64(idle), each>>10, threadsOf(t), threads)
	if !instrumented {
		assert.Less(t, each, 200<<10, "bytes for each half-open connection")
	}
	close(stop)
	slow.Wait()
	for _, p := range peers {
		require.NoError(t, p.Close())
	}
}

// A message that is larger than any can be is refused before it is there, in
// both roles: what it says of its size is no reason to take memory.
func TestHugeMessages(t *testing.T) {
	eachNamed(t, "", func(t *testing.T, p tlsapi.Provider) {
		f := newFuzzFixtures(t)
		t.Run("ClientHello", func(t *testing.T) {
			config := f.serverConfig()
			settings(p, &config.Settings)
			wire, serverWire := tlstest.Pipe()
			conn, err := p.Server(serverWire, config)
			require.NoError(t, err)
			refusedHuge(t, conn, wire, nil)
		})
		t.Run("Certificate", func(t *testing.T) {
			config := f.clientConfig()
			settings(p, &config.Settings)
			config.MaxVersion = tls.VersionTLS12
			wire, serverWire := tlstest.Pipe()
			conn, err := p.Client(wire, config)
			require.NoError(t, err)
			server := tls.Server(serverWire, &tls.Config{MaxVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return &tls.Certificate{Certificate: hugeChain(f.cert), PrivateKey: f.cert.PrivateKey}, nil
			}})
			refusedHuge(t, conn, serverWire, server)
		})
	})
}

// hugeChain is a chain of 12 MiB.
func hugeChain(cert tls.Certificate) (chain [][]byte) {
	for range 12 << 20 / len(cert.Certificate[0]) {
		chain = append(chain, cert.Certificate[0])
	}
	return chain
}

// refusedHuge requires that an end refuses what its peer sends: a ClientHello of
// 16 MiB, or what the server says.
func refusedHuge(t *testing.T, conn tlsapi.Conn, peer *tlstest.Transport, server *tls.Conn) {
	var all sync.WaitGroup
	all.Go(func() {
		if server != nil {
			_ = server.Handshake()
			return
		}
		hugeHello(peer)
	})
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	err := conn.Handshake()
	// A transport that is closed takes the rest, as sockets do.
	taken := len(peer.Written())
	require.NoError(t, conn.Close())
	peer.Close()
	all.Wait()
	t.Logf("refused after %d KiB with %v", taken>>10, err)
	require.Error(t, err)
	assert.NotErrorIs(t, err, tlsapi.KindTimeout)
	assert.Less(t, taken, 2<<20, "bytes that were taken")
}
