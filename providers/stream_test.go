package providers_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// streamChecks is how many random connections every pair of providers gets;
// -rapid.checks asks for more.
const streamChecks = 40

// TestStreams compares what arrives with what was sent, for random operations of
// both users of a connection over a transport that cuts up, delays, changes and
// breaks. What arrives is always a beginning of what was sent, and nothing comes
// behind an error; io.EOF comes only behind all of it, when the writer has ended
// its data; and a transport that only delays brings all of it.
func TestStreams(t *testing.T) {
	leftover.Check(t)
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		require.NoError(t, f.Value.Set(fmt.Sprint(streamChecks)))
		defer func() { require.NoError(t, f.Value.Set(f.DefValue)) }()
	}
	clientConfig, serverConfig := pairConfigs(t)
	// A user who has failed would be waited for.
	clientConfig.MaxBlindingDelay, serverConfig.MaxBlindingDelay = -1, -1
	for _, client := range providers.All() {
		for _, server := range providers.All() {
			t.Run(client.Name()+" to "+server.Name(), func(t *testing.T) {
				if err := errors.Join(client.Available(), server.Available()); err != nil {
					t.Skipf("%v", err)
				}
				rapid.Check(t, func(rt *rapid.T) {
					l := drawLink(rt)
					defer l.close()
					c, err := client.Client(l.client, clientConfig)
					require.NoError(rt, err)
					s, err := server.Server(l.server, serverConfig)
					require.NoError(rt, err)
					checkStreams(rt, l, c, s)
				})
			})
		}
	}
}

// checkStreams lets users with random plans have the two ends of a connection.
func checkStreams(rt *rapid.T, l *link, client, server tlsapi.Conn) {
	a, b := drawUser(rt, "client", client, l.most), drawUser(rt, "server", server, l.most)
	a.peer, b.peer = b, a
	a.tcp, b.tcp = l.tcp, l.tcp
	// Otherwise the first Reads and Writes begin it.
	handshakes := rapid.Bool().Draw(rt, "Handshake is called")

	var goroutines atomic.Pointer[string]
	var watchdog uptime.Timer
	watchdog.Start(30*time.Second, func() {
		var dump bytes.Buffer
		_ = pprof.Lookup("goroutine").WriteTo(&dump, 2)
		text := dump.String()
		goroutines.Store(&text)
		l.wires[0].Break(errors.New("the connection hung"))
	})
	defer watchdog.Stop()
	var group sync.WaitGroup
	for _, u := range []*user{a, b} {
		group.Go(func() {
			if handshakes {
				_ = u.conn.Handshake()
			}
			u.writeFault = u.writing()
			u.writeFault = errors.Join(u.writeFault, u.ending())
		})
		group.Go(func() {
			u.readFault = u.reading()
			u.doneReading.Store(true)
		})
	}
	group.Wait()
	if hung := goroutines.Load(); hung != nil {
		rt.Fatalf("the connection hung:\n%s", *hung)
	}
	for _, u := range []*user{a, b} {
		require.NoError(rt, u.writeFault)
		require.NoError(rt, u.readFault)
		require.ErrorIs(rt, u.conn.Close(), net.ErrClosed)
	}
	a.compare(rt, l)
	b.compare(rt, l)
}

// user has one end of a connection: it writes and reads at the same time.
type user struct {
	conn          tlsapi.Conn
	peer          *user
	seed          byte
	writes, reads []operation
	end           string
	tcp           bool

	// sent is what was given to Write, lastFailed the size of the last one when
	// it failed; ended says that none did, and the end of the data came behind.
	sent       []byte
	lastFailed int
	ended      bool
	received   []byte
	readErr    error
	// writeFault and readFault are what a method should not have returned.
	writeFault, readFault error

	// What the other user and its own other goroutine look at: how much was
	// given to Write and how much was read, and whether that can change.
	total, got                       atomic.Int64
	failed, doneWriting, doneReading atomic.Bool
}

// operation is one call of a user.
type operation struct {
	kind string
	size int
}

func (o operation) String() string { return fmt.Sprintf("%s %d", o.kind, o.size) }

func drawUser(rt *rapid.T, name string, conn tlsapi.Conn, most int) *user {
	return &user{
		conn: conn, seed: name[0],
		writes: drawOperations(rt, name+"'s writes", most, "write", "write", "write", "write", "write", "wait", "write deadline", "no write deadline"),
		reads:  drawOperations(rt, name+"'s reads", most, "read", "read", "read", "read", "read", "wait", "read deadline", "no read deadline", "nothing", "stop"),
		end:    rapid.SampledFrom([]string{"wait for the other", "wait for the other", "CloseWrite", "Close"}).Draw(rt, name+"'s end"),
	}
}

// drawOperations draws some of the kinds, which repeat by how often they are to
// come, with sizes up to most.
func drawOperations(rt *rapid.T, name string, most int, kinds ...string) []operation {
	return rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) operation {
		return operation{
			kind: rapid.SampledFrom(kinds).Draw(rt, "kind"),
			size: min(most, rapid.OneOf(rapid.IntRange(0, 40), rapid.IntRange(16380, 16390), rapid.IntRange(0, most)).Draw(rt, "size")),
		}
	}), 1, 8).Draw(rt, name)
}

// writing does the writes until one fails.
func (u *user) writing() error {
	defer u.doneWriting.Store(true)
	sleeps := maxSleeps
	for _, o := range u.writes {
		switch o.kind {
		case "wait":
			sleep(&sleeps, o)
		case "write deadline":
			_ = u.conn.SetWriteDeadline(time.Now().Add(time.Duration(o.size%8000) * time.Microsecond))
		case "no write deadline":
			_ = u.conn.SetWriteDeadline(time.Time{})
		case "write":
			p := make([]byte, o.size)
			for i := range p {
				at := len(u.sent) + i
				p[i] = byte(at)*7 + byte(at>>8) + u.seed
			}
			u.sent = append(u.sent, p...)
			u.total.Store(int64(len(u.sent)))
			n, err := u.conn.Write(p)
			if n < 0 || n > len(p) || (n == len(p)) != (err == nil) && len(p) > 0 {
				return fmt.Errorf("a Write of %d bytes returned %d, %v", len(p), n, err)
			}
			clear(p) // It belongs to the caller again.
			if err == nil {
				continue
			}
			u.lastFailed = len(p)
			u.failed.Store(true)
			for range 2 {
				if n, again := u.conn.Write([]byte("after an error")); n != 0 || again == nil {
					return fmt.Errorf("a Write after %v returned %d, %v", err, n, again)
				}
			}
			return nil
		}
	}
	return nil
}

// ending ends the connection as planned.
func (u *user) ending() error {
	var fault error
	if u.end == "CloseWrite" && !u.failed.Load() {
		// Where it is refused, for good or before the handshake, nothing has changed.
		if err := u.conn.CloseWrite(); !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, tlsapi.KindProtocol) {
			u.ended = err == nil
			u.failed.Store(err != nil)
			if n, err := u.conn.Write([]byte("x")); n != 0 || err == nil {
				fault = fmt.Errorf("a Write after CloseWrite returned %d, %v", n, err)
			}
			if err == nil {
				wait(u.doneReading.Load)
			}
		}
	}
	if u.end != "Close" || u.failed.Load() {
		// Both have all that they can get.
		wait(func() bool { return u.hasAll() && u.peer.hasAll() })
	}
	// What comes to a TCP socket after its Close resets the connection, and that
	// destroys what the other end has not read yet.
	quiet := !u.tcp || u.doneReading.Load() || u.hasAll() && u.peer.end != "CloseWrite"
	complete := u.conn.ConnectionState().HandshakeComplete
	err := u.conn.Close()
	u.ended = u.ended || err == nil && quiet && complete && !u.failed.Load()
	if n, err := u.conn.Write([]byte("x")); n != 0 || !errors.Is(err, net.ErrClosed) {
		fault = errors.Join(fault, fmt.Errorf("a Write after Close returned %d, %v", n, err))
	}
	return fault
}

// hasAll reports whether nothing is to come any more.
func (u *user) hasAll() bool {
	if u.doneReading.Load() {
		return true
	}
	return u.peer.doneWriting.Load() && (u.peer.failed.Load() || u.got.Load() == u.peer.total.Load())
}

// reading reads in the sizes of the plan, again and again, until there is an
// error that is no passed deadline.
func (u *user) reading() error {
	sleeps := maxSleeps
	for i, late := 0, false; ; i++ {
		o := u.reads[i%len(u.reads)]
		if late {
			// What follows a passed deadline has none: the reader gets on.
			o.kind = "read"
		}
		p := make([]byte, o.size+1)
		switch o.kind {
		case "wait":
			sleep(&sleeps, o)
		case "read deadline":
			_ = u.conn.SetReadDeadline(time.Now().Add(time.Duration(o.size%2000) * time.Microsecond))
		case "no read deadline":
			_ = u.conn.SetReadDeadline(time.Time{})
		case "nothing":
			if n, err := u.conn.Read(nil); n != 0 || u.got.Load() > 0 && err != nil && !errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("a Read of nothing returned %d, %v", n, err)
			}
		case "stop":
			if i < 2*len(u.reads) {
				break
			}
			if err := u.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, tlsapi.KindTransport) {
				return fmt.Errorf("a reader's Close: %w", err)
			}
		}
		n, err := u.conn.Read(p)
		if n < 0 || n > len(p) || n > 0 && err != nil || n == 0 && err == nil {
			return fmt.Errorf("a Read of %d bytes returned %d, %v", len(p), n, err)
		}
		u.received = append(u.received, p[:n]...)
		u.got.Store(int64(len(u.received)))
		switch {
		case err == nil:
			late = false
		case errors.Is(err, os.ErrDeadlineExceeded) && !late:
			_ = u.conn.SetReadDeadline(time.Time{})
			late = true
		default:
			u.readErr = err
			for range 2 {
				if n, again := u.conn.Read(make([]byte, 10)); n != 0 || again == nil {
					return fmt.Errorf("a Read after %v returned %d, %v", err, n, again)
				}
			}
			return nil
		}
	}
}

// maxSleeps bounds how often a user waits: a plan of waits and small Reads would
// take minutes.
const maxSleeps = 10

func sleep(left *int, o operation) {
	if *left--; *left >= 0 {
		time.Sleep(time.Duration(o.size%2000) * time.Microsecond)
	}
}

// wait returns when what the other goroutines do has come to it.
func wait(condition func() bool) {
	for !condition() {
		time.Sleep(200 * time.Microsecond)
	}
}

// compare compares what the user has read with what the other has sent.
func (u *user) compare(rt *rapid.T, l *link) {
	sent := u.peer.sent
	require.True(rt, bytes.HasPrefix(sent, u.received), "%d bytes arrived that are no beginning of the %d that were sent", len(u.received), len(sent))
	if u.readErr == io.EOF {
		// A Write that failed may have sent nothing, and the other have closed.
		whole := len(u.received) == len(sent) || len(u.received) == len(sent)-u.peer.lastFailed
		require.True(rt, whole, "the end of the data after %d bytes of %d", len(u.received), len(sent))
	}
	if l.changes || l.cuts {
		return
	}
	var e *tlsapi.Error
	if errors.As(u.readErr, &e) {
		require.Contains(rt, []tlsapi.Kind{tlsapi.KindClosed, tlsapi.KindTransport, tlsapi.KindTimeout}, e.Kind, "%v", u.readErr)
	}
	if u.peer.ended && !errors.Is(u.readErr, tlsapi.KindClosed) && !errors.Is(u.readErr, os.ErrDeadlineExceeded) {
		require.Equal(rt, io.EOF, u.readErr)
		require.Len(rt, u.received, len(sent))
	}
}

// link is a transport with trouble.
type link struct {
	client, server net.Conn
	wires          [2]*tlstest.Transport
	// most is the size of Writes and Reads that it carries in reasonable time.
	most int
	// changes and cuts say that data is changed or lost.
	changes, cuts bool
	tcp           bool
	pumps         sync.WaitGroup
	stops         []func()
}

// drawLink makes a transport in memory, or TCP through one.
func drawLink(rt *rapid.T) *link {
	l := &link{most: 70 << 10}
	chunks, capacities := rapid.OneOf(rapid.Just(0), rapid.IntRange(1000, 20_000)), rapid.IntRange(3000, 40_000)
	if rapid.Bool().Draw(rt, "in small pieces") {
		l.most = 2000
		chunks, capacities = rapid.IntRange(1, 50), rapid.OneOf(rapid.IntRange(100, 300), rapid.IntRange(300, 4000))
	}
	l.wires[0], l.wires[1] = tlstest.Pipe()
	l.client, l.server = l.wires[0], l.wires[1]
	for _, wire := range l.wires {
		wire.SetChunk(chunks.Draw(rt, "chunk"))
		wire.SetCapacity(rapid.OneOf(rapid.Just(1<<20), capacities).Draw(rt, "capacity"))
	}
	wire := l.wires[rapid.IntRange(0, 1).Draw(rt, "direction")]
	// The handshake is within the first 3000 bytes.
	at := rapid.OneOf(rapid.IntRange(0, 3000), rapid.IntRange(0, 150_000))
	switch rapid.SampledFrom([]string{"none", "none", "cut", "change", "delay", "delay"}).Draw(rt, "trouble") {
	case "cut":
		wire.CutAfter(at.Draw(rt, "at"))
		l.cuts = true
	case "change":
		at, seen := at.Draw(rt, "at"), 0
		wire.Tamper(func(p []byte) {
			if seen <= at && at < seen+len(p) {
				p[at-seen] ^= 1
			}
			seen += len(p)
		})
		l.changes = true
		// A changed length lets both ends wait for each other.
		for _, wire := range l.wires {
			l.stops = append(l.stops, wire.EndWhenIdle(300*time.Millisecond))
		}
	case "delay":
		sizes := rapid.SliceOfN(rapid.IntRange(1, 5000), 1, 20).Draw(rt, "pieces")
		pause := time.Duration(rapid.IntRange(0, 1000).Draw(rt, "pause")) * time.Microsecond
		wire.Hold()
		l.pumps.Go(func() {
			for _, size := range sizes {
				wire.Release(size)
				time.Sleep(pause)
			}
			wire.Release(-1)
		})
	}
	if l.tcp = rapid.Bool().Draw(rt, "TCP"); l.tcp {
		var one, two net.Conn
		l.client, one = loopback(rt)
		l.server, two = loopback(rt)
		l.pump(one, l.wires[0])
		l.pump(two, l.wires[1])
	}
	return l
}

// pump passes on what comes from a socket and to it.
func (l *link) pump(socket net.Conn, wire *tlstest.Transport) {
	l.pumps.Go(func() {
		_, _ = io.Copy(wire, socket)
		// A reset would destroy what the other direction still carries.
		_, _ = io.Copy(io.Discard, socket)
		wire.Close()
	})
	l.pumps.Go(func() {
		_, _ = io.Copy(socket, wire)
		_ = socket.(*net.TCPConn).CloseWrite()
	})
	l.stops = append(l.stops, func() { socket.Close() })
}

func (l *link) close() {
	for _, stop := range l.stops {
		stop()
	}
	l.client.Close()
	l.server.Close()
	for _, wire := range l.wires {
		wire.Close()
	}
	l.pumps.Wait()
}

func loopback(rt *rapid.T) (one, two net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(rt, err)
	defer l.Close()
	one, err = net.Dial("tcp", l.Addr().String())
	require.NoError(rt, err)
	two, err = l.Accept()
	require.NoError(rt, err)
	return one, two
}
