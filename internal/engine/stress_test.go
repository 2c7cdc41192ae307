package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// noLeaks fails the test when goroutines are left at its end. Connections may
// use up to 5 s in the background after Close.
func noLeaks(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		var err error
		for end := time.Now().Add(8 * time.Second); time.Now().Before(end); {
			if err = goleak.Find(before); err == nil {
				return
			}
		}
		t.Errorf("goroutines are left: %v", err)
	})
}

// loopback returns the two ends of a TCP connection.
func loopback(t testing.TB) (one, two net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	one, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	two, err = l.Accept()
	require.NoError(t, err)
	return one, two
}

// eachTransport runs the test with every provider over TCP, over net.Pipe,
// which has no buffer at all, and over a transport in memory.
func eachTransport(t *testing.T, test func(*testing.T, *fixture, func() (net.Conn, net.Conn))) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		t.Run("TCP", func(t *testing.T) { test(t, f, func() (net.Conn, net.Conn) { return loopback(t) }) })
		t.Run("Pipe", func(t *testing.T) { test(t, f, net.Pipe) })
		t.Run("memory", func(t *testing.T) {
			test(t, f, func() (net.Conn, net.Conn) {
				one, two := tlstest.Pipe()
				one.SetChunk(1 + rand.IntN(3000))
				two.SetChunk(1 + rand.IntN(3000))
				one.SetCapacity(1 + rand.IntN(60000))
				return one, two
			})
		})
	})
}

// acceptable says whether an operation on a connection that others use, break
// and close may fail like this.
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
	case tlsapi.KindProtocol:
		// CloseWrite and the exporter before the handshake.
		return e.Op == "close" || e.Op == "export"
	}
	return false
}

// hammer uses one end with everything it has, from many goroutines at once,
// until it is closed.
func hammer(t *testing.T, c tlsapi.Conn, seed uint64) *sync.WaitGroup {
	var wg sync.WaitGroup
	check := func(op string, err error) {
		if !acceptable(err) {
			t.Errorf("%s: %v", op, err)
		}
	}
	closed := make(chan struct{})
	loop := func(n uint64, f func(r *rand.Rand)) {
		r := rand.New(rand.NewPCG(seed, n))
		wg.Go(func() {
			for {
				select {
				case <-closed:
					return
				default:
					f(r)
				}
			}
		})
	}
	for i := range uint64(2) {
		loop(i, func(r *rand.Rand) {
			p := make([]byte, r.IntN(40000))
			n, err := c.Read(p)
			if n < 0 || n > len(p) || n > 0 && err != nil {
				t.Errorf("Read of %d: %d, %v", len(p), n, err)
			}
			check("Read", err)
			if err != nil {
				runtime.Gosched()
			}
		})
		loop(10+i, func(r *rand.Rand) {
			p := make([]byte, r.IntN(100000))
			n, err := c.Write(p)
			if n < 0 || n > len(p) || (n == len(p) && n > 0) != (err == nil && n > 0) {
				t.Errorf("Write of %d: %d, %v", len(p), n, err)
			}
			check("Write", err)
			if err != nil {
				runtime.Gosched()
			}
		})
	}
	loop(20, func(r *rand.Rand) {
		d := time.Now().Add(time.Duration(r.IntN(20)-1) * time.Millisecond)
		switch r.IntN(4) {
		case 0:
			check("SetReadDeadline", c.SetReadDeadline(d))
		case 1:
			check("SetReadDeadline", c.SetReadDeadline(time.Time{}))
		case 2:
			check("SetDeadline", c.SetDeadline(time.Time{}))
		case 3:
			if r.IntN(20) == 0 {
				check("SetWriteDeadline", c.SetWriteDeadline(d))
			}
		}
		time.Sleep(time.Duration(r.IntN(500)) * time.Microsecond)
	})
	loop(30, func(r *rand.Rand) {
		state := c.ConnectionState()
		info := c.Info()
		if state.HandshakeComplete && info.Version < state.Version {
			t.Errorf("Info has version %x after ConnectionState had %x", info.Version, state.Version)
		}
		secret, err := c.ExportKeyingMaterial("EXPERIMENTAL", []byte("context"), 32)
		if err == nil && len(secret) != 32 {
			t.Errorf("%d bytes of keying material", len(secret))
		}
		check("ExportKeyingMaterial", err)
		time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
	})
	loop(40, func(r *rand.Rand) {
		// The context outlives the handshake: it must not touch what follows.
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		check("Handshake", c.HandshakeContext(ctx))
		cancel()
		time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
	})
	wg.Go(func() {
		r := rand.New(rand.NewPCG(seed, 50))
		time.Sleep(time.Duration(r.IntN(25000)) * time.Microsecond)
		if r.IntN(2) == 0 {
			check("CloseWrite", c.CloseWrite())
			time.Sleep(time.Duration(r.IntN(1000)) * time.Microsecond)
		}
		var won atomic.Int64
		var closers sync.WaitGroup
		for range 3 {
			closers.Go(func() {
				start := time.Now()
				if err := c.Close(); err == nil {
					won.Add(1)
				} else if !errors.Is(err, net.ErrClosed) {
					t.Errorf("Close: %v", err)
				}
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("Close took %v", took)
				}
			})
		}
		closers.Wait()
		if won.Load() != 1 {
			t.Errorf("%d of 3 Closes succeeded", won.Load())
		}
		close(closed)
	})
	return &wg
}

// Every method at once on both ends, until both are closed.
func TestEverythingAtOnce(t *testing.T) {
	noLeaks(t)
	eachTransport(t, func(t *testing.T, f *fixture, transport func() (net.Conn, net.Conn)) {
		for range 8 {
			one, two := transport()
			client, server := f.over(t, one, two)
			a, b := hammer(t, client, rand.Uint64()), hammer(t, server, rand.Uint64())
			within(t, 10*time.Second, "the connection", func() { a.Wait(); b.Wait() })
		}
	})
}

// What arrives is what was sent, in both directions at once, however the
// transport cuts it up; truncation shows as such.
func TestBothDirections(t *testing.T) {
	noLeaks(t)
	eachTransport(t, func(t *testing.T, f *fixture, transport func() (net.Conn, net.Conn)) {
		one, two := transport()
		client, server := f.over(t, one, two)
		defer client.Close()
		defer server.Close()
		const size = 1 << 20
		var wg sync.WaitGroup
		for i, c := range []tlsapi.Conn{client, server} {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(1, uint64(i)))
				for sent := 0; sent < size; {
					p := make([]byte, min(1+r.IntN(70000), size-sent))
					for j := range p {
						p[j] = byte((sent + j) * (i + 3) >> 3)
					}
					n, err := c.Write(p)
					if !assert.NoError(t, err) || !assert.Equal(t, len(p), n) {
						return
					}
					sent += n
				}
			})
			wg.Go(func() {
				r := rand.New(rand.NewPCG(2, uint64(i)))
				peer := 1 - i
				for got := 0; got < size; {
					p := make([]byte, 1+r.IntN(50000))
					n, err := c.Read(p)
					if !assert.NoError(t, err) {
						return
					}
					for j := range p[:n] {
						if p[j] != byte((got+j)*(peer+3)>>3) {
							t.Errorf("byte %d is wrong", got+j)
							return
						}
					}
					got += n
				}
			})
		}
		within(t, 20*time.Second, "the transfer", wg.Wait)
		// Nobody reads the close_notify any more.
		one.Close()
		two.Close()
	})
}

// resident returns the memory of the process in bytes, native memory included;
// the test is skipped where the system does not tell.
func resident(t *testing.T) int {
	runtime.GC()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("this system does not tell how much memory a process has")
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	require.NoError(t, err)
	return pages * os.Getpagesize()
}

// connectionsFreed runs rounds of 100 pairs of connections until one leaves the
// memory of the process as it was: a leak shows in every round, while what
// allocators keep for later ends at some time. An object of a library has some
// 15 KiB at least.
func connectionsFreed(t *testing.T, round func()) {
	if instrumented {
		// Memory is not given back; leaks are the sanitizer's to find.
		round()
		return
	}
	const limit = 100 * 2 * 5 << 10
	round()
	before := resident(t)
	var grown []int
	for range 8 {
		round()
		now := resident(t)
		if now-before < limit {
			return
		}
		grown = append(grown, (now-before)>>10)
		before = now
	}
	t.Errorf("every round of 100 pairs has left memory behind: %d KiB", grown)
}

// Many short connections, half of them cut at a random byte of either
// direction, leave neither goroutines nor memory behind.
func TestQuickConnections(t *testing.T) {
	noLeaks(t)
	eachProvider(t, func(t *testing.T, f *fixture) {
		one := func(i int) {
			wire, serverWire := tlstest.Pipe()
			if i%2 == 0 {
				// A handshake takes about 2500 bytes.
				if at := rand.IntN(2500); i%4 == 0 {
					wire.CutAfter(at)
				} else {
					serverWire.CutAfter(at)
				}
			}
			client, server := f.over(t, wire, serverWire)
			var wg sync.WaitGroup
			wg.Go(func() {
				defer server.Close()
				_, err := io.Copy(server, server)
				if !acceptable(err) && !errors.Is(err, tlsapi.KindPeerAlert) {
					t.Errorf("server: %v", err)
				}
			})
			_, err := client.Write([]byte("hello"))
			if err == nil {
				_, err = io.ReadFull(client, make([]byte, 5))
			}
			if i%2 == 1 {
				require.NoError(t, err)
			} else if !acceptable(err) && !errors.Is(err, tlsapi.KindPeerAlert) {
				t.Errorf("client: %v", err)
			}
			require.NoError(t, client.Close())
			wg.Wait()
		}
		for i := range 300 {
			one(i)
		}
		connectionsFreed(t, func() {
			for i := range 100 {
				one(i)
			}
		})
	})
}

// Connections that nobody closes are freed when the runtime finds them, and
// counted; those that are closed are not.
func TestForgottenConnections(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		collect()
		before := tlsapi.ForgottenConnections()
		client, server, _, _ := f.connected(t, nil)
		require.NoError(t, client.Close())
		require.NoError(t, server.Close())
		pairs := uint64(0)
		defer func() {
			// The last ones may be on somebody's stack still.
			counted := tlsapi.ForgottenConnections() - before
			assert.LessOrEqual(t, counted, 2*pairs)
			assert.Greater(t, counted, 2*pairs-10)
		}()
		connectionsFreed(t, func() {
			pairs += 100
			for range 100 {
				wire, serverWire := tlstest.Pipe()
				client, server := f.over(t, wire, serverWire)
				done := make(chan error, 1)
				go func() { done <- server.Handshake() }()
				require.NoError(t, client.Handshake())
				require.NoError(t, <-done)
			}
			collect()
		})
	})
}

// collect lets the garbage collector find what is forgotten. Cleanups run some
// time after the collection.
func collect() {
	for range 3 {
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
}

// A peer that takes nothing costs a bounded amount of memory and holds up
// neither deadlines nor Close.
func TestStalledPeer(t *testing.T) {
	noLeaks(t)
	eachTransport(t, func(t *testing.T, f *fixture, transport func() (net.Conn, net.Conn)) {
		for _, way := range []string{"Close", "deadline"} {
			one, two := transport()
			client, server := f.over(t, one, two)
			done := make(chan error, 1)
			go func() { done <- server.Handshake() }()
			require.NoError(t, client.Handshake())
			require.NoError(t, <-done)

			data := make([]byte, 256<<20)
			before := resident(t)
			type outcome struct {
				n   int
				err error
			}
			write, read := make(chan outcome, 1), make(chan outcome, 1)
			go func() {
				n, err := client.Write(data)
				write <- outcome{n, err}
			}()
			go func() {
				n, err := client.Read(make([]byte, 10))
				read <- outcome{n, err}
			}()
			time.Sleep(50 * time.Millisecond)
			if grown := resident(t) - before; grown > 1<<20 && !instrumented {
				t.Errorf("a stalled Write has taken %d KiB", grown>>10)
			}
			switch way {
			case "Close":
				within(t, time.Second, "Close", func() { require.NoError(t, client.Close()) })
			case "deadline":
				require.NoError(t, client.SetDeadline(time.Now().Add(20*time.Millisecond)))
			}
			within(t, time.Second, "the Write", func() {
				w := <-write
				assert.Error(t, w.err)
				assert.Less(t, w.n, len(data))
			})
			within(t, time.Second, "the Read", func() { assert.Error(t, (<-read).err) })
			if way == "deadline" {
				within(t, time.Second, "Close", func() { require.NoError(t, client.Close()) })
			}
			require.NoError(t, server.Close())
		}
	})
}

// deaf is a transport that has no deadlines, and says so or does not.
type deaf struct {
	hooked
	says error
}

func (d *deaf) SetDeadline(time.Time) error      { return d.says }
func (d *deaf) SetReadDeadline(time.Time) error  { return d.says }
func (d *deaf) SetWriteDeadline(time.Time) error { return d.says }

// Without deadlines Close is prompt all the same. A Read that waits on the
// transport ends at once where the transport says that it has none, and with
// the tail at the latest.
func TestTransportWithoutDeadlines(t *testing.T) {
	t.Parallel()
	noLeaks(t)
	for says, limit := range map[error]time.Duration{errors.New("no deadlines here"): time.Second, nil: 6 * time.Second} {
		eachProvider(t, func(t *testing.T, f *fixture) {
			t.Parallel()
			d := &deaf{says: says}
			client, _, wire, _ := f.connected(t, func(c net.Conn) net.Conn { d.Conn = c; return d })
			reading := make(chan struct{})
			started := sync.OnceFunc(func() { close(reading) })
			wait := func(p []byte) (int, error) {
				// The first Read may be for the server's tickets.
				started()
				return wire.Read(p)
			}
			d.read.Store(&wait)
			read := make(chan error, 1)
			go func() {
				_, err := client.Read(make([]byte, 10))
				read <- err
			}()
			<-reading
			wire.SetCapacity(0)
			within(t, time.Second, "Close", func() { require.NoError(t, client.Close()) })
			within(t, limit, "the Read", func() { require.ErrorIs(t, <-read, net.ErrClosed) })
		})
	}
}

// Contexts are built once and shared, however many ask for them at once, and
// those that differ push each other out without harm to those in use.
func TestContextsUnderPressure(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 40 {
					own := *f
					own.client.ALPN = []string{"proto", fmt.Sprint("x", (i*j)%90)}
					own.server.ALPN = []string{"proto"}
					wire, serverWire := tlstest.Pipe()
					client, server := own.over(t, wire, serverWire)
					if j%8 == 0 {
						done := make(chan error, 1)
						go func() { done <- server.Handshake() }()
						assert.NoError(t, client.Handshake())
						assert.NoError(t, <-done)
						assert.Equal(t, "proto", client.Info().ALPN)
					}
					assert.NoError(t, client.Close())
					assert.NoError(t, server.Close())
				}
			})
		}
		wg.Wait()
	})
}
