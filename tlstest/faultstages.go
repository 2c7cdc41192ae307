package tlstest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// handshakeEnd is a way to end a handshake that waits for the network.
type handshakeEnd struct {
	name string
	kind tlsapi.Kind
	// settings prepares the configuration, begin the connection; the handshake
	// gets the context that begin returns.
	settings func(*tlsapi.Settings)
	begin    func(conn tlsapi.Conn, limit time.Duration) (ctx context.Context, stop func())
	// closes says that the transport is closed before Close.
	closes bool
}

func nothingToStop() {}

var handshakeEnds = []handshakeEnd{
	{name: "a deadline", kind: tlsapi.KindTimeout, begin: func(conn tlsapi.Conn, limit time.Duration) (context.Context, func()) {
		_ = conn.SetDeadline(time.Now().Add(limit))
		return context.Background(), nothingToStop
	}},
	{name: "a deadline that is set meanwhile", kind: tlsapi.KindTimeout, begin: func(conn tlsapi.Conn, limit time.Duration) (context.Context, func()) {
		timer := time.AfterFunc(limit, func() { _ = conn.SetDeadline(time.Now()) })
		return context.Background(), func() { timer.Stop() }
	}},
	{name: "a context that is canceled", kind: tlsapi.KindCanceled, closes: true, begin: func(_ tlsapi.Conn, limit time.Duration) (context.Context, func()) {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(limit, cancel)
		return ctx, cancel
	}},
	{name: "a context's deadline", kind: tlsapi.KindTimeout, closes: true, begin: func(_ tlsapi.Conn, limit time.Duration) (context.Context, func()) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		return ctx, cancel
	}},
	{
		name: "HandshakeTimeout", kind: tlsapi.KindTimeout, closes: true,
		settings: func(s *tlsapi.Settings) { s.HandshakeTimeout = stallLimit },
		begin:    func(tlsapi.Conn, time.Duration) (context.Context, func()) { return context.Background(), nothingToStop },
	},
	{name: "Close", kind: tlsapi.KindClosed, closes: true, begin: func(conn tlsapi.Conn, limit time.Duration) (context.Context, func()) {
		timer := time.AfterFunc(limit, func() { _ = conn.Close() })
		return context.Background(), func() { timer.Stop() }
	}},
}

// stallLimit is how long a stalled handshake waits until it is ended.
const stallLimit = 30 * time.Millisecond

// testStallingTransport lets the transport stall in the middle of the handshake,
// in one direction or the other: whatever ends the wait ends it at every stage.
func (s *suite) testStallingTransport(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		whole := s.unconnected(t, r, version)
		whole.mustHandshake(t)
		totals := map[string]int{"received": len(whole.peerWire.Written()), "sent": len(whole.connWire.Written())}
		step := sampled(331)
		var all sync.WaitGroup
		places := make(chan struct{}, 64)
		for direction, total := range totals {
			for n := 0; n < total; n += step {
				for _, way := range handshakeEnds {
					if way.settings != nil && !s.supported(r.feature("handshake-timeout")) {
						continue
					}
					places <- struct{}{}
					all.Go(func() {
						defer func() { <-places }()
						when := fmt.Sprintf("%s, stalled after %d of %d bytes %s", way.name, n, total, direction)
						s.stalledHandshake(t, r, version, direction, n, way, when)
					})
				}
			}
		}
		all.Wait()
	})
}

func (s *suite) stalledHandshake(t *testing.T, r role, version uint16, direction string, n int, way handshakeEnd, when string) {
	f := &faultyTransport{read: -1, write: -1}
	if direction == "sent" {
		f.stall(n)
	}
	var change []func(*tlsapi.Settings)
	if way.settings != nil {
		change = append(change, way.settings)
	}
	d, end := s.pairOver(t, r, version, f, change...)
	if d == nil {
		return
	}
	defer end()
	if direction == "received" {
		d.peerWire.Hold()
		d.peerWire.Release(n)
	}
	go func() { _ = d.peer.Handshake() }()
	ctx, stop := way.begin(d.conn, stallLimit)
	defer stop()
	err := d.conn.HandshakeContext(ctx)
	if err == nil {
		return // what is held are tickets, or the handshake was shorter
	}
	var e *tlsapi.Error
	if assert.ErrorAs(t, err, &e, when) {
		assert.Equal(t, way.kind, e.Kind, "%s: %v", when, err)
	}
	if way.closes {
		_, closed := uptime.Receive(d.connWire.Closed(), promptly)
		assert.True(t, closed, "the transport stays open: %s", when)
	}
	begin := time.Now()
	if err := d.conn.Close(); way.kind == tlsapi.KindClosed {
		assert.ErrorIs(t, err, net.ErrClosed, when)
	} else {
		assert.NoError(t, err, when)
	}
	assertClosedSince(t, d.connWire, begin, when)
}

// stall lets writes block for good once n bytes have passed: as of a peer that
// takes no more.
func (f *faultyTransport) stall(n int) {
	f.sink, _ = Pipe()
	f.sink.SetCapacity(1)
	_, _ = f.sink.Write([]byte{0})
	f.write = n
}

func (f *faultyTransport) SetDeadline(at time.Time) error {
	if f.sink != nil {
		_ = f.sink.SetDeadline(at)
	}
	return f.Conn.SetDeadline(at)
}

func (f *faultyTransport) SetWriteDeadline(at time.Time) error {
	if f.sink != nil {
		_ = f.sink.SetWriteDeadline(at)
	}
	return f.Conn.SetWriteDeadline(at)
}

func (f *faultyTransport) Close() error {
	if f.sink != nil {
		_ = f.sink.Close()
	}
	return f.Conn.Close()
}

// testSockets cuts and resets TCP connections at the bytes of a handshake and
// behind it. Libraries are driven by a socket's descriptor: what the transports
// in memory show is another path.
func (s *suite) testSockets(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		whole := s.unconnected(t, r, version)
		whole.mustHandshake(t)
		// A little more than the handshake: its length varies, and data counts.
		totals := map[string]int{"received": len(whole.peerWire.Written()) + 40, "sent": len(whole.connWire.Written()) + 40}
		step := sampled(251)
		for direction, total := range totals {
			for i, way := range []string{"cut", "reset"} {
				for n := i * step / 2; n < total; n += step {
					s.brokenSocket(t, listener, r, version, direction, way, n)
				}
			}
		}
		t.Run("small buffers", func(t *testing.T) { s.smallSockets(t, listener, r, version) })
	})
}

// socketPair returns the two ends of a TCP connection.
func socketPair(t *testing.T, listener net.Listener) (one, two *net.TCPConn) {
	t.Helper()
	c, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	a, err := listener.Accept()
	require.NoError(t, err)
	return c.(*net.TCPConn), a.(*net.TCPConn)
}

// breakingSocket ends the connection when so many bytes were written to it or
// read from it.
type breakingSocket struct {
	*net.TCPConn
	write, read int // bytes until then, -1 for no end
	reset       bool
}

var errBroken = errors.New("the peer has broken the connection")

func (b *breakingSocket) end() error {
	if b.reset {
		_ = b.SetLinger(0)
	}
	_ = b.TCPConn.Close()
	return errBroken
}

func (b *breakingSocket) Write(p []byte) (int, error) {
	if b.write < 0 || len(p) < b.write {
		if b.write > 0 {
			b.write -= len(p)
		}
		return b.TCPConn.Write(p)
	}
	n, _ := b.TCPConn.Write(p[:b.write])
	return n, b.end()
}

func (b *breakingSocket) Read(p []byte) (int, error) {
	if b.read == 0 {
		return 0, b.end()
	}
	if b.read > 0 {
		p = p[:min(len(p), b.read)]
	}
	n, err := b.TCPConn.Read(p)
	if b.read > 0 {
		b.read -= n
	}
	return n, err
}

func (s *suite) brokenSocket(t *testing.T, listener net.Listener, r role, version uint16, direction, way string, n int) {
	t.Helper()
	when := fmt.Sprintf("%s after %d bytes %s", way, n, direction)
	own, theirs := socketPair(t, listener)
	socket := &breakingSocket{TCPConn: theirs, write: -1, read: -1, reset: way == "reset"}
	if direction == "received" {
		socket.write = n
	} else {
		socket.read = n
	}
	conn, err := s.make(r, own)
	require.NoError(t, err)
	defer conn.Close()
	var peer *tls.Conn
	if r == client {
		peer = tls.Server(socket, s.referenceServer(only(version)))
	} else {
		peer = tls.Client(socket, s.referenceClient(only(version)))
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		// Data goes both ways until the end comes.
		if peer.Handshake() == nil {
			_, _ = peer.Write(make([]byte, 10000))
			_, _ = io.Copy(io.Discard, peer)
		}
		theirs.Close()
	}()
	require.NoError(t, own.SetDeadline(time.Now().Add(patience)))
	err = conn.Handshake()
	for err == nil {
		// The handshake was over before: the data must not look complete.
		if _, err = conn.Write(make([]byte, 1000)); err == nil {
			_, err = conn.Read(make([]byte, 1000))
		}
	}
	s.checkCut(t, err, when)
	assert.NotEqual(t, io.EOF, err, when)
	assert.NoError(t, conn.Close(), when)
	if raw, err := own.SyscallConn(); err == nil {
		assert.Error(t, raw.Control(func(uintptr) {}), "the descriptor stays open: %s", when)
	}
	<-over
}

// smallSockets lets the system take and give a few bytes at a time.
func (s *suite) smallSockets(t *testing.T, listener net.Listener, r role, version uint16) {
	own, theirs := socketPair(t, listener)
	for _, c := range []*net.TCPConn{own, theirs} {
		require.NoError(t, c.SetReadBuffer(1))
		require.NoError(t, c.SetWriteBuffer(1))
	}
	conn, err := s.make(r, own)
	require.NoError(t, err)
	d := &duo{session: &session{}, conn: conn}
	if r == client {
		d.peer = tls.Server(theirs, s.referenceServer(only(version)))
		d.client, d.server = conn, d.peer
	} else {
		d.peer = tls.Client(theirs, s.referenceClient(only(version)))
		d.client, d.server = d.peer, conn
	}
	d.closeWith(t)
	d.mustHandshake(t)
	d.mustEcho(t)
}
