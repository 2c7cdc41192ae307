package engine_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/boringssl"
	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/openssl"
	"github.com/polytls/polytls/s2n"
	"github.com/polytls/polytls/stdtls"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// scale is how much of the full size long tests have: POLYTLS_SOAK in the
// environment, 1 for all of it.
func scale(t *testing.T) float64 {
	text := os.Getenv("POLYTLS_SOAK")
	if text == "" {
		return 0.001
	}
	s, err := strconv.ParseFloat(text, 64)
	require.NoError(t, err, "POLYTLS_SOAK")
	return s
}

// stormTransports make the transports of a storm, one after the other: sockets,
// and what is no socket.
var stormTransports = []func(testing.TB) (one, two net.Conn){
	loopback,
	func(testing.TB) (one, two net.Conn) { return net.Pipe() },
	func(testing.TB) (one, two net.Conn) { return tlstest.Pipe() },
}

// stormWays are what the connections of a storm have, one after the other: each
// has goroutines, timers or memory that the others do not.
var stormWays = []func(*fixture){
	func(*fixture) {},
	func(f *fixture) {
		chosen := f.server
		chosen.ClientAuth = tls.RequestClientCert
		f.client.Certificate = &f.server.Certificates[0]
		f.server.GetConfigForClient = func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
			runtime.Gosched()
			return &chosen, nil
		}
	},
	func(f *fixture) { f.client.SessionCache = tlsapi.NewLRUSessionCache(0) },
	func(f *fixture) {
		f.client.MaxBlindingDelay, f.server.MaxBlindingDelay = 5*time.Millisecond, 5*time.Millisecond
		f.client.HandshakeTimeout = time.Minute
	},
}

// TestStorm uses shared connections from 64 goroutines at once with all that a
// connection has, while memory is collected all the time.
func TestStorm(t *testing.T) {
	leftover.Check(t)
	length := max(300*time.Millisecond, time.Duration(scale(t)*float64(time.Minute)))
	providers := []tlsapi.Provider{openssl.Provider, boringssl.Provider, s2n.Provider, stdtls.Provider}
	eachOf(t, providers, func(t *testing.T, f *fixture) {
		end := time.Now().Add(length)
		var ways []*fixture
		for _, way := range stormWays {
			varied := *f
			way(&varied)
			ways = append(ways, &varied)
		}
		rounds, longest := 0, time.Duration(0)
		for ; time.Now().Before(end); rounds++ {
			one, two := stormTransports[rounds%len(stormTransports)](t)
			client, server := ways[rounds%len(ways)].over(t, one, two)
			ends := []tlsapi.Conn{client, server}
			var all sync.WaitGroup
			stop := make(chan struct{})
			for i := range 64 {
				r := rand.New(rand.NewPCG(uint64(rounds), uint64(i)))
				c := ends[i%2]
				all.Go(func() {
					buf := make([]byte, 1+r.IntN(20000))
					for {
						select {
						case <-stop:
							return
						default:
						}
						var err error
						switch (i / 2) % 8 {
						case 0, 1:
							_, err = c.Read(buf)
						case 2, 3:
							_, err = c.Write(buf)
						case 4:
							ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
							err = c.HandshakeContext(ctx)
							cancel()
						case 5:
							at := time.Now().Add(time.Duration(r.IntN(3000)-500) * time.Microsecond)
							switch r.IntN(100) {
							case 0:
								// A write that it cuts off is fatal.
								err = c.SetWriteDeadline(at)
							case 1:
								err = c.SetDeadline(time.Time{})
							default:
								err = c.SetReadDeadline(at)
							}
						case 6:
							state, info := c.ConnectionState(), c.Info()
							_, _ = state, info
							if _, err = c.ExportKeyingMaterial("EXPERIMENTAL", nil, 16); r.IntN(1000) == 0 {
								err = c.CloseWrite()
							}
						case 7:
							runtime.GC()
							time.Sleep(time.Millisecond)
						}
						if !acceptable(err) {
							t.Errorf("%v", err)
							return
						}
						runtime.Gosched()
					}
				})
			}
			time.Sleep(time.Duration(5+rand.IntN(30)) * time.Millisecond)
			for range 4 {
				all.Go(func() { _ = client.Close() })
				all.Go(func() { _ = server.Close() })
			}
			close(stop)
			longest = max(longest, running(func() { within(t, 20*time.Second, "the storm", all.Wait) }))
		}
		t.Logf("%d pairs of connections, over within %v in which the program ran", rounds, longest)
	})
}

// running returns how long f has taken, without the time in which the program was
// suspended.
func running(f func()) (ran time.Duration) {
	const tick = 20 * time.Millisecond
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	for {
		begin := time.Now()
		select {
		case <-done:
			return ran + min(time.Since(begin), tick)
		case <-time.After(tick):
			ran += min(time.Since(begin), 5*tick)
		}
	}
}

func descriptors(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("this system does not tell what descriptors a process has")
	}
	return len(list)
}

// TestPeersThatDie cuts connections in the middle of transfers both ways: no
// goroutine, descriptor or memory stays, and what arrives before is right.
func TestPeersThatDie(t *testing.T) {
	leftover.Check(t)
	count := max(20, int(scale(t)*1000))
	eachProvider(t, func(t *testing.T, f *fixture) {
		before := descriptors(t)
		for range count {
			one, two := loopback(t)
			client, server := f.over(t, one, two)
			go func() {
				buf := bytes.Repeat([]byte("data"), 8192)
				for {
					if _, err := server.Write(buf); err != nil {
						server.Close()
						return
					}
				}
			}()
			size := 1 + rand.IntN(1<<20)
			got := make([]byte, size)
			_, err := io.ReadFull(client, got)
			require.NoError(t, err)
			require.NoError(t, two.(*net.TCPConn).SetLinger(0))
			two.Close()
			_, err = io.Copy(io.Discard, client)
			require.ErrorIs(t, err, tlsapi.KindTransport)
			require.NoError(t, client.Close())
		}
		require.Eventually(t, func() bool { return descriptors(t) <= before }, time.Minute, 10*time.Millisecond)
	})
}

// acceptable says whether an operation on a connection that others use and
// close may fail like this.
func acceptable(err error) bool {
	var e *tlsapi.Error
	if err == nil || err == io.EOF {
		return true
	}
	if !errors.As(err, &e) {
		return false
	}
	switch e.Kind {
	case tlsapi.KindClosed, tlsapi.KindTransport, tlsapi.KindTimeout, tlsapi.KindCanceled, tlsapi.KindUnsupported:
		return true
	}
	// The exporter, and CloseWrite, before the handshake.
	return e.Kind == tlsapi.KindProtocol && (e.Op == "export" || e.Op == "close")
}
