package tlstest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testFaults tests what networks and attackers can do to the bytes of a
// connection. POLYTLS_FAULTS=full in the environment tries every byte, else a
// sample.
func (s *suite) testFaults(t *testing.T) {
	t.Run("truncation at record boundaries", s.testTruncation)
	t.Run("one byte at a time", s.testByteByByte)
	t.Run("transport fails", s.testFailingTransport)
	t.Run("transport stalls", s.testStallingTransport)
	t.Run("sockets", s.testSockets)
	t.Run("floods", s.testFloods)
	t.Run("changed flights", s.testChangedFlights)
	t.Run("changed record types", s.testChangedRecordTypes)
}

// sampled returns the distance between the bytes of a handshake that a test
// tries: one for all of them.
func sampled(distance int) int {
	switch {
	case os.Getenv("POLYTLS_FAULTS") == "full":
		return 1
	case testing.Short():
		return 4*distance + 1
	}
	return distance
}

// testTruncation cuts the peer's data at the end of every record, its
// close_notify included: none of that is the end of the data.
func (s *suite) testTruncation(t *testing.T) {
	sizes := []int{1, 100, 1000, 16384, 5}
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		for whole := range len(sizes) + 1 {
			d := s.connected(t, r, version)
			var want []byte
			for i, size := range sizes[:whole] {
				data := bytes.Repeat([]byte{byte(i + 1)}, size)
				_, err := d.peer.Write(data)
				require.NoError(t, err)
				want = append(want, data...)
			}
			d.peerWire.CutAfter(len(d.peerWire.Written()))
			requireTruncated(t, d.conn, string(want))
			begin := time.Now()
			assert.NoError(t, d.conn.Close())
			assertClosedSince(t, d.connWire, begin, "Close")
		}
		// The close_notify without its last byte.
		whole := s.connected(t, r, version)
		before := len(whole.peerWire.Written())
		require.NoError(t, whole.peer.CloseWrite())
		length := len(whole.peerWire.Written()) - before
		for n := range length {
			d := s.connected(t, r, version)
			d.peerWire.CutAfter(len(d.peerWire.Written()) + n)
			_ = d.peer.CloseWrite()
			requireTruncated(t, d.conn, "")
		}
	})
}

// testByteByByte lets every Read give one byte, and lets the transport take one
// byte before it waits for the peer.
func (s *suite) testByteByByte(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		d := s.unconnected(t, r, version)
		d.connWire.SetChunk(1)
		d.connWire.SetCapacity(1)
		d.mustHandshake(t)
		d.mustEcho(t)
	})
}

// faultyTransport fails once when so many bytes have passed it in one direction.
type faultyTransport struct {
	net.Conn
	read, write int // bytes until the fault, -1 for none
	err         error
	// passing says that the transport works again after the fault.
	passing bool
	// sink, if not nil, takes what is written from then on, and blocks.
	sink *Transport
}

func (f *faultyTransport) Read(p []byte) (int, error) {
	if f.read == 0 {
		if f.passing {
			f.read = -1
		}
		return 0, f.err
	}
	if f.read > 0 {
		p = p[:min(len(p), f.read)]
	}
	n, err := f.Conn.Read(p)
	if f.read > 0 {
		f.read -= n
	}
	return n, err
}

func (f *faultyTransport) Write(p []byte) (int, error) {
	if f.write < 0 || len(p) <= f.write {
		if f.write > 0 {
			f.write -= len(p)
		}
		return f.Conn.Write(p)
	}
	n, err := f.Conn.Write(p[:f.write])
	f.write -= n
	switch {
	case err != nil:
	case f.sink != nil:
		_, err = f.sink.Write(p[n:])
	default:
		err = f.err
	}
	return n, err
}

// timeoutError is what a transport says that would do better if it were asked
// again.
type timeoutError struct{}

func (timeoutError) Error() string   { return "try again" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

// testFailingTransport lets the transport fail at the bytes of a handshake.
func (s *suite) testFailingTransport(t *testing.T) {
	faults := []struct {
		name    string
		err     error
		kind    tlsapi.Kind
		passing bool
	}{
		{"reset", &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, tlsapi.KindTransport, false},
		{"broken pipe", syscall.EPIPE, tlsapi.KindTransport, false},
		{"temporary", timeoutError{}, tlsapi.KindTimeout, true},
		{"short write", io.ErrShortWrite, tlsapi.KindTransport, false},
	}
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		whole := s.unconnected(t, r, version)
		whole.mustHandshake(t)
		totals := map[string]int{"read": len(whole.peerWire.Written()), "write": len(whole.connWire.Written())}
		step := sampled(211)
		// A handshake that cannot send waits a moment for the peer's alert: many
		// at once.
		var all sync.WaitGroup
		places := make(chan struct{}, 32)
		for i, fault := range faults {
			for direction, total := range totals {
				for n := i * step / len(faults); n < total; n += step {
					f := &faultyTransport{read: -1, write: -1, err: fault.err, passing: fault.passing}
					if direction == "read" {
						f.read = n
					} else {
						f.write = n
					}
					when := fmt.Sprintf("%s after %d of %d bytes to %s", fault.name, n, total, direction)
					places <- struct{}{}
					all.Go(func() {
						defer func() { <-places }()
						s.failingTransport(t, r, version, f, fault.kind, when)
					})
				}
			}
		}
		all.Wait()
	})
}

func (s *suite) failingTransport(t *testing.T, r role, version uint16, f *faultyTransport, kind tlsapi.Kind, when string) {
	d, end := s.pairOver(t, r, version, f)
	if d == nil {
		return
	}
	begin := time.Now()
	err, _ := d.handshakes()
	end()
	if err == nil {
		// The handshake was shorter, or over before the fault.
		return
	}
	var e *tlsapi.Error
	if assert.ErrorAs(t, err, &e, when) {
		assert.Equal(t, kind, e.Kind, "%s: %v", when, err)
	}
	assert.ErrorIs(t, err, f.err, when)
	assert.NotErrorIs(t, err, io.EOF, when)
	assertClosedSince(t, d.connWire, begin, when)
}

// pairOver makes the two ends over a transport that f stands before on the
// provider's side; end closes them. They are nil when the test has failed.
func (s *suite) pairOver(t *testing.T, r role, version uint16, f *faultyTransport, change ...func(*tlsapi.Settings)) (d *duo, end func()) {
	t.Helper()
	clientWire, serverWire, stop := newShortWire()
	d = &duo{session: &session{clientWire: clientWire, serverWire: serverWire}, connWire: clientWire, peerWire: serverWire}
	if r == server {
		d.connWire, d.peerWire = serverWire, clientWire
	}
	f.Conn = d.connWire
	conn, err := s.make(r, f, change...)
	if !assert.NoError(t, err) {
		stop()
		return nil, nil
	}
	d.conn = conn
	if r == client {
		d.peer = tls.Server(d.peerWire, s.referenceServer(only(version)))
		d.client, d.server = conn, d.peer
	} else {
		d.peer = tls.Client(d.peerWire, s.referenceClient(only(version)))
		d.client, d.server = d.peer, conn
	}
	return d, func() {
		d.conn.Close()
		d.peer.Close()
		stop()
	}
}

// mangler changes one byte of what is written through it.
type mangler struct {
	net.Conn
	at     int // bytes until then
	change func(b byte) []byte
}

func (m *mangler) Write(p []byte) (int, error) {
	if m.at < 0 || m.at >= len(p) {
		if m.at >= len(p) {
			m.at -= len(p)
		}
		return m.Conn.Write(p)
	}
	out := append([]byte(nil), p[:m.at]...)
	out = append(append(out, m.change(p[m.at])...), p[m.at+1:]...)
	m.at = -1
	if _, err := m.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// testChangedFlights flips, drops and doubles bytes of both ends' flights. When
// both ends take the handshake for done all the same, they must agree on it.
func (s *suite) testChangedFlights(t *testing.T) {
	changes := []struct {
		name   string
		change func(byte) []byte
	}{
		{"flipped", func(b byte) []byte { return []byte{b ^ 0xff} }},
		{"dropped", func(byte) []byte { return nil }},
		{"doubled", func(b byte) []byte { return []byte{b, b} }},
	}
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		whole := s.unconnected(t, r, version)
		whole.mustHandshake(t)
		totals := map[string]int{"received": len(whole.peerWire.Written()), "sent": len(whole.connWire.Written())}
		step := sampled(101)
		var all sync.WaitGroup
		places := make(chan struct{}, 32)
		for i, c := range changes {
			for direction, total := range totals {
				for n := i * step / len(changes); n < total; n += step {
					places <- struct{}{}
					all.Go(func() {
						defer func() { <-places }()
						when := fmt.Sprintf("byte %d of %d %s %s", n, total, direction, c.name)
						s.changedFlight(t, r, version, direction == "sent", n, c.change, when)
					})
				}
			}
		}
		all.Wait()
	})
}

func (s *suite) changedFlight(t *testing.T, r role, version uint16, sent bool, at int, change func(byte) []byte, when string) {
	clientWire, serverWire, stop := newShortWire()
	defer stop()
	connWire, peerWire := clientWire, serverWire
	if r == server {
		connWire, peerWire = serverWire, clientWire
	}
	var connEnd, peerEnd net.Conn = connWire, peerWire
	m := &mangler{at: at, change: change}
	if sent {
		m.Conn, connEnd = connWire, m
	} else {
		m.Conn, peerEnd = peerWire, m
	}
	var ours, theirs keyLog
	conn, err := s.make(r, connEnd, func(c *tlsapi.Settings) {
		if s.supported(r.feature("key-log")) {
			c.KeyLogWriter = &ours
		}
	})
	if !assert.NoError(t, err) {
		return
	}
	defer conn.Close()
	logging := func(c *tls.Config) { c.KeyLogWriter = &theirs }
	var peer *tls.Conn
	if r == client {
		peer = tls.Server(peerEnd, s.referenceServer(only(version), logging))
	} else {
		peer = tls.Client(peerEnd, s.referenceClient(only(version), logging))
	}
	defer peer.Close()
	// A changed length makes both ends wait for more.
	defer peerWire.EndWhenIdle(40 * time.Millisecond)()
	defer connWire.EndWhenIdle(40 * time.Millisecond)()
	handshake := func(c end, done chan<- error) {
		err := c.Handshake()
		if err != nil {
			c.Close()
		}
		done <- err
	}
	connDone, peerDone := make(chan error, 1), make(chan error, 1)
	go handshake(conn, connDone)
	go handshake(peer, peerDone)
	err, peerErr := <-connDone, <-peerDone
	if err != nil {
		var e *tlsapi.Error
		if assert.ErrorAs(t, err, &e, when) {
			assert.NotEqual(t, tlsapi.KindInternal, e.Kind, "%s: %v", when, err)
			assert.NotEqual(t, tlsapi.KindConfig, e.Kind, "%s: %v", when, err)
		}
		return
	}
	if peerErr != nil {
		return
	}
	if s.supported(r.feature("key-log")) {
		// Every secret of the connection depends on the transcript.
		assert.ElementsMatch(t, theirs.known(), ours.known(), "two transcripts: %s", when)
	}
	if !s.supported(r.feature("exporter")) {
		return
	}
	// A byte behind the handshake's last may be of a ticket.
	state := peer.ConnectionState()
	want, err := state.ExportKeyingMaterial("EXPERIMENTAL polytls", nil, 32)
	if err != nil {
		return // the peer has seen the wrong byte since
	}
	got, err := conn.ExportKeyingMaterial("EXPERIMENTAL polytls", nil, 32)
	var e *tlsapi.Error
	if errors.As(err, &e) && e.Kind != tlsapi.KindInternal {
		return
	}
	assert.NoError(t, err, when)
	assert.Equal(t, want, got, "two transcripts: %s", when)
	assert.Equal(t, state.CipherSuite, conn.ConnectionState().CipherSuite, when)
}

// testChangedRecordTypes changes the type in the header of an encrypted record.
// Nothing behind it may be delivered: the network would decide what arrives.
func (s *suite) testChangedRecordTypes(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		for _, kind := range []byte{0, RecordChangeCipherSpec, RecordAlert, RecordHandshake, 24, 25, 0x80, 0xff} {
			d := s.connected(t, r, version)
			d.peerWire.Tamper(func(p []byte) { p[0] = kind })
			_, err := d.peer.Write([]byte("changed"))
			require.NoError(t, err)
			d.peerWire.Tamper(nil)
			_, err = d.peer.Write([]byte("behind"))
			require.NoError(t, err)
			require.NoError(t, d.peerWire.Close())
			got, err := io.ReadAll(d.conn)
			assert.Empty(t, string(got), "record type %d", kind)
			// A header that is one of SSL 2 makes a library wait for more.
			s.requireKinds(t, err, tlsapi.KindBadRecord, tlsapi.KindProtocol, tlsapi.KindNotTLS, tlsapi.KindTransport)
		}
	})
}
