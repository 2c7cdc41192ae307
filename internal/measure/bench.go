package measure

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// bench is one sample in the making.
type bench struct {
	Measure
	ends     *Ends
	duration time.Duration
	maxOps   int

	negotiated negotiatedText
}

// Take measures once: for about the duration, but at most maxOps operations.
// maxOps below 1 means no such limit. What the subject cannot do matches
// errors.ErrUnsupported.
func (m Measure) Take(s Subject, f Fixtures, duration time.Duration, maxOps int) (Sample, error) {
	ends, err := s.Prepare(f, m.settings)
	if err != nil {
		return Sample{}, err
	}
	if maxOps < 1 {
		maxOps = 1 << 30
	}
	b := &bench{Measure: m, ends: ends, duration: duration, maxOps: maxOps}
	sample, err := m.run(b)
	if err != nil {
		return Sample{}, fmt.Errorf("%s: %w", m.Name, err)
	}
	if text := b.negotiated.Load(); text != nil {
		sample.Negotiated = *text
	}
	sample.Bytes = int64(sample.Ops) * int64(m.Size)
	if m.Unit == Round {
		sample.Bytes *= 2
	}
	sample.Threads = threads()
	return sample, sample.check(&m)
}

// timed finds out how many operations take the wanted time, which also warms
// everything up, and then measures that many.
func (b *bench) timed(run func(n int) error) (Sample, error) {
	n := min(b.Connections, b.maxOps)
	for {
		begin := time.Now()
		if err := run(n); err != nil {
			return Sample{}, err
		}
		took := time.Since(begin)
		if n >= b.maxOps {
			break
		}
		if took >= b.duration/10 {
			n = max(1, min(b.maxOps, int(float64(n)*float64(b.duration)/float64(took))))
			break
		}
		n = min(b.maxOps, n*min(10, 1+int(b.duration/8/max(took, 1))))
	}

	// Everybody begins with a clean heap: the garbage of the operations is
	// theirs, what was before is not.
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	calls, cpu, begin := runtime.NumCgoCall(), cpuTime(), time.Now()
	err := run(n)
	wall := time.Since(begin)
	cpu = cpuTime() - cpu
	calls = runtime.NumCgoCall() - calls
	runtime.ReadMemStats(&after)
	return Sample{
		Ops: n, Wall: wall, CPU: cpu, CgoCalls: calls,
		Allocs: after.Mallocs - before.Mallocs, AllocBytes: after.TotalAlloc - before.TotalAlloc,
	}, err
}

const (
	// longestRun is how long a measure goes on without letting the scheduler have
	// its goroutine: after 10 ms Go's monitor thread takes the processor from it in
	// the middle of a call of C, and then wakes every 20 µs to look for more of the
	// kind. That was a tenth of a handshake, and nothing that a program with a
	// network meets: there a connection waits sooner.
	longestRun = 4 * time.Millisecond
	// runCheckEvery is after how many operations the time is looked at.
	runCheckEvery = 8
)

// repeat runs n operations that never wait.
func repeat(n int, one func(i int) error) error {
	begin := time.Now()
	for i := range n {
		if err := one(i); err != nil {
			return err
		}
		if i%runCheckEvery == runCheckEvery-1 && time.Since(begin) > longestRun {
			runtime.Gosched()
			begin = time.Now()
		}
	}
	return nil
}

// handshakes measures connections that are made, closed and freed.
func handshakes(b *bench) (Sample, error) {
	if b.memory {
		return b.memoryHandshakes()
	}
	return b.timed(b.tcpHandshakes)
}

// checkEvery is how many connections there are to one whose negotiation is
// looked at: looking costs time that is not the handshake's.
const checkEvery = 64

func (b *bench) memoryHandshakes() (Sample, error) {
	t := newTurns()
	defer t.stop()
	there, back := &queue{}, &queue{}
	one := func(check, resumed bool) error {
		defer func() { there, back = there.successor(), back.successor() }()
		clientEnd, serverEnd := memoryPair(there, back)
		clientEnd.turn, serverEnd.turn = t.turn, t.yield
		return t.run(
			func() error { return b.clientHandshake(clientEnd, check, resumed) },
			func() error { return b.serverHandshake(serverEnd, check, resumed) })
	}
	if err := one(true, false); err != nil {
		return Sample{}, err
	}
	if b.settings.Resume {
		if err := one(true, true); err != nil {
			return Sample{}, err
		}
	}
	return b.timed(func(n int) error {
		return repeat(n, func(i int) error { return one(i%checkEvery == 0, b.settings.Resume) })
	})
}

// clientHandshake is a client from its beginning to its end. With tickets it
// reads one byte: they come before it.
func (b *bench) clientHandshake(transport net.Conn, check, resumed bool) error {
	c, err := b.ends.Client(transport)
	if err != nil {
		transport.Close()
		return err
	}
	err = c.Handshake()
	if err == nil && check {
		err = b.checkNegotiated(c, resumed)
	}
	if err == nil && b.settings.Resume {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	return errors.Join(err, c.Close())
}

func (b *bench) serverHandshake(transport net.Conn, check, resumed bool) error {
	s, err := b.ends.Server(transport)
	if err != nil {
		transport.Close()
		return err
	}
	err = s.Handshake()
	if err == nil && check {
		err = b.checkNegotiated(s, resumed)
	}
	if err == nil && b.settings.Resume {
		_, err = s.Write([]byte{1})
	}
	if err == nil && !b.memory {
		// The client closes first, and the close is part of the operation.
		if _, err = s.Read(make([]byte, 1)); err == io.EOF {
			err = nil
		}
	}
	// The peer may be gone already.
	_ = s.Close()
	return err
}

// tcpHandshakes makes n connections over TCP, as many at once as the measure
// says.
func (b *bench) tcpHandshakes(n int) error {
	// A listener of its own for every run: connections that have ended keep
	// their pair of ports for a minute.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	var failure firstError
	var servers, clients sync.WaitGroup
	servers.Go(func() {
		for i := range n {
			transport, err := listener.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					failure.set(err)
				}
				return
			}
			servers.Go(func() { failure.set(b.serverHandshake(transport, i%checkEvery == 0, false)) })
		}
	})
	var begun atomic.Int64
	for range min(b.Connections, n) {
		clients.Go(func() {
			for i := begun.Add(1); i <= int64(n) && failure.get() == nil; i = begun.Add(1) {
				transport, err := net.Dial("tcp", listener.Addr().String())
				if err == nil {
					err = b.clientHandshake(transport, i%checkEvery == 1, false)
				}
				failure.set(err)
			}
		})
	}
	clients.Wait()
	if failure.get() != nil {
		// Fewer came than are waited for.
		listener.Close()
	}
	servers.Wait()
	return failure.get()
}

// firstError keeps the first of many errors.
type firstError struct{ err atomic.Pointer[error] }

func (f *firstError) set(err error) {
	if err != nil {
		// A copy: the parameter's own address would put every nil on the heap.
		failure := err
		f.err.CompareAndSwap(nil, &failure)
	}
}

func (f *firstError) get() error {
	if err := f.err.Load(); err != nil {
		return *err
	}
	return nil
}

// memoryConnection is a connection whose two ends are used by turns, by one
// goroutine.
func (b *bench) memoryConnection() (client, server Conn, err error) {
	t := newTurns()
	defer t.stop()
	clientEnd, serverEnd := memoryPair(&queue{}, &queue{})
	clientEnd.turn, serverEnd.turn = t.turn, t.yield
	if client, err = b.ends.Client(clientEnd); err != nil {
		return nil, nil, err
	}
	if server, err = b.ends.Server(serverEnd); err != nil {
		client.Close()
		return nil, nil, err
	}
	closing := func(c Conn) error {
		err := c.Handshake()
		if err != nil {
			c.Close()
		}
		return err
	}
	err = t.run(func() error { return closing(client) }, func() error { return closing(server) })
	clientEnd.turn, serverEnd.turn = nil, nil
	if err == nil {
		err = errors.Join(b.checkNegotiated(client, false), b.checkNegotiated(server, false))
	}
	if err != nil {
		client.Close()
		server.Close()
		return nil, nil, err
	}
	return client, server, nil
}

// memoryWrites measures writes in memory: this end writes, the other reads.
func memoryWrites(b *bench) (Sample, error) {
	c, s, err := b.memoryConnection()
	if err != nil {
		return Sample{}, err
	}
	defer c.Close()
	defer s.Close()
	data, got := make([]byte, b.Size), make([]byte, b.Size)
	one := func() error {
		if _, err := c.Write(data); err != nil {
			return err
		}
		_, err := io.ReadFull(s, got)
		return err
	}
	if err := checkCopy(data, got, one); err != nil {
		return Sample{}, err
	}
	return b.timed(func(n int) error { return repeat(n, func(int) error { return one() }) })
}

// memoryPingPong measures small messages in memory.
func memoryPingPong(b *bench) (Sample, error) {
	c, s, err := b.memoryConnection()
	if err != nil {
		return Sample{}, err
	}
	defer c.Close()
	defer s.Close()
	data, got := make([]byte, b.Size), make([]byte, b.Size)
	one := func() error { return exchange(c, s, data, got) }
	if err := checkCopy(data, got, one); err != nil {
		return Sample{}, err
	}
	return b.timed(func(n int) error { return repeat(n, func(int) error { return one() }) })
}

// checkCopy runs an operation that copies data to got with random data, some
// times over, and compares digests.
func checkCopy(data, got []byte, one func() error) error {
	sent, received := sha256.New(), sha256.New()
	for range 16 {
		if _, err := rand.Read(data); err != nil {
			return err
		}
		if err := one(); err != nil {
			return err
		}
		sent.Write(data)
		received.Write(got)
	}
	if string(sent.Sum(nil)) != string(received.Sum(nil)) {
		return errors.New("the data that arrived is not what was sent")
	}
	return nil
}

// tcpConnections makes the measure's connections over TCP; closeAll ends them.
func (b *bench) tcpConnections(n int) (clients, servers []Conn, closeAll func(), err error) {
	if need := 2*n + 64; need > fileLimit() {
		return nil, nil, nil, fmt.Errorf("%d connections need %d open files, and the limit is %d (ulimit -n): %w", n, need, fileLimit(), errors.ErrUnsupported)
	}
	clients, servers = make([]Conn, n), make([]Conn, n)
	closeAll = func() {
		for _, c := range append(clients, servers...) {
			if c != nil {
				c.Close()
			}
		}
	}
	var failure firstError
	var made atomic.Int64
	var makers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		makers.Go(func() {
			for i := made.Add(1) - 1; i < int64(n) && failure.get() == nil; i = made.Add(1) - 1 {
				var err error
				clients[i], servers[i], err = b.tcpConnection()
				failure.set(err)
			}
		})
	}
	makers.Wait()
	err = failure.get()
	if err == nil {
		err = errors.Join(b.checkNegotiated(clients[0], false), b.checkNegotiated(servers[0], false))
	}
	if err != nil {
		closeAll()
		return nil, nil, nil, err
	}
	return clients, servers, closeAll, nil
}

// tcpConnection makes one connection and runs its handshake.
func (b *bench) tcpConnection() (client, server Conn, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	here, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	there, err := listener.Accept()
	if err != nil {
		here.Close()
		return nil, nil, err
	}
	client, server, err = b.connected(here, there)
	if err != nil {
		here.Close()
		there.Close()
		return nil, nil, err
	}
	return client, server, nil
}

// readSize is what readers offer: several records.
const readSize = 64 * kibi

// writes measures writes over TCP, on one connection or many; every connection
// has a goroutine that writes and one that reads.
func writes(b *bench) (Sample, error) {
	clients, servers, closeAll, err := b.tcpConnections(b.Connections)
	if err != nil {
		return Sample{}, err
	}
	if err := b.checkTransfer(clients[0], servers[0]); err != nil {
		closeAll()
		return Sample{}, err
	}

	var failure firstError
	var received, wanted atomic.Int64
	arrived := make(chan struct{}, 1)
	var readers sync.WaitGroup
	for _, s := range servers {
		readers.Go(func() {
			buf := make([]byte, readSize)
			for {
				n, err := s.Read(buf)
				if received.Add(int64(n)) == wanted.Load() || err != nil {
					select {
					case arrived <- struct{}{}:
					default:
					}
				}
				if err != nil {
					if err != io.EOF {
						failure.set(err)
					}
					return
				}
			}
		})
	}
	defer readers.Wait()
	defer closeAll()

	data := make([]byte, b.Size)
	return b.timed(func(n int) error {
		wanted.Add(int64(n) * int64(b.Size))
		var begun atomic.Int64
		var writers sync.WaitGroup
		for _, c := range clients[:min(len(clients), n)] {
			writers.Go(func() {
				for begun.Add(1) <= int64(n) && failure.get() == nil {
					_, err := c.Write(data)
					failure.set(err)
				}
			})
		}
		writers.Wait()
		for received.Load() != wanted.Load() && failure.get() == nil {
			<-arrived
		}
		return failure.get()
	})
}

// checkTransfer sends random data through a connection, in writes of the
// measure's size, and compares digests.
func (b *bench) checkTransfer(from, to Conn) error {
	data := make([]byte, max(1<<20/b.Size, 1)*b.Size)
	if _, err := rand.Read(data); err != nil {
		return err
	}
	written := make(chan error, 1)
	go func() {
		for rest := data; len(rest) > 0; rest = rest[b.Size:] {
			if _, err := from.Write(rest[:b.Size]); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	digest := sha256.New()
	_, err := io.CopyN(digest, to, int64(len(data)))
	if err != nil {
		return err
	}
	if err := <-written; err != nil {
		return err
	}
	if want := sha256.Sum256(data); [sha256.Size]byte(digest.Sum(nil)) != want {
		return errors.New("the data that arrived is not what was sent")
	}
	return nil
}

// pingPong measures small messages over TCP.
func pingPong(b *bench) (Sample, error) {
	clients, servers, closeAll, err := b.tcpConnections(1)
	if err != nil {
		return Sample{}, err
	}
	c, s := clients[0], servers[0]
	var echoing sync.WaitGroup
	echoing.Go(func() {
		buf := make([]byte, b.Size)
		for {
			// The client meets the error that ends this as one of its own.
			if _, err := io.ReadFull(s, buf); err != nil {
				s.Close()
				return
			}
			if _, err := s.Write(buf); err != nil {
				s.Close()
				return
			}
		}
	})
	defer echoing.Wait()
	defer closeAll()
	data, got := make([]byte, b.Size), make([]byte, b.Size)
	one := func() error {
		if _, err := c.Write(data); err != nil {
			return err
		}
		_, err := io.ReadFull(c, got)
		return err
	}
	if err := checkCopy(data, got, one); err != nil {
		return Sample{}, err
	}
	return b.timed(func(n int) error { return repeat(n, func(int) error { return one() }) })
}

func goVersion() string { return strings.TrimPrefix(runtime.Version(), "go") }
