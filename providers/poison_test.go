package providers_test

import (
	"io"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/internal/poison"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlstest"
)

// poisonedVariable is how many connections TestPoisonedErrorQueues makes with
// every native provider.
const poisonedVariable = "POLYTLS_POISONED_CONNECTIONS"

// Goroutines that leave errors in the library's error queues of all threads,
// without pause, break no connection: a step looks at its own errors only.
func TestPoisonedErrorQueues(t *testing.T) {
	leftover.Check(t)
	count := fromEnvironment(t, poisonedVariable, 200)
	clientConfig, serverConfig := pairConfigs(t)
	for _, p := range providers.All() {
		if p.Name() == "std" {
			continue // It has no error queue.
		}
		t.Run(p.Name(), func(t *testing.T) {
			if err := p.Available(); err != nil {
				t.Skipf("%s: %v", p.Name(), err)
			}
			require.True(t, poison.Queue(p.Name()), "the library's error queue cannot be reached")
			var stop atomic.Bool
			var poisoners, workers sync.WaitGroup
			for range runtime.GOMAXPROCS(0) {
				poisoners.Go(func() {
					for !stop.Load() {
						for range 100 {
							poison.Queue(p.Name())
						}
						runtime.Gosched()
					}
				})
			}
			var left, broken atomic.Int64
			left.Store(int64(count))
			for range 4 {
				workers.Go(func() {
					for left.Add(-1) >= 0 {
						one, two := tlstest.Pipe()
						client, server := ends(t, p, one, two, clientConfig, serverConfig)
						served := make(chan error, 1)
						go func() {
							_, err := io.Copy(server, server)
							served <- err
						}()
						_, err := client.Write(make([]byte, 20_000))
						if err == nil {
							_, err = io.ReadFull(client, make([]byte, 20_000))
						}
						_ = client.Close()
						serverErr := <-served
						_ = server.Close()
						if err != nil || serverErr != nil {
							broken.Add(1)
							t.Logf("client: %v; server: %v", err, serverErr)
						}
					}
				})
			}
			workers.Wait()
			stop.Store(true)
			poisoners.Wait()
			require.Zero(t, broken.Load(), "of %d connections", count)
		})
	}
}

// fromEnvironment returns the number in an environment variable, or another one
// when it is not set.
func fromEnvironment(t *testing.T, name string, otherwise int) int {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		return otherwise
	}
	n, err := strconv.Atoi(value)
	require.NoError(t, err, "%s", name)
	return n
}
