package engine_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

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
			// The last ones may be on somebody's stack still. Cleanups run when the
			// runtime comes to them.
			assert.Eventually(t, func() bool {
				collect()
				return tlsapi.ForgottenConnections()-before+10 > 2*pairs
			}, time.Minute, time.Millisecond)
			assert.LessOrEqual(t, tlsapi.ForgottenConnections()-before, 2*pairs)
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
	leftover.Check(t)
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
