package providers_test

import (
	"context"
	"errors"
	"io"
	"maps"
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

	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// eachTransport runs the test with every provider over TCP and Unix sockets, over
// net.Pipe, which has no buffer at all, and over a transport in memory.
func eachTransport(t *testing.T, test func(t *testing.T, p tlsapi.Provider, transport func() (net.Conn, net.Conn))) {
	transports := maps.Clone(netConnTransports)
	transports["memory"] = func(*testing.T) (net.Conn, net.Conn) {
		one, two := tlstest.Pipe()
		one.SetChunk(1 + rand.IntN(3000))
		two.SetChunk(1 + rand.IntN(3000))
		one.SetCapacity(1 + rand.IntN(60000))
		return one, two
	}
	for _, p := range providers.All() {
		for name, transport := range transports {
			t.Run(p.Name()+"/"+name, func(t *testing.T) {
				if err := p.Available(); err != nil {
					t.Skipf("%s: %v", p.Name(), err)
				}
				test(t, p, func() (net.Conn, net.Conn) { return transport(t) })
			})
		}
	}
}

// ends returns the two ends of a connection before the handshake.
func ends(t testing.TB, p tlsapi.Provider, one, two net.Conn, client *tlsapi.ClientConfig, server *tlsapi.ServerConfig) (c, s tlsapi.Conn) {
	t.Helper()
	c, err := p.Client(one, client)
	require.NoError(t, err)
	s, err = p.Server(two, server)
	require.NoError(t, err)
	return c, s
}

// within fails the test when f takes longer.
func within(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	if _, ok := uptime.Receive(done, limit); !ok {
		t.Errorf("%s took longer than %v", what, limit)
		<-done
	}
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
				within(t, 2*time.Second, "Close", func() {
					if err := c.Close(); err == nil {
						won.Add(1)
					} else if !errors.Is(err, net.ErrClosed) {
						t.Errorf("Close: %v", err)
					}
				})
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
	leftover.Check(t)
	clientConfig, serverConfig := pairConfigs(t)
	eachTransport(t, func(t *testing.T, p tlsapi.Provider, transport func() (net.Conn, net.Conn)) {
		for range 5 {
			one, two := transport()
			client, server := ends(t, p, one, two, clientConfig, serverConfig)
			a, b := hammer(t, client, rand.Uint64()), hammer(t, server, rand.Uint64())
			within(t, 10*time.Second, "the connection", func() { a.Wait(); b.Wait() })
		}
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

// A peer that takes nothing costs a bounded amount of memory and holds up
// neither deadlines nor Close.
func TestStalledPeer(t *testing.T) {
	leftover.Check(t)
	clientConfig, serverConfig := pairConfigs(t)
	eachTransport(t, func(t *testing.T, p tlsapi.Provider, transport func() (net.Conn, net.Conn)) {
		for _, way := range []string{"Close", "deadline"} {
			one, two := transport()
			client, server := handshaken(t, p, one, two, clientConfig, serverConfig)

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
