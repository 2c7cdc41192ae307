package providers_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/internal/nativememory"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

const (
	// leakVariable is how many connections TestLeaks makes with every provider.
	leakVariable = "POLYTLS_LEAK_CONNECTIONS"
	// leakProvider is set for the process that makes them: to the provider.
	leakProvider = "POLYTLS_LEAK_PROVIDER"
)

// Many connections, half of which fail at random points, leave nothing behind:
// no native memory, no memory of Go's, no descriptors and no goroutines. Every
// provider has a process of its own, in which nothing else allocates.
func TestLeaks(t *testing.T) {
	needsNativeMemory(t)
	only := os.Getenv(leakProvider)
	for _, p := range providers.All() {
		t.Run(p.Name(), func(t *testing.T) {
			if err := p.Available(); err != nil {
				t.Skipf("%s: %v", p.Name(), err)
			}
			switch only {
			case p.Name():
				findLeaks(t, p)
			case "":
				command := exec.Command(os.Args[0], "-test.run=^TestLeaks$/^"+p.Name()+"$", "-test.v", "-test.timeout=30m")
				command.Env = append(os.Environ(), nativememory.Exact, leakProvider+"="+p.Name())
				output, err := command.CombinedOutput()
				require.NoError(t, err, "%s", output)
				t.Logf("%s", output)
			}
		})
	}
}

// needsNativeMemory skips a test that counts native memory where that says nothing.
func needsNativeMemory(t *testing.T) {
	t.Helper()
	if instrumented {
		t.Skip("memory is not what it would be; AddressSanitizer looks for leaks itself")
	}
	if _, ok := nativememory.Allocated(); !ok {
		t.Skip("nobody counts native memory here")
	}
}

// findLeaks compares what there is after a tenth of the connections, at least
// 400, with what there is at the end.
func findLeaks(t *testing.T, p tlsapi.Provider) {
	leftover.Check(t)
	count := fromEnvironment(t, leakVariable, 1000)
	f := newFaulty(t, p)
	begin := min(max(400, count/10), count/2)
	f.connect(t, begin)
	before := takeStock(t)
	f.connect(t, count-begin)
	var after stock
	// A leak stays, while what is only late to be given back goes.
	for range 20 {
		if after = takeStock(t); after.within(before) {
			break
		}
		time.Sleep(500 * time.Millisecond)
	}
	t.Logf("after %d connections: %v; after %d: %v; %d succeeded, %d failed", begin, before, count, after, f.succeeded, f.failed)
	assert.True(t, after.within(before), "%v after %d connections, %v after %d", before, begin, after, count)
	assert.InDelta(t, count/2, f.failed, 10, "connections that failed")
}

// stock is what a process has taken, in bytes and in numbers.
type stock struct {
	native, heap uint64
	descriptors  int
}

func (s stock) String() string {
	return fmt.Sprintf("%d KiB of native memory, %d KiB of Go's, %d descriptors", s.native>>10, s.heap>>10, s.descriptors)
}

// stockNoise is what the memory may differ by: a few of the buffers that
// connections share.
const stockNoise = 512 << 10

func (s stock) within(before stock) bool {
	return s.native <= before.native+stockNoise && s.heap <= before.heap+stockNoise && s.descriptors <= before.descriptors
}

func takeStock(t *testing.T) stock {
	t.Helper()
	for range 3 {
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
	var s stock
	s.native, _ = nativememory.Allocated()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	s.heap = memory.HeapAlloc
	descriptors, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	s.descriptors = len(descriptors)
	return s
}

// faulty makes connections, half of which fail.
type faulty struct {
	provider          tlsapi.Provider
	client, stranger  *tlsapi.ClientConfig
	server            *tlsapi.ServerConfig
	unix, tcp         net.Listener
	mu                sync.Mutex
	succeeded, failed int
	faults            int // how many connections were to fail
}

func newFaulty(t *testing.T, p tlsapi.Provider) *faulty {
	f := &faulty{provider: p}
	f.client, f.server = pairConfigs(t)
	f.client.MaxBlindingDelay, f.server.MaxBlindingDelay = -1, -1
	f.client.SessionCache = tlsapi.NewLRUSessionCache(16)
	f.stranger, _ = pairConfigs(t)
	f.stranger.MaxBlindingDelay = -1
	dir, err := os.MkdirTemp("", "leaks")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	f.unix, err = net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	t.Cleanup(func() { f.unix.Close() })
	f.tcp, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { f.tcp.Close() })
	return f
}

// connect makes so many connections, some at a time, and returns when nothing of
// them runs any more.
func (f *faulty) connect(t *testing.T, count int) {
	const atOnce = 4
	var workers sync.WaitGroup
	next := make(chan int)
	for range atOnce {
		workers.Go(func() {
			for i := range next {
				succeeded := f.one(t, i, f.nextFault())
				f.mu.Lock()
				if succeeded {
					f.succeeded++
				} else {
					f.failed++
				}
				f.mu.Unlock()
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	workers.Wait()
}

// nextFault returns how the next connection is to fail, or nothing, so that half of
// all fail: some faults come too late for their connection.
func (f *faulty) nextFault() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed > f.succeeded {
		return ""
	}
	f.faults++
	return faults[f.faults%len(faults)]
}

// faults are the ways in which connections fail.
var faults = []string{
	"cut", "cut", "cut", "changed", "changed", "wrong certificate", "refused by a hook", "canceled", "timed out",
	"closed before the handshake", "closed in the handshake", "closed in a Write", "garbage", "write deadline",
}

// one makes a connection and says whether all of it succeeded.
func (f *faulty) one(t *testing.T, i int, fault string) bool {
	one, two := f.transports(t, i, fault)
	config := f.client
	switch fault {
	case "wrong certificate":
		config = f.stranger
	case "refused by a hook":
		refusing := *f.client
		refusing.VerifyConnection = func(tls.ConnectionState) error { return errors.New("refused") }
		config = &refusing
	}
	client, server := ends(t, f.provider, one, two, config, f.server)
	if fault == "closed before the handshake" {
		client.Close()
	}
	served := make(chan error, 1)
	go func() {
		_, err := io.Copy(server, server)
		served <- errors.Join(err, server.Close())
	}()
	err := use(client, fault)
	client.Close()
	err = errors.Join(err, <-served)
	if fault == "" {
		assert.NoError(t, err)
	}
	return err == nil
}

// use is what the client does: it sends and gets back the same.
func use(client tlsapi.Conn, fault string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	soon := time.Duration(rand.IntN(2000)) * time.Microsecond
	switch fault {
	case "canceled":
		defer time.AfterFunc(soon/2, cancel).Stop()
	case "timed out":
		_ = client.SetDeadline(time.Now().Add(soon))
	case "write deadline":
		_ = client.SetWriteDeadline(time.Now().Add(soon))
	case "closed in the handshake":
		defer time.AfterFunc(soon, func() { client.Close() }).Stop()
	}
	if err := client.HandshakeContext(ctx); err != nil {
		return err
	}
	if fault == "closed in a Write" {
		defer time.AfterFunc(soon, func() { client.Close() }).Stop()
	}
	size := rand.IntN(30_000)
	if fault != "" {
		// So that the fault comes before the end.
		size = 1 << 20
	}
	var read sync.WaitGroup
	var readErr error
	read.Go(func() { _, readErr = io.CopyN(io.Discard, client, int64(size)) })
	_, err := client.Write(make([]byte, size))
	if err != nil {
		client.Close()
	}
	read.Wait()
	return errors.Join(err, readErr)
}

// transports returns the two ends of a socket, or of a transport in memory for
// what sockets do not do.
func (f *faulty) transports(t *testing.T, i int, fault string) (one, two net.Conn) {
	t.Helper()
	switch fault {
	case "cut", "changed", "garbage":
		client, server := tlstest.Pipe()
		wire := client
		if rand.IntN(2) == 0 {
			wire = server
		}
		// A handshake takes about 2500 bytes.
		at := rand.IntN(3000)
		if rand.IntN(3) == 0 {
			at = rand.IntN(500_000)
		}
		switch fault {
		case "cut":
			wire.CutAfter(at)
		case "changed":
			seen := 0
			wire.Tamper(func(p []byte) {
				if seen <= at && at < seen+len(p) {
					p[at-seen] ^= 1
				}
				seen += len(p)
			})
			// A changed length lets both ends wait for each other.
			wire.EndWhenIdle(50 * time.Millisecond)
		case "garbage":
			_, err := wire.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			require.NoError(t, err)
		}
		return client, server
	}
	listener := f.unix
	if i%8 < 2 {
		listener = f.tcp
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	one, err := net.Dial(listener.Addr().Network(), listener.Addr().String())
	require.NoError(t, err)
	two, err = listener.Accept()
	require.NoError(t, err)
	return one, two
}
