package providers_test

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/internal/nativememory"
	"github.com/polytls/polytls/tlsapi"
)

// soakProvider is set for the process that soaks a provider, to its name.
const soakProvider = "POLYTLS_SOAK_PROVIDER"

// TestSoak holds many connections open with echoes, makes many handshakes, half
// of them resumed, and moves much data both ways, at the size of POLYTLS_SOAK.
// Every provider has a process of its own, in which nothing else allocates.
func TestSoak(t *testing.T) {
	only := os.Getenv(soakProvider)
	eachNamed(t, "", func(t *testing.T, p tlsapi.Provider) {
		switch only {
		case p.Name():
			newSoak(t, p).run()
		case "":
			command := exec.Command(os.Args[0], "-test.run=^TestSoak$/^"+p.Name()+"$", "-test.v", "-test.timeout=0")
			command.Env = append(os.Environ(), nativememory.Exact, soakProvider+"="+p.Name())
			output, err := command.CombinedOutput()
			require.NoError(t, err, "%s", output)
			t.Logf("%s", output)
		}
	})
}

// threadMemory is what a library may keep of native memory for a thread that has
// come since.
const threadMemory = 12 << 10

// soak is a provider's server and its clients, in one process.
type soak struct {
	*testing.T
	size     float64
	provider tlsapi.Provider
	client   *tlsapi.ClientConfig
	listener net.Listener
	served   sync.WaitGroup
	threads  atomic.Int64 // the most that there were
}

func newSoak(t *testing.T, p tlsapi.Provider) *soak {
	leftover.Check(t)
	s := &soak{T: t, size: soakScale(t), provider: p}
	var server *tlsapi.ServerConfig
	s.client, server = pairConfigs(t)
	var err error
	s.listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.served.Go(func() {
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.served.Go(func() {
				conn, err := p.Server(c, server)
				if err != nil {
					t.Error(err)
					c.Close()
					return
				}
				defer conn.Close()
				// Little memory of the test's own stands for thousands of
				// connections.
				if _, err := io.CopyBuffer(conn, conn, make([]byte, 4<<10)); err != nil {
					t.Errorf("the server: %v", err)
				}
			})
		}
	})
	return s
}

// dial makes a client with a session cache.
func (s *soak) dial(cache tlsapi.SessionCache) (tlsapi.Conn, error) {
	c, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		return nil, err
	}
	config := *s.client
	config.SessionCache = cache
	client, err := s.provider.Client(c, &config)
	if err != nil {
		c.Close()
	}
	return client, err
}

// use makes a connection, sends one message through it, and says whether it was
// resumed.
func (s *soak) use(cache tlsapi.SessionCache) (resumed bool, err error) {
	c, err := s.dial(cache)
	if err != nil {
		return false, err
	}
	defer c.Close()
	if err := roundTrip(c); err != nil {
		return false, err
	}
	return c.ConnectionState().DidResume, c.Close()
}

// resident returns the memory of the process, without what Go would give back to
// the system at its leisure.
func (s *soak) resident() int {
	debug.FreeOSMemory()
	return resident(s.T)
}

// at returns a number of the full size at the size of this run.
func (s *soak) at(full, least int) int { return max(least, int(float64(full)*s.size)) }

func (s *soak) run() {
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			s.threads.Store(max(s.threads.Load(), int64(threadsOf(s.T))))
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	open, handshakes := withDescriptors(s.T, s.at(10000, 20), 2), s.at(200000, 60)
	// Warm up with a tenth of everything, so that what stays for good is there.
	s.hold(open, 0)
	s.handshakes(s.at(20000, 60))
	s.move(int64(float64(2<<30) * s.size))
	base, goroutines, threads := takeStock(s.T), runtime.NumGoroutine(), threadsOf(s.T)

	begin := time.Now()
	grownHeld := s.hold(open, time.Duration(s.size*float64(2*time.Minute)))
	held := time.Since(begin)
	begin = time.Now()
	resumed, grownHandshakes := s.handshakes(handshakes)
	handshaken := time.Since(begin)
	begin = time.Now()
	moved, grownMoved := s.move(int64(float64(20<<30) * s.size))
	movedIn := time.Since(begin)

	require.NoError(s, s.listener.Close())
	s.served.Wait()
	var after stock
	var allowed uint64
	for range 40 {
		// The libraries keep errors and random numbers for each thread.
		allowed = base.native + 64<<10 + uint64(max(0, threadsOf(s.T)-threads))*threadMemory
		if after = takeStock(s.T); after.native <= allowed && runtime.NumGoroutine() <= goroutines && after.descriptors <= base.descriptors {
			break
		}
		time.Sleep(250 * time.Millisecond)
	}
	close(stop)
	watching.Wait()
	left := threadsOf(s.T)
	s.Logf("%s: %d connections at once, echoes, in %v: resident memory grew by %d KiB; %d handshakes, %d resumed, in %v: by %d KiB; "+
		"%d MiB each way in %v: by %d KiB; %v and %d threads before, %v after; at most %d threads, %d at the end, %d processors",
		s.provider.Name(), open, held.Round(time.Second), grownHeld>>10, handshakes, resumed, handshaken.Round(time.Second), grownHandshakes>>10,
		moved>>20, movedIn.Round(time.Second), grownMoved>>10, base, threads, after, s.threads.Load(), left, runtime.GOMAXPROCS(0))
	assert.Equal(s, handshakes/2, resumed, "half of the handshakes are resumed")
	assert.LessOrEqual(s, runtime.NumGoroutine(), goroutines, "goroutines")
	assert.LessOrEqual(s, after.descriptors, base.descriptors, "descriptors")
	if instrumented || s.size < 0.01 {
		return
	}
	assert.LessOrEqual(s, after.native, allowed, "native memory")
	assert.LessOrEqual(s, after.heap, base.heap+stockNoise, "memory of Go's")
	for what, grown := range map[string]int{"echoes": grownHeld, "handshakes": grownHandshakes, "data": grownMoved} {
		assert.Less(s, grown, 16<<20, "resident memory is flat under %s", what)
	}
	if s.size >= 1 {
		// Other load makes threads: what a short run has says little.
		assert.LessOrEqual(s, int(s.threads.Load()), runtime.GOMAXPROCS(0)+8, "threads")
	}
}

// inParallel runs f so many times, some at once, and returns the first error.
func inParallel(count int, f func(i int) error) error {
	var all sync.WaitGroup
	var next atomic.Int64
	failed := make(chan error, 8)
	for range cap(failed) {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(count); i = next.Add(1) - 1 {
				if err := f(int(i)); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(failed)
	return <-failed
}

// hold opens connections, echoes over them for so long, and closes them. It
// returns by how much the resident memory has grown meanwhile.
func (s *soak) hold(open int, length time.Duration) (grown int) {
	conns := make([]tlsapi.Conn, open)
	require.NoError(s, inParallel(open, func(i int) (err error) {
		if conns[i], err = s.dial(nil); err == nil {
			err = roundTrip(conns[i])
		}
		return err
	}))
	// Once over all of them, so that all have what they need for data.
	echo := func(i int) error { return roundTrip(conns[i]) }
	require.NoError(s, inParallel(open, echo))
	before := s.resident()
	for end := time.Now().Add(length); time.Now().Before(end); {
		require.NoError(s, inParallel(open, echo))
	}
	grown = s.resident() - before
	require.NoError(s, inParallel(open, func(i int) error { return conns[i].Close() }))
	return grown
}

// handshakes makes connections, every second of them with the session of the one
// before. The memory is that since a tenth of them.
func (s *soak) handshakes(count int) (resumed, grown int) {
	var done atomic.Int64
	pairs := func(n int) {
		require.NoError(s, inParallel(n, func(int) error {
			cache := tlsapi.NewLRUSessionCache(0)
			if _, err := s.use(cache); err != nil {
				return err
			}
			again, err := s.use(cache)
			if again {
				done.Add(1)
			}
			return err
		}))
	}
	pairs(count / 20)
	before := s.resident()
	pairs(count/2 - count/20)
	return int(done.Load()), s.resident() - before
}

// move sends so many bytes each way over one connection, in Writes of random
// sizes, and compares their digest. The memory is that since a tenth of them.
func (s *soak) move(total int64) (moved int64, grown int) {
	c, err := s.dial(nil)
	require.NoError(s, err)
	block := make([]byte, 4<<20)
	seed := rand.NewChaCha8([32]byte{byte(total)})
	_, _ = seed.Read(block)
	sent, received := sha256.New(), sha256.New()
	done := make(chan error, 1)
	var got atomic.Int64
	go func() {
		buf := make([]byte, 1<<20)
		for {
			n, err := c.Read(buf)
			received.Write(buf[:n])
			got.Add(int64(n))
			if err != nil {
				done <- err
				return
			}
		}
	}()
	write := func() {
		size := 1 + rand.IntN(200_000)
		at := rand.IntN(len(block) - size)
		_, err := c.Write(block[at : at+size])
		require.NoError(s, err)
		sent.Write(block[at : at+size])
		moved += int64(size)
	}
	for moved < total/10 {
		write()
	}
	before := s.resident()
	for moved < total {
		write()
	}
	for got.Load() < moved {
		select {
		case err := <-done:
			require.NoError(s, err, "after %d of %d bytes", got.Load(), moved)
		case <-time.After(time.Millisecond):
		}
	}
	grown = s.resident() - before
	require.NoError(s, c.Close())
	assert.ErrorIs(s, <-done, tlsapi.KindClosed)
	assert.Equal(s, sent.Sum(nil), received.Sum(nil), "the digests of what was sent and of what came back")
	return moved, grown
}

// threadsOf returns how many threads the process has.
func threadsOf(t *testing.T) int {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "Threads:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			require.NoError(t, err)
			return n
		}
	}
	return 0
}

// withDescriptors lets the process have need descriptors for each of count
// things, or returns how many things it may have where the system refuses.
func withDescriptors(t *testing.T, count, need int) int {
	t.Helper()
	const others = 100
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	wanted := syscall.Rlimit{Cur: uint64(count*need + others)}
	wanted.Max = max(limit.Max, wanted.Cur)
	if limit.Cur >= wanted.Cur || syscall.Setrlimit(syscall.RLIMIT_NOFILE, &wanted) == nil {
		return count
	}
	possible := (int(limit.Cur) - others) / need
	t.Logf("this process may have %d descriptors: %d instead of %d", limit.Cur, possible, count)
	return possible
}

// percentile returns the value below which so many percent of the values lie. It
// sorts them.
func percentile(values []time.Duration, percent int) time.Duration {
	slices.Sort(values)
	return values[min(len(values)-1, len(values)*percent/100)]
}
