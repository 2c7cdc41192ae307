package providers_test

import (
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/linger"
	"github.com/polytls/polytls/providers"
)

// hangingCache does not come back from Put before it is released.
type hangingCache struct {
	once           sync.Once
	begun, release chan struct{}
}

func (*hangingCache) Get(string) []byte { return nil }

func (c *hangingCache) Put(string, []byte) {
	c.once.Do(func() { close(c.begun) })
	<-c.release
}

// A SessionCache that hangs in a Read keeps that Read, and not the descriptor of a
// connection that was closed.
func TestCloseDuringAHangingPut(t *testing.T) {
	if testing.Short() {
		t.Skip("the transport may stay open for 5 s")
	}
	for _, p := range providers.All() {
		t.Run(p.Name(), func(t *testing.T) {
			t.Parallel()
			if err := p.Available(); err != nil {
				t.Skipf("%s: %v", p.Name(), err)
			}
			one, two := netConnTransports["TCP"](t)
			clientConfig, serverConfig := pairConfigs(t)
			cache := &hangingCache{begun: make(chan struct{}), release: make(chan struct{})}
			clientConfig.SessionCache = cache
			client, server := handshaken(t, p, one, two, clientConfig, serverConfig)
			defer server.Close()
			read := make(chan struct{})
			go func() {
				defer close(read)
				_, _ = client.Read(make([]byte, 10))
			}()
			_, err := server.Write([]byte("with the tickets"))
			require.NoError(t, err)
			within(t, time.Minute, "Put", func() { <-cache.begun })
			// Unread input: what was written last could be lost if the transport was
			// closed at once.
			_, err = two.Write([]byte("unread"))
			require.NoError(t, err)
			raw, err := one.(syscall.Conn).SyscallConn()
			require.NoError(t, err)
			within(t, time.Minute, "the input", func() {
				for linger.Look(one) != linger.Waiting {
					time.Sleep(time.Millisecond)
				}
			})
			within(t, time.Minute, "Close", func() { require.NoError(t, client.Close()) })
			within(t, time.Minute, "the close of the descriptor", func() {
				for raw.Control(func(uintptr) {}) == nil {
					time.Sleep(10 * time.Millisecond)
				}
			})
			close(cache.release)
			<-read
		})
	}
}
