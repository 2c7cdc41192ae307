package providers_test

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math"
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
	"github.com/polytls/polytls/tlstest"
)

// soakRole is set for the two processes that soak a provider: "clients" or
// "server". One process could not have the descriptors of both.
const soakRole = "POLYTLS_SOAK_ROLE"

// TestSoak holds many connections open with echoes, makes many handshakes, half
// of them resumed, and moves much data both ways, at the size of POLYTLS_SOAK.
// Clients and server of a provider have a process each, in which nothing else
// allocates.
func TestSoak(t *testing.T) {
	eachNamed(t, "", func(t *testing.T, p tlsapi.Provider) {
		switch os.Getenv(soakRole) {
		case "clients":
			newSoak(t, p).run()
		case "server":
			serveSoak(t, p)
		default:
			output, err := soakProcess(p, "clients").CombinedOutput()
			require.NoError(t, err, "%s", output)
			t.Logf("%s", output)
		}
	})
}

func soakProcess(p tlsapi.Provider, role string) *exec.Cmd {
	command := exec.Command(os.Args[0], "-test.run=^TestSoak$/^"+p.Name()+"$", "-test.v", "-test.timeout=0")
	command.Env = append(os.Environ(), nativememory.Exact, soakRole+"="+role)
	return command
}

// account is what a process has at a time.
type account struct {
	Native, Heap            uint64
	Descriptors, Goroutines int
	// Threads are those of now, MostThreads the most that there were.
	Threads, MostThreads int
}

func (a account) String() string {
	return fmt.Sprintf("%d KiB of native memory, %d KiB of Go's, %d descriptors, %d goroutines, %d threads",
		a.Native>>10, a.Heap>>10, a.Descriptors, a.Goroutines, a.Threads)
}

// threadsWatch knows the most threads that the process has had.
type threadsWatch struct {
	*testing.T
	most    atomic.Int64
	stop    chan struct{}
	watched sync.WaitGroup
}

func watchThreads(t *testing.T) *threadsWatch {
	w := &threadsWatch{T: t, stop: make(chan struct{})}
	w.watched.Go(func() {
		for {
			w.most.Store(max(w.most.Load(), int64(threadsOf(t))))
			select {
			case <-w.stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() {
		close(w.stop)
		w.watched.Wait()
	})
	return w
}

func (w *threadsWatch) account() account {
	stock := takeStock(w.T)
	return account{stock.native, stock.heap, stock.descriptors, runtime.NumGoroutine(), threadsOf(w.T), int(w.most.Load())}
}

// What the server's process says and is asked, over two pipes.
type (
	soakGreeting struct {
		Address string
		CA      []byte // its certificate in PEM
	}
	soakQuestion struct {
		// Resident asks for the resident memory alone.
		Resident bool
	}
	soakAnswer struct {
		Account  account
		Resident int
	}
)

const questionsDescriptor, answersDescriptor = 3, 4

// serveSoak echoes on every connection, and answers what it is asked until the
// questions end.
func serveSoak(t *testing.T, p tlsapi.Provider) {
	leftover.Check(t)
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	config := &tlsapi.ServerConfig{Certificates: []tls.Certificate{ca.Leaf(t, tlstest.Spec{CommonName: soakHost, DNSNames: []string{soakHost}})}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	threads := watchThreads(t)
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				conn, err := p.Server(c, config)
				if err != nil {
					t.Error(err)
					c.Close()
					return
				}
				defer conn.Close()
				if err := echo(conn); err != nil {
					t.Errorf("the server: %v", err)
				}
			})
		}
	})
	require.NoError(t, syscall.SetNonblock(questionsDescriptor, true), "or a thread waits for questions")
	questions := json.NewDecoder(os.NewFile(questionsDescriptor, "questions"))
	answers := json.NewEncoder(os.NewFile(answersDescriptor, "answers"))
	require.NoError(t, answers.Encode(soakGreeting{listener.Addr().String(), ca.PEM()}))
	for {
		var question soakQuestion
		if err := questions.Decode(&question); err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
		var answer soakAnswer
		if question.Resident {
			answer.Resident = flatResident(t)
		} else {
			answer.Account = threads.account()
		}
		require.NoError(t, answers.Encode(answer))
	}
	require.NoError(t, listener.Close())
	served.Wait()
}

// echo sends back what comes. Its memory, which stands for thousands of
// connections, is little until there is much to send.
func echo(conn net.Conn) error {
	buf := make([]byte, 4<<10)
	for {
		n, err := conn.Read(buf)
		if _, err := conn.Write(buf[:n]); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n == len(buf) && n < 64<<10 {
			buf = make([]byte, 2*n)
		}
	}
}

// flatResident returns the memory of the process, without what Go would give back
// to the system at its leisure.
func flatResident(t *testing.T) int {
	debug.FreeOSMemory()
	return resident(t)
}

const soakHost = "server.example"

// soak is a provider's clients, and what they know of the server's process.
type soak struct {
	*testing.T
	size      float64
	provider  tlsapi.Provider
	client    *tlsapi.ClientConfig
	address   string
	threads   *threadsWatch
	questions *json.Encoder
	answers   *json.Decoder
	// end ends the server's process, which says whether all was well.
	end func() error
}

func newSoak(t *testing.T, p tlsapi.Provider) *soak {
	leftover.Check(t)
	questions, ask, err := os.Pipe()
	require.NoError(t, err)
	answers, answer, err := os.Pipe()
	require.NoError(t, err)
	server := soakProcess(p, "server")
	server.Stdout, server.Stderr, server.ExtraFiles = os.Stdout, os.Stderr, []*os.File{questions, answer}
	require.NoError(t, server.Start())
	s := &soak{T: t, size: soakScale(t), provider: p, questions: json.NewEncoder(ask), answers: json.NewDecoder(answers)}
	s.end = sync.OnceValue(func() error {
		ask.Close()
		// It waits for connections, of which a test that has failed may leave some.
		defer time.AfterFunc(time.Minute, func() { _ = server.Process.Kill() }).Stop()
		defer answers.Close()
		return server.Wait()
	})
	t.Cleanup(func() { _ = s.end() })
	questions.Close()
	answer.Close()
	var greeting soakGreeting
	// What the test binary prints first has a pipe of its own.
	require.NoError(t, s.answers.Decode(&greeting))
	s.address = greeting.Address
	s.client = &tlsapi.ClientConfig{ServerName: soakHost, RootCAs: tlsapi.NewCertPool()}
	require.NoError(t, s.client.RootCAs.AddPEM(greeting.CA))
	s.threads = watchThreads(t)
	return s
}

func (s *soak) ask(question soakQuestion) (answer soakAnswer) {
	require.NoError(s, s.questions.Encode(question))
	require.NoError(s, s.answers.Decode(&answer))
	return answer
}

// both is something of the clients' process and of the server's.
type both[T any] struct{ clients, server T }

func (s *soak) accounts() both[account] {
	return both[account]{s.threads.account(), s.ask(soakQuestion{}).Account}
}

func (s *soak) resident() both[int] {
	return both[int]{flatResident(s.T), s.ask(soakQuestion{Resident: true}).Resident}
}

// grown returns by how much the resident memory is more than before, in KiB.
func (s *soak) grown(before both[int]) both[int] {
	now := s.resident()
	return both[int]{(now.clients - before.clients) >> 10, (now.server - before.server) >> 10}
}

// settled waits until the processes have no more than so many goroutines,
// descriptors and so much native memory, or do not come to it.
func (s *soak) settled(most both[account]) (now both[account]) {
	for range 40 {
		now = s.accounts()
		if now.clients.within(most.clients) && now.server.within(most.server) {
			break
		}
		time.Sleep(250 * time.Millisecond)
	}
	return now
}

func (a account) within(most account) bool {
	return a.Goroutines <= most.Goroutines && a.Descriptors <= most.Descriptors && a.Native <= most.allowed(a.Threads)
}

// allowed is the native memory that there may be at the end, with so many threads.
func (a account) allowed(threads int) uint64 {
	return a.Native + 64<<10 + uint64(max(0, threads-a.Threads))*(threadMemory+arenaMemory)
}

// dial makes a client with a session cache.
func (s *soak) dial(cache tlsapi.SessionCache) (tlsapi.Conn, error) {
	c, err := net.Dial("tcp", s.address)
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

// at returns a number of the full size at the size of this run.
func (s *soak) at(full, least int) int { return max(least, int(float64(full)*s.size)) }

func (s *soak) run() {
	open, handshakes := withDescriptors(s.T, s.at(10000, 20), 1), s.at(200000, 60)
	// As it is before the first connection, but for memory: what stays for good is
	// there after a tenth of everything.
	begin := s.accounts()
	begin.clients.Native, begin.server.Native = math.MaxUint64/2, math.MaxUint64/2
	s.hold(open, 0)
	s.handshakes(s.at(20000, 60))
	s.move(int64(float64(2<<30) * s.size))
	base := s.settled(begin)

	started := time.Now()
	grownHeld := s.hold(open, time.Duration(s.size*float64(2*time.Minute)))
	held := time.Since(started)
	started = time.Now()
	resumed, grownHandshakes := s.handshakes(handshakes)
	handshaken := time.Since(started)
	started = time.Now()
	moved, grownMoved := s.move(int64(float64(20<<30) * s.size))
	movedIn := time.Since(started)
	after := s.settled(base)

	s.Logf("%s: %d connections at once, echoes, in %v; %d handshakes, %d resumed, in %v; %d MiB each way in %v; resident memory grew meanwhile "+
		"by %d, %d and %d KiB at the clients, %d, %d and %d KiB at the server",
		s.provider.Name(), open, held.Round(time.Second), handshakes, resumed, handshaken.Round(time.Second), moved>>20, movedIn.Round(time.Second),
		grownHeld.clients, grownHandshakes.clients, grownMoved.clients, grownHeld.server, grownHandshakes.server, grownMoved.server)
	assert.Equal(s, handshakes/2, resumed, "half of the handshakes are resumed")
	flat := s.flat(grownHeld, grownHandshakes, grownMoved)
	s.compare("clients", base.clients, after.clients, flat.clients)
	s.compare("server", base.server, after.server, flat.server)
	require.NoError(s, s.end(), "the server")
}

// flat returns the most that the resident memory has grown by.
func (s *soak) flat(grown ...both[int]) (most both[int]) {
	for _, g := range grown {
		most = both[int]{max(most.clients, g.clients), max(most.server, g.server)}
	}
	return most
}

// compare looks at what one process has at the end.
func (s *soak) compare(who string, base, after account, grown int) {
	s.Logf("%s, %s: %v before, %v after; at most %d threads on %d processors", s.provider.Name(), who, base, after, after.MostThreads, runtime.GOMAXPROCS(0))
	assert.LessOrEqual(s, after.Goroutines, base.Goroutines, "%s: goroutines", who)
	assert.LessOrEqual(s, after.Descriptors, base.Descriptors, "%s: descriptors", who)
	if instrumented || s.size < 0.01 {
		return
	}
	assert.LessOrEqual(s, after.Native, base.allowed(after.Threads), "%s: native memory", who)
	assert.LessOrEqual(s, after.Heap, base.Heap+stockNoise, "%s: memory of Go's", who)
	assert.Less(s, grown, 16<<10, "%s: resident memory is flat, in KiB", who)
	if s.size >= 1 {
		// Other load makes threads: what a short run has says little. Go ends no
		// threads, so this is also how many there are at the end.
		assert.LessOrEqual(s, after.MostThreads, runtime.GOMAXPROCS(0)+8, "%s: threads", who)
	}
}

// inParallel runs f so many times, some at once, and returns the first error.
func inParallel(count int, f func(i int) error) error {
	var all sync.WaitGroup
	var next atomic.Int64
	// Few enough that their own calls of the system make few threads.
	failed := make(chan error, max(4, 2*runtime.GOMAXPROCS(0)))
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
func (s *soak) hold(open int, length time.Duration) (grown both[int]) {
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
	grown = s.grown(before)
	require.NoError(s, inParallel(open, func(i int) error { return conns[i].Close() }))
	return grown
}

// handshakes makes connections, every second of them with the session of the one
// before. The memory is that since a tenth of them.
func (s *soak) handshakes(count int) (resumed int, grown both[int]) {
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
	return int(done.Load()), s.grown(before)
}

// move sends so many bytes each way over one connection, in Writes of random
// sizes, and compares their digest. The memory is that since a tenth of them.
func (s *soak) move(total int64) (moved int64, grown both[int]) {
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
	grown = s.grown(before)
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
