package tlstest

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func (s *suite) testClose(t *testing.T) {
	t.Run("end of the peer's data", s.testPeerClose)
	t.Run("cut", s.testCut)
	t.Run("close", s.testOwnClose)
	t.Run("half close", s.testHalfClose)
	t.Run("close while blocked", s.testCloseWhileBlocked)
	t.Run("before the handshake", s.testCloseBeforeHandshake)
	t.Run("over TCP", s.testCloseOverTCP)
	t.Run("peer that does not read", s.testCloseStalled)
	t.Run("peer that writes", s.testCloseTowardsWriter)
	t.Run("peer that takes no tickets", s.testTicketsUntaken)
}

func (s *suite) testPeerClose(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		d := s.connected(t, r, version)
		_, err := d.peer.Write([]byte("last words"))
		require.NoError(t, err)
		require.NoError(t, d.peer.Close())
		got, err := io.ReadAll(d.conn)
		require.NoError(t, err)
		assert.Equal(t, "last words", string(got))
		for range 2 {
			n, err := d.conn.Read(make([]byte, 1))
			assert.Zero(t, n)
			assert.Equal(t, io.EOF, err, "io.EOF itself, as io.Reader demands")
		}
		assert.NoError(t, d.conn.Close())
	})
}

// testCut ends the transport without a close_notify: an attacker could do
// that, so it must not look like the end of the data.
func (s *suite) testCut(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		t.Run("between records", func(t *testing.T) {
			d := s.connected(t, r, version)
			_, err := d.peer.Write([]byte("last words"))
			require.NoError(t, err)
			require.NoError(t, d.peerWire.Close())
			requireTruncated(t, d.conn, "last words")
		})
		t.Run("within a record", func(t *testing.T) {
			// Within the header, behind it, within the data and the tag.
			for _, n := range []int{1, 4, 5, 6, 100, 200, 210} {
				d := s.connected(t, r, version)
				_, err := d.peer.Write([]byte("whole"))
				require.NoError(t, err)
				d.peerWire.CutAfter(len(d.peerWire.Written()) + n)
				_, err = d.peer.Write(make([]byte, 200))
				require.NoError(t, err)
				requireTruncated(t, d.conn, "whole")
			}
		})
	})
}

// requireTruncated tests that conn gives the data and then the error of a
// connection that was cut.
func requireTruncated(t *testing.T, conn io.Reader, data string) {
	t.Helper()
	got, err := io.ReadAll(conn)
	assert.Equal(t, data, string(got))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NotErrorIs(t, err, io.EOF)
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "the second time")
}

func (s *suite) testOwnClose(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		t.Run("peer gets the data and the end", func(t *testing.T) {
			d := s.connected(t, r, version)
			_, err := d.conn.Write([]byte("last words"))
			require.NoError(t, err)
			begin := time.Now()
			require.NoError(t, d.conn.Close())
			assertClosedSince(t, d.connWire, begin, "Close closes the transport")
			got, err := io.ReadAll(d.peer)
			require.NoError(t, err, "without a close_notify this would be io.ErrUnexpectedEOF")
			assert.Equal(t, "last words", string(got))
		})
		t.Run("close_notify on the wire", func(t *testing.T) {
			d := s.connected(t, r, version)
			before, begin := len(d.connWire.Written()), time.Now()
			require.NoError(t, d.conn.Close())
			assertClosedSince(t, d.connWire, begin, "Close closes the transport")
			records, err := ParseRecords(d.connWire.Written()[before:])
			require.NoError(t, err)
			require.Len(t, records, 1, "nothing but the close_notify")
			if version == tls.VersionTLS12 {
				assert.EqualValues(t, RecordAlert, records[0].Type)
				return
			}
			assert.EqualValues(t, RecordApplicationData, records[0].Type)
			assert.Equal(t, 2+1+16, len(records[0].Payload))
		})
		t.Run("use after close", func(t *testing.T) {
			d := s.connected(t, r, version)
			require.NoError(t, d.conn.Close())
			require.ErrorIs(t, d.conn.Close(), net.ErrClosed)
			_, err := d.conn.Read(make([]byte, 1))
			s.requireKind(t, err, tlsapi.KindClosed)
			_, err = d.conn.Write([]byte("x"))
			s.requireKind(t, err, tlsapi.KindClosed)
			assert.Error(t, d.conn.CloseWrite())
			_, err = d.conn.ExportKeyingMaterial("EXPERIMENTAL test", nil, 32)
			assert.Error(t, err)
			// What is known stays known: logs are written after the close.
			assert.Equal(t, version, d.conn.Info().Version)
			assert.Equal(t, version, d.conn.ConnectionState().Version)
			assert.NotNil(t, d.conn.NetConn())
		})
		t.Run("data that nobody read", func(t *testing.T) {
			d := s.connected(t, r, version)
			_, err := d.peer.Write(make([]byte, 10_000))
			require.NoError(t, err)
			assert.NoError(t, within(t, "Close", d.conn.Close))
		})
		t.Run("peer that is gone", func(t *testing.T) {
			d := s.connected(t, r, version)
			require.NoError(t, d.peerWire.Close())
			begin := time.Now()
			// The error of sending the close_notify may be told or not.
			_ = within(t, "Close", d.conn.Close)
			assertClosedSince(t, d.connWire, begin, "Close closes the transport")
		})
	})
}

// assertClosedSince tests that a call that began at begin has closed the transport.
// Where a busy machine held it up for the 50 ms in which it sends its last record,
// that goes on in the background, and the transport is closed behind it.
func assertClosedSince(t *testing.T, wire *Transport, begin time.Time, when string) {
	t.Helper()
	closed := isClosed(wire.Closed())
	if took := time.Since(begin); !closed && took >= 50*time.Millisecond {
		_, closed = uptime.Receive(wire.Closed(), tailTime)
	}
	assert.True(t, closed, "the transport stays open: %s", when)
}

// testCloseStalled closes towards peers that do not read: Close returns at
// once, the tail has 5 s. All cases wait at the same time.
func (s *suite) testCloseStalled(t *testing.T) {
	var closed []<-chan struct{}
	eachRoleAndVersion(t, func(t2 *testing.T, r role, version uint16) {
		d := s.connected(t, r, version)
		d.connWire.SetCapacity(1)
		assert.NoError(t2, closeAtOnce(t2, d.conn))
		require.ErrorIs(t2, d.conn.Close(), net.ErrClosed)
		closed = append(closed, d.connWire.Closed())
	})
	all := make(chan struct{})
	go func() {
		defer close(all)
		for _, c := range closed {
			<-c
		}
	}()
	_, ok := uptime.Receive(all, tailTime)
	require.True(t, ok, "the transport was not closed")
}

// testCloseTowardsWriter closes towards a peer that does not read before its own
// Write is done, which waits for the end that closes to read: the close_notify
// arrives all the same, unless the machine takes longer for all of that than the 5 s
// that a close has.
func (s *suite) testCloseTowardsWriter(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		for _, reading := range []bool{false, true} {
			d := s.connected(t, r, version)
			d.connWire.SetCapacity(7)
			d.peerWire.SetCapacity(1000)
			before := len(d.peerWire.Written())
			read := make(chan error, 1)
			if reading {
				go func() {
					for {
						if _, err := d.conn.Read(make([]byte, 10)); err != nil {
							read <- err
							return
						}
						if isClosed(d.connWire.Closed()) {
							read <- errors.New("a Read that follows Close had data")
							return
						}
					}
				}()
			}
			wrote := make(chan struct{})
			go func() {
				defer close(wrote)
				// What nobody reads any more may be refused.
				_, _ = d.peer.Write(make([]byte, 256<<10))
			}()
			require.True(t, uptime.Eventually(promptly, func() bool { return len(d.peerWire.Written()) > before }))
			begin := time.Now()
			assert.NoError(t, within(t, "Close", d.conn.Close))
			if reading {
				require.ErrorIs(t, result(t, "the Read", read), net.ErrClosed)
			}
			<-wrote
			_, err := d.peer.Read(make([]byte, 1))
			if took := time.Since(begin); err == io.ErrUnexpectedEOF && took > 5*time.Second {
				t.Logf("with a Read under way: %v: the peer took %v", reading, took)
				continue
			}
			require.Equal(t, io.EOF, err, "with a Read under way: %v", reading)
		}
	})
}

func (s *suite) testHalfClose(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		t.Run("own", func(t *testing.T) {
			d := s.connected(t, r, version)
			_, err := d.conn.Write([]byte("request"))
			require.NoError(t, err)
			err = d.conn.CloseWrite()
			if !s.supported(r.feature("close-write")) {
				require.ErrorIs(t, err, errors.ErrUnsupported)
				d.mustEchoAfterRefusedCloseWrite(t)
				return
			}
			require.NoError(t, err)
			got, err := io.ReadAll(d.peer)
			require.NoError(t, err)
			assert.Equal(t, "request", string(got))
			_, err = d.conn.Write([]byte("x"))
			require.Error(t, err, "the writing half is closed")
			_, err = d.peer.Write([]byte("answer"))
			require.NoError(t, err)
			require.NoError(t, d.peer.Close())
			got, err = io.ReadAll(d.conn)
			require.NoError(t, err)
			assert.Equal(t, "answer", string(got))
			before := len(d.connWire.Written())
			require.NoError(t, d.conn.Close())
			assert.Len(t, d.connWire.Written(), before, "there is one close_notify")
		})
		t.Run("the peer's", func(t *testing.T) {
			s.need(t, r.feature("close-write"))
			d := s.connected(t, r, version)
			require.NoError(t, d.peer.CloseWrite())
			got, err := io.ReadAll(d.conn)
			require.NoError(t, err)
			assert.Empty(t, got)
			_, err = d.conn.Write([]byte("answer"))
			require.NoError(t, err)
			require.NoError(t, d.conn.Close())
			got, err = io.ReadAll(d.peer)
			require.NoError(t, err)
			assert.Equal(t, "answer", string(got))
		})
		t.Run("before the handshake", func(t *testing.T) {
			d := s.unconnected(t, r, version)
			require.Error(t, d.conn.CloseWrite())
			assert.Empty(t, d.connWire.Written())
		})
	})
}

// mustEchoAfterRefusedCloseWrite tests that a refused CloseWrite has changed
// nothing.
func (d *duo) mustEchoAfterRefusedCloseWrite(t *testing.T) {
	t.Helper()
	buf := make([]byte, len("request"))
	_, err := io.ReadFull(d.peer, buf)
	require.NoError(t, err)
	d.mustEcho(t)
}

func (s *suite) testCloseWhileBlocked(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		t.Run("in Read", func(t *testing.T) {
			d := s.connected(t, r, version)
			results := make(chan error, 1)
			go func() {
				_, err := d.conn.Read(make([]byte, 1))
				results <- err
			}()
			time.Sleep(20 * time.Millisecond) // lets Read block; the result does not depend on it
			assert.NoError(t, within(t, "Close", d.conn.Close))
			s.requireKind(t, result(t, "Read", results), tlsapi.KindClosed)
			got, err := io.ReadAll(d.peer)
			require.NoError(t, err)
			assert.Empty(t, got)
		})
		t.Run("in Write", func(t *testing.T) {
			d := s.connected(t, r, version)
			d.connWire.SetCapacity(1000)
			results := make(chan error, 1)
			go func() {
				_, err := d.conn.Write(make([]byte, 1<<20))
				results <- err
			}()
			time.Sleep(20 * time.Millisecond)
			_ = within(t, "Close", d.conn.Close)
			require.ErrorIs(t, result(t, "Write", results), net.ErrClosed)
		})
		t.Run("in Handshake", func(t *testing.T) {
			d := s.unconnected(t, r, version)
			results := make(chan error, 1)
			go func() { results <- d.conn.Handshake() }()
			time.Sleep(20 * time.Millisecond)
			begin := time.Now()
			_ = within(t, "Close", d.conn.Close)
			s.requireKind(t, result(t, "Handshake", results), tlsapi.KindClosed)
			assertClosedSince(t, d.connWire, begin, "Close closes the transport")
		})
	})
}

func (s *suite) testCloseBeforeHandshake(t *testing.T) {
	eachRole(t, func(t *testing.T, r role) {
		d := s.unconnected(t, r, tls.VersionTLS13)
		require.NoError(t, d.conn.Close())
		assert.Empty(t, d.connWire.Written())
		assert.True(t, isClosed(d.connWire.Closed()))
		s.requireKind(t, d.conn.Handshake(), tlsapi.KindClosed)
		_, err := d.conn.Read(make([]byte, 1))
		s.requireKind(t, err, tlsapi.KindClosed)
		_, err = d.conn.Write([]byte("x"))
		s.requireKind(t, err, tlsapi.KindClosed)
		require.ErrorIs(t, d.conn.Close(), net.ErrClosed)
	})
}

// testCloseOverTCP repeats the essentials on real sockets, which providers may
// drive in another way than other transports.
func (s *suite) testCloseOverTCP(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		connect := func(t *testing.T) (tlsapi.Conn, *tls.Conn) {
			t.Helper()
			clientSide, serverSide := tcpPair(t)
			var conn tlsapi.Conn
			var peer *tls.Conn
			var err error
			if r == client {
				conn, err = s.make(r, clientSide)
				peer = tls.Server(serverSide, s.referenceServer(only(version)))
			} else {
				conn, err = s.make(r, serverSide)
				peer = tls.Client(clientSide, s.referenceClient(only(version)))
			}
			require.NoError(t, err)
			t.Cleanup(func() { conn.Close(); peer.Close() })
			pair := &session{client: conn, server: peer}
			if r == server {
				pair = &session{client: peer, server: conn}
			}
			pair.mustHandshake(t)
			pair.mustEcho(t)
			return conn, peer
		}
		t.Run("own", func(t *testing.T) {
			conn, peer := connect(t)
			_, err := conn.Write([]byte("last words"))
			require.NoError(t, err)
			require.NoError(t, conn.Close())
			require.ErrorIs(t, conn.Close(), net.ErrClosed)
			got, err := io.ReadAll(peer)
			require.NoError(t, err)
			assert.Equal(t, "last words", string(got))
		})
		t.Run("the peer's", func(t *testing.T) {
			conn, peer := connect(t)
			_, err := peer.Write([]byte("last words"))
			require.NoError(t, err)
			require.NoError(t, peer.Close())
			got, err := io.ReadAll(conn)
			require.NoError(t, err)
			assert.Equal(t, "last words", string(got))
		})
		t.Run("cut", func(t *testing.T) {
			conn, peer := connect(t)
			require.NoError(t, peer.NetConn().(*net.TCPConn).CloseWrite())
			requireTruncated(t, conn, "")
		})
		t.Run("while blocked", func(t *testing.T) {
			conn, _ := connect(t)
			read, write := make(chan error, 1), make(chan error, 1)
			go func() {
				_, err := conn.Read(make([]byte, 1))
				read <- err
			}()
			go func() {
				// More than the sockets' buffers take.
				_, err := conn.Write(make([]byte, 64<<20))
				write <- err
			}()
			time.Sleep(20 * time.Millisecond)
			_ = within(t, "Close", conn.Close)
			require.ErrorIs(t, result(t, "Read", read), net.ErrClosed)
			require.ErrorIs(t, result(t, "Write", write), net.ErrClosed)
		})
		t.Run("deadline", func(t *testing.T) {
			conn, peer := connect(t)
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
			_, err := conn.Read(make([]byte, 1))
			s.requireKind(t, err, tlsapi.KindTimeout)
			require.NoError(t, conn.SetReadDeadline(time.Time{}))
			_, err = peer.Write([]byte("x"))
			require.NoError(t, err)
			_, err = conn.Read(make([]byte, 1))
			require.NoError(t, err)
		})
	})
}

// tcpPair returns the ends of a connection over the loopback interface.
func tcpPair(t *testing.T) (clientSide, serverSide net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	clientSide, err = net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	serverSide, err = listener.Accept()
	require.NoError(t, err)
	t.Cleanup(func() {
		clientSide.Close()
		serverSide.Close()
	})
	return clientSide, serverSide
}
