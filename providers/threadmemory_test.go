package providers_test

import (
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/nativememory"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

const (
	// threadMemory is what native memory there is at most for each thread, as long
	// as it lives, and Go ends none: 1 KiB of the C library's; for OpenSSL two
	// random number generators (4.9 KiB) and the error state (0.9); for s2n-tls
	// its own two generators, one of its libcrypto's and the error state (5);
	// for BoringSSL 0.8 KiB of the same kinds.
	threadMemory = 8 << 10
	// arenaMemory is what glibc takes for the arena that a new thread may get.
	arenaMemory = 2304

	// threadMemoryOf is set for the process that counts: to the provider.
	threadMemoryOf = "POLYTLS_THREAD_MEMORY_OF"
)

// TestThreadMemory counts the native memory that stays for each thread that has
// run handshakes. What a soak may leave behind rests on that.
func TestThreadMemory(t *testing.T) {
	needsNativeMemory(t)
	eachNamed(t, "", func(t *testing.T, p tlsapi.Provider) {
		if os.Getenv(threadMemoryOf) == p.Name() {
			countThreadMemory(t, p)
			return
		}
		command := exec.Command(os.Args[0], "-test.run=^TestThreadMemory$/^"+p.Name()+"$", "-test.v")
		command.Env = append(os.Environ(), nativememory.Exact+":glibc.malloc.arena_max=1", threadMemoryOf+"="+p.Name())
		output, err := command.CombinedOutput()
		require.NoError(t, err, "%s", output)
		t.Logf("%s", output)
	})
}

func countThreadMemory(t *testing.T, p tlsapi.Provider) {
	client, server := pairConfigs(t)
	oneConnection(t, p, client, server)
	before, threads := takeStock(t), threadsOf(t)
	var all, running sync.WaitGroup
	running.Add(40)
	for range 40 {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			// As many threads as there are of these.
			running.Done()
			running.Wait()
			oneConnection(t, p, client, server)
		})
	}
	all.Wait()
	after, more := takeStock(t), threadsOf(t)-threads
	require.GreaterOrEqual(t, more, 30)
	each := (int(after.native) - int(before.native)) / more
	t.Logf("%s: %d bytes for each of %d threads", p.Name(), each, more)
	assert.LessOrEqual(t, each, threadMemory)
}

// oneConnection echoes one message, the client on the caller's thread and the
// server on one of its own.
func oneConnection(t *testing.T, p tlsapi.Provider, clientConfig *tlsapi.ClientConfig, serverConfig *tlsapi.ServerConfig) {
	one, two := tlstest.Pipe()
	client, server := ends(t, p, one, two, clientConfig, serverConfig)
	var served sync.WaitGroup
	served.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		assert.NoError(t, echo(server))
	})
	assert.NoError(t, roundTrip(client))
	assert.NoError(t, client.Close())
	served.Wait()
	assert.NoError(t, server.Close())
}
