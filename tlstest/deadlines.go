package tlstest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// shortly is a deadline that passes while an operation is blocked.
const shortly = 20 * time.Millisecond

func (s *suite) testDeadlines(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		t.Run("read deadline is not sticky", func(t *testing.T) {
			d := s.connected(t, r, version)
			for range 3 {
				require.NoError(t, d.conn.SetReadDeadline(time.Now().Add(shortly)))
				err := within(t, "Read", func() error { return readNothing(d.conn) })
				s.requireKind(t, err, tlsapi.KindTimeout)
				assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
			}
			require.NoError(t, d.conn.SetReadDeadline(time.Time{}))
			d.mustEcho(t)
		})
		t.Run("read deadline within a record", func(t *testing.T) {
			d := s.connected(t, r, version)
			d.peerWire.Hold()
			_, err := d.peer.Write([]byte("a record in three parts"))
			require.NoError(t, err)
			for _, n := range []int{3, 10} {
				d.peerWire.Release(n)
				require.NoError(t, d.conn.SetReadDeadline(time.Now().Add(shortly)))
				_, err = d.conn.Read(make([]byte, 100))
				s.requireKind(t, err, tlsapi.KindTimeout)
			}
			d.peerWire.Release(-1)
			require.NoError(t, d.conn.SetReadDeadline(time.Time{}))
			buf := make([]byte, 100)
			n, err := d.conn.Read(buf)
			require.NoError(t, err)
			assert.Equal(t, "a record in three parts", string(buf[:n]))
		})
		t.Run("read deadline set while blocked", func(t *testing.T) {
			d := s.connected(t, r, version)
			results := make(chan error, 1)
			go func() {
				_, err := d.conn.Read(make([]byte, 1))
				results <- err
			}()
			time.Sleep(shortly)
			require.NoError(t, d.conn.SetReadDeadline(time.Now()))
			s.requireKind(t, result(t, "Read", results), tlsapi.KindTimeout)
			require.NoError(t, d.conn.SetReadDeadline(time.Time{}))
			d.mustEcho(t)
		})
		t.Run("read deadline does not stop writing", func(t *testing.T) {
			d := s.connected(t, r, version)
			require.NoError(t, d.conn.SetReadDeadline(time.Now().Add(-time.Second)))
			_, err := d.conn.Write([]byte("x"))
			require.NoError(t, err)
			_, err = io.ReadFull(d.peer, make([]byte, 1))
			require.NoError(t, err)
			_, err = d.conn.Read(make([]byte, 1))
			s.requireKind(t, err, tlsapi.KindTimeout)
		})
		t.Run("write deadline is fatal for writing", func(t *testing.T) {
			d := s.connected(t, r, version)
			d.connWire.SetCapacity(1000)
			require.NoError(t, d.conn.SetWriteDeadline(time.Now().Add(shortly)))
			write := func(n int) func() error {
				return func() error {
					_, err := d.conn.Write(make([]byte, n))
					return err
				}
			}
			err := within(t, "Write", write(1<<20))
			s.requireKind(t, err, tlsapi.KindTimeout)
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.NoError(t, d.conn.SetWriteDeadline(time.Time{}))
			require.ErrorIs(t, within(t, "Write", write(1)), os.ErrDeadlineExceeded, "the same error")
			_ = within(t, "Close", d.conn.Close)
			go io.Copy(io.Discard, d.peerWire)
			_, ok := uptime.Receive(d.connWire.Closed(), tailTime)
			require.True(t, ok, "the transport was not closed")
		})
		t.Run("write deadline does not stop reading", func(t *testing.T) {
			d := s.connected(t, r, version)
			require.NoError(t, d.conn.SetWriteDeadline(time.Now().Add(-time.Second)))
			_, err := d.peer.Write([]byte("x"))
			require.NoError(t, err)
			_, err = d.conn.Read(make([]byte, 1))
			require.NoError(t, err)
			_, err = d.conn.Write([]byte("x"))
			s.requireKind(t, err, tlsapi.KindTimeout)
		})
		t.Run("before the handshake", func(t *testing.T) {
			d := s.unconnected(t, r, version)
			require.NoError(t, d.conn.SetDeadline(time.Now().Add(-time.Second)))
			s.requireKind(t, within(t, "Handshake", d.conn.Handshake), tlsapi.KindTimeout)
		})
		t.Run("in the handshake", func(t *testing.T) {
			d := s.unconnected(t, r, version)
			require.NoError(t, d.conn.SetDeadline(time.Now().Add(shortly)))
			s.requireKind(t, within(t, "Handshake", d.conn.Handshake), tlsapi.KindTimeout)
		})
		t.Run("future deadline does no harm", func(t *testing.T) {
			d := s.unconnected(t, r, version)
			require.NoError(t, d.conn.SetDeadline(time.Now().Add(time.Hour)))
			d.mustHandshake(t)
			d.mustEcho(t)
		})
		t.Run("after close", func(t *testing.T) {
			d := s.connected(t, r, version)
			require.NoError(t, d.conn.Close())
			assert.Error(t, d.conn.SetDeadline(time.Now()))
		})
	})
}

func (s *suite) testCancellation(t *testing.T) {
	eachRole(t, func(t *testing.T, r role) {
		t.Run("before the handshake", func(t *testing.T) {
			d := s.unconnected(t, r, tls.VersionTLS13)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := within(t, "HandshakeContext", func() error { return d.conn.HandshakeContext(ctx) })
			s.requireKind(t, err, tlsapi.KindCanceled)
			assert.ErrorIs(t, err, context.Canceled)
		})
		t.Run("in the handshake", func(t *testing.T) {
			d := s.unconnected(t, r, tls.VersionTLS13)
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(shortly, cancel)
			err := within(t, "HandshakeContext", func() error { return d.conn.HandshakeContext(ctx) })
			s.requireKind(t, err, tlsapi.KindCanceled)
			assert.ErrorIs(t, err, context.Canceled)
			requireClosedSoon(t, d.connWire)
			assert.Error(t, d.conn.Handshake(), "there is no second attempt")
		})
		t.Run("in the middle of the handshake", func(t *testing.T) {
			d := s.unconnected(t, r, tls.VersionTLS13)
			// The last flight of the peer never comes.
			d.peerWire.Hold()
			d.peerWire.Release(50)
			go d.peer.Handshake()
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(shortly, cancel)
			err := within(t, "HandshakeContext", func() error { return d.conn.HandshakeContext(ctx) })
			s.requireKind(t, err, tlsapi.KindCanceled)
			requireClosedSoon(t, d.connWire)
		})
		t.Run("context with a deadline", func(t *testing.T) {
			d := s.unconnected(t, r, tls.VersionTLS13)
			ctx, cancel := context.WithTimeout(t.Context(), shortly)
			defer cancel()
			err := within(t, "HandshakeContext", func() error { return d.conn.HandshakeContext(ctx) })
			s.requireKind(t, err, tlsapi.KindTimeout)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			requireClosedSoon(t, d.connWire)
		})
		t.Run("after the handshake", func(t *testing.T) {
			d := s.unconnected(t, r, tls.VersionTLS13)
			ctx, cancel := context.WithCancel(t.Context())
			peer := make(chan error, 1)
			go func() { peer <- d.peer.Handshake() }()
			err := d.conn.HandshakeContext(ctx)
			require.NoError(t, errors.Join(err, <-peer))
			cancel()
			d.mustEcho(t)
			// Its result is that of the handshake that was done.
			assert.NoError(t, d.conn.HandshakeContext(t.Context()))
		})
		t.Run("handshake timeout", func(t *testing.T) {
			s.need(t, r.feature("handshake-timeout"))
			d := s.unconnected(t, r, tls.VersionTLS13, func(c *tlsapi.Settings) { c.HandshakeTimeout = shortly })
			begin := time.Now()
			s.requireKind(t, within(t, "Handshake", d.conn.Handshake), tlsapi.KindTimeout)
			assert.GreaterOrEqual(t, time.Since(begin), shortly)
			requireClosedSoon(t, d.connWire)
		})
		t.Run("handshake timeout in Read", func(t *testing.T) {
			s.need(t, r.feature("handshake-timeout"))
			d := s.unconnected(t, r, tls.VersionTLS13, func(c *tlsapi.Settings) { c.HandshakeTimeout = shortly })
			err := within(t, "Read", func() error { return readNothing(d.conn) })
			s.requireKind(t, err, tlsapi.KindTimeout)
		})
		t.Run("handshake timeout ends with the handshake", func(t *testing.T) {
			s.need(t, r.feature("handshake-timeout"))
			limit := time.Second
			handshaken := func() (d *duo, err error) {
				d = s.unconnected(t, r, tls.VersionTLS13, func(c *tlsapi.Settings) { c.HandshakeTimeout = limit })
				connErr, peerErr := d.handshakes()
				return d, errors.Join(connErr, peerErr)
			}
			d, err := handshaken()
			for errors.Is(err, context.DeadlineExceeded) && limit < 20*time.Second {
				// A machine on which the handshake itself takes that long.
				limit *= 4
				d, err = handshaken()
			}
			require.NoError(t, err)
			time.Sleep(limit + shortly)
			d.mustEcho(t)
		})
	})
}

// readNothing reads where there is nothing to read and returns why.
func readNothing(conn io.Reader) error {
	n, err := conn.Read(make([]byte, 1))
	if n != 0 {
		return fmt.Errorf("%d bytes were read", n)
	}
	return err
}

func requireClosedSoon(t *testing.T, wire *Transport) {
	t.Helper()
	_, ok := uptime.Receive(wire.Closed(), promptly)
	require.True(t, ok, "the transport was not closed")
}
