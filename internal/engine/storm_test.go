package engine_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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

// TestStorm uses shared connections from 64 goroutines at once with all that a
// connection has, while memory is collected all the time.
func TestStorm(t *testing.T) {
	noLeaks(t)
	length := max(300*time.Millisecond, time.Duration(scale(t)*float64(time.Minute)))
	eachProvider(t, func(t *testing.T, f *fixture) {
		end := time.Now().Add(length)
		rounds := 0
		for ; time.Now().Before(end); rounds++ {
			one, two := loopback(t)
			client, server := f.over(t, one, two)
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
							err = c.SetReadDeadline(time.Now().Add(time.Duration(r.IntN(3000)-500) * time.Microsecond))
						case 6:
							state, info := c.ConnectionState(), c.Info()
							_, _ = state, info
							_, err = c.ExportKeyingMaterial("EXPERIMENTAL", nil, 16)
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
			within(t, 20*time.Second, "the storm", all.Wait)
		}
		t.Logf("%d pairs of connections", rounds)
	})
}

// TestSilentPeers holds connections open whose peers say nothing, or a byte now
// and then, while others go on as if there were none.
func TestSilentPeers(t *testing.T) {
	noLeaks(t)
	count := max(50, int(scale(t)*5000))
	eachProvider(t, func(t *testing.T, f *fixture) {
		good := func() time.Duration {
			start := time.Now()
			client, server, _, _ := f.connected(t, nil)
			_, err := client.Write([]byte("x"))
			require.NoError(t, err)
			_, err = io.ReadFull(server, make([]byte, 1))
			require.NoError(t, err)
			require.NoError(t, client.Close())
			require.NoError(t, server.Close())
			return time.Since(start)
		}
		p99 := func() time.Duration {
			var all []time.Duration
			for range 100 {
				all = append(all, good())
			}
			sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
			return all[98]
		}
		idle := p99()
		before, threads := resident(t), threadCount()
		var conns []tlsapi.Conn
		var peers []*tlstest.Transport
		var ended sync.WaitGroup
		for range count {
			peer, wire := tlstest.Pipe()
			server, err := f.provider.Server(wire, &f.server)
			require.NoError(t, err)
			ended.Go(func() { _ = server.Handshake() })
			conns, peers = append(conns, server), append(peers, peer)
		}
		stop := make(chan struct{})
		var slow sync.WaitGroup
		slow.Go(func() {
			// A ClientHello that never ends, byte by byte.
			hello := append([]byte{22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb, 3, 3}, bytes.Repeat([]byte{0}, 300)...)
			for i := 0; i < len(hello); i++ {
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
		busy := p99()
		each := (resident(t) - before) / count
		t.Logf("%d half-open peers: %d KiB each; p99 of good connections %v, without them %v; threads %d, without %d", count, each>>10, busy, idle, threadCount(), threads)
		if !instrumented {
			assert.Less(t, each, 200<<10, "bytes for each half-open connection")
		}
		close(stop)
		slow.Wait()
		for _, c := range conns {
			require.NoError(t, c.Close())
		}
		within(t, 20*time.Second, "the handshakes", ended.Wait)
	})
}

func threadCount() int { return pprof.Lookup("threadcreate").Count() }

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
	noLeaks(t)
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
		require.Eventually(t, func() bool { return descriptors(t) <= before }, 10*time.Second, 10*time.Millisecond)
	})
}

// TestSoak holds many connections open with echoes, makes many handshakes, half
// of them resumed, and moves much data both ways, at the size of POLYTLS_SOAK.
func TestSoak(t *testing.T) {
	noLeaks(t)
	size := scale(t)
	eachProvider(t, func(t *testing.T, f *fixture) {
		f.client.SessionCache = tlsapi.NewLRUSessionCache(0)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		var served sync.WaitGroup
		served.Go(func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				served.Go(func() {
					server, err := f.provider.Server(c, &f.server)
					if err != nil {
						t.Error(err)
						c.Close()
						return
					}
					defer server.Close()
					_, _ = io.Copy(server, server)
				})
			}
		})
		dial := func() tlsapi.Conn {
			c, err := net.Dial("tcp", listener.Addr().String())
			require.NoError(t, err)
			client, err := f.provider.Client(c, &f.client)
			require.NoError(t, err)
			return client
		}
		echo := func(c tlsapi.Conn, data []byte) error {
			wrote := make(chan error, 1)
			go func() {
				_, err := c.Write(data)
				wrote <- err
			}()
			sum := sha256.New()
			_, err := io.CopyN(sum, c, int64(len(data)))
			if werr := <-wrote; err == nil {
				err = werr
			}
			want := sha256.Sum256(data)
			if err == nil && !bytes.Equal(sum.Sum(nil), want[:]) {
				t.Error("the echo differs")
			}
			return err
		}
		// Warm up, so that what stays for good is there.
		for range 50 {
			c := dial()
			require.NoError(t, echo(c, []byte("warm")))
			require.NoError(t, c.Close())
		}
		base, baseFDs := runtime.NumGoroutine(), descriptors(t)

		open := max(20, int(10000*size))
		conns := make([]tlsapi.Conn, open)
		for i := range conns {
			conns[i] = dial()
			require.NoError(t, echo(conns[i], []byte("hello")))
		}
		held := resident(t)
		for end := time.Now().Add(time.Duration(size * float64(2*time.Minute))); time.Now().Before(end); {
			require.NoError(t, echo(conns[rand.IntN(open)], make([]byte, 1+rand.IntN(2000))))
		}
		grown := resident(t) - held
		for _, c := range conns {
			require.NoError(t, c.Close())
		}

		var resumed atomic.Int64
		handshakes := max(50, int(200000*size))
		for i := range handshakes {
			if i%2 == 0 {
				f.client.SessionCache = tlsapi.NewLRUSessionCache(0)
			}
			c := dial()
			require.NoError(t, echo(c, []byte("x")))
			if c.ConnectionState().DidResume {
				resumed.Add(1)
			}
			require.NoError(t, c.Close())
		}

		c := dial()
		total := int64(float64(20<<30) * size)
		var moved int64
		for moved < total {
			data := make([]byte, 1+rand.IntN(200000))
			for i := range data {
				data[i] = byte(i*7 + len(data))
			}
			require.NoError(t, echo(c, data))
			moved += int64(len(data))
		}
		require.NoError(t, c.Close())

		// Lateness of deadlines, as the machine lets it be.
		c = dial()
		require.NoError(t, c.Handshake())
		var latest time.Duration
		for range 20 {
			at := time.Now().Add(20 * time.Millisecond)
			require.NoError(t, c.SetReadDeadline(at))
			_, err := c.Read(make([]byte, 1))
			require.ErrorIs(t, err, tlsapi.KindTimeout)
			latest = max(latest, time.Since(at))
		}
		require.NoError(t, c.Close())
		require.NoError(t, listener.Close())
		served.Wait()
		require.Eventually(t, func() bool { return runtime.NumGoroutine() <= base && descriptors(t) <= baseFDs }, 10*time.Second, 20*time.Millisecond,
			"goroutines or descriptors are left")
		t.Logf("%d connections at once, resident memory grew by %d KiB under echoes; %d handshakes, %d resumed; %d MiB each way; deadlines at most %v late; %d threads made",
			open, grown>>10, handshakes, resumed.Load(), moved>>20, latest, threadCount())
		assert.InDelta(t, float64(handshakes)/2, float64(resumed.Load()), float64(handshakes)/20, "half of the handshakes are resumed")
		if !instrumented && size >= 0.1 {
			assert.Less(t, grown, 16<<20, "resident memory is flat")
		}
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
	// The exporter before the handshake.
	return e.Kind == tlsapi.KindProtocol && e.Op == "export"
}
