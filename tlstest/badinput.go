package tlstest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"sync"
	"testing"
	"time"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func (s *suite) testBadInput(t *testing.T) {
	t.Run("not TLS", s.testNotTLS)
	t.Run("garbage", s.testGarbage)
	t.Run("cut at every byte", s.testCutHandshake)
	t.Run("changed handshake", s.testChangedHandshake)
	t.Run("changed record", s.testChangedRecord)
	t.Run("alert after the handshake", s.testLateAlert)
}

// withGarbage makes the provider's end and a peer that only says what it is
// told, then closes.
func (s *suite) withGarbage(t *testing.T, r role, garbage []byte) (tlsapi.Conn, *Transport) {
	t.Helper()
	connWire, peerWire := newWire(t)
	if r == server {
		connWire, peerWire = peerWire, connWire
	}
	conn, err := s.make(r, connWire)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = peerWire.Write(garbage)
	require.NoError(t, err)
	return conn, peerWire
}

func (s *suite) testNotTLS(t *testing.T) {
	for _, c := range []struct {
		r    role
		text string
	}{
		{server, "GET / HTTP/1.1\r\nHost: server.example\r\n\r\n"},
		{server, "POST /index HTTP/1.0\r\n\r\n"},
		{client, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"},
		{client, "220 mail.example ESMTP\r\n"},
		{client, "SSH-2.0-OpenSSH_9.2\r\n"},
		{server, "SSH-2.0-OpenSSH_9.2\r\n"},
	} {
		t.Run(string(c.r)+" "+c.text[:4], func(t *testing.T) {
			conn, _ := s.withGarbage(t, c.r, []byte(c.text))
			err := conn.Handshake()
			s.requireKind(t, err, tlsapi.KindNotTLS)
			var header tls.RecordHeaderError
			require.ErrorAs(t, err, &header)
			assert.Equal(t, c.text[:5], string(header.RecordHeader[:]))
			_, err = conn.Write([]byte("x"))
			require.Error(t, err)
			// The peer does not close: the provider must not wait for more.
		})
	}
}

func (s *suite) testGarbage(t *testing.T) {
	record := func(kind byte, payload ...byte) []byte {
		return append([]byte{kind, 3, 3, byte(len(payload) >> 8), byte(len(payload))}, payload...)
	}
	inputs := map[string][]byte{
		"empty handshake record":       record(RecordHandshake),
		"application data first":       record(RecordApplicationData, make([]byte, 50)...),
		"change_cipher_spec first":     record(RecordChangeCipherSpec, 1),
		"malformed alert":              record(RecordAlert, 2),
		"unknown record type":          record(99, 1, 2, 3),
		"record too long":              {RecordHandshake, 3, 3, 0xff, 0xff, 1, 2, 3},
		"message too long":             record(RecordHandshake, 1, 0xff, 0xff, 0xff, 0),
		"hello of another kind":        record(RecordHandshake, 14, 0, 0, 0),
		"hello that is empty":          append(record(RecordHandshake, 1, 0, 0, 0), record(RecordHandshake, 2, 0, 0, 0)...),
		"hello that lies of itself":    record(RecordHandshake, append([]byte{2, 0, 0, 40, 3, 3}, make([]byte, 34)...)...),
		"SSL 2":                        {0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10, 1, 0, 0x80, 3, 0, 0x80, 6, 0, 0x40},
		"record version of the future": {RecordHandshake, 0x7f, 0x7f, 0, 1, 1},
	}
	source := rand.New(rand.NewSource(1))
	for i := range 20 {
		p := make([]byte, 1+source.Intn(600))
		source.Read(p)
		inputs[fmt.Sprintf("random bytes %d", i)] = p
		// The same behind a header that looks right.
		inputs[fmt.Sprintf("random handshake %d", i)] = record(RecordHandshake, p...)
		hello := append([]byte{[]byte{1, 2}[i%2], 0, byte(len(p) >> 8), byte(len(p)), 3, 3}, p...)
		inputs[fmt.Sprintf("random hello %d", i)] = record(RecordHandshake, hello...)
	}
	eachRole(t, func(t *testing.T, r role) {
		for name, input := range inputs {
			t.Run(name, func(t *testing.T) {
				conn, peer := s.withGarbage(t, r, input)
				require.NoError(t, peer.Close())
				err := within(t, "Handshake", conn.Handshake)
				s.requireKinds(t, err, tlsapi.KindNotTLS, tlsapi.KindProtocol, tlsapi.KindBadRecord,
					tlsapi.KindTransport, tlsapi.KindPeerAlert)
				assert.NotErrorIs(t, err, io.EOF)
				assert.False(t, conn.ConnectionState().HandshakeComplete)
			})
		}
		t.Run("fatal alert", func(t *testing.T) {
			conn, _ := s.withGarbage(t, r, record(RecordAlert, 2, 40))
			err := within(t, "Handshake", conn.Handshake)
			if r == server {
				// A server expects a ClientHello first and may say so.
				s.requireKinds(t, err, tlsapi.KindPeerAlert, tlsapi.KindProtocol)
				return
			}
			e := s.requireKind(t, err, tlsapi.KindPeerAlert)
			assert.Equal(t, alertHandshakeFailure, e.Alert)
		})
	})
}

// testCutHandshake ends the connection after every byte that either end sends
// in the handshake.
func (s *suite) testCutHandshake(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		t.Parallel()
		// Without a post-quantum group the hellos are short. P-256 is for the
		// certificate.
		short := func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256} }
		connect := func(t *testing.T) (d *duo, end func()) {
			clientWire, serverWire, stop := newShortWire()
			d = &duo{session: &session{clientWire: clientWire, serverWire: serverWire}, connWire: clientWire, peerWire: serverWire}
			if r == server {
				d.connWire, d.peerWire = serverWire, clientWire
			}
			conn, err := s.make(r, d.connWire)
			require.NoError(t, err)
			if r == client {
				d.peer = tls.Server(d.peerWire, s.referenceServer(only(version), short))
				d.client, d.server = conn, d.peer
			} else {
				d.peer = tls.Client(d.peerWire, s.referenceClient(only(version), short))
				d.client, d.server = d.peer, conn
			}
			d.conn = conn
			return d, func() {
				d.conn.Close()
				d.peer.Close()
				stop()
			}
		}
		whole, end := connect(t)
		whole.mustHandshake(t)
		sent := map[string]int{"received": len(whole.peerWire.Written()), "sent": len(whole.connWire.Written())}
		end()
		step := 1
		if testing.Short() {
			step = 17
		}
		for direction, total := range sent {
			t.Run(direction, func(t *testing.T) {
				for n := 0; n < total; n += step {
					d, end := connect(t)
					wire := d.peerWire
					if direction == "sent" {
						wire = d.connWire
					}
					wire.CutAfter(n)
					err, _ := d.handshakes()
					if err == nil && len(wire.Written()) < n {
						// Signatures vary in length: this handshake was
						// shorter than the first.
						end()
						continue
					}
					if err == nil {
						// This end had finished before the cut.
						_, err = d.conn.Read(make([]byte, 1))
					}
					end()
					if !s.checkCut(t, err, fmt.Sprintf("cut after %d of %d bytes", n, total)) {
						return
					}
				}
			})
		}
	})
}

// checkCut tests that err is that of a connection that was cut.
func (s *suite) checkCut(t *testing.T, err error, when string) bool {
	t.Helper()
	var e *tlsapi.Error
	switch {
	case !assert.Error(t, err, when):
	case !assert.NotErrorIs(t, err, io.EOF, when):
	case !assert.NotErrorIs(t, err, errHung, when):
	case errors.As(err, &e):
		return assert.Contains(t, []tlsapi.Kind{tlsapi.KindTransport}, e.Kind, "%s: %v", when, err) &&
			assert.True(t, isCut(err), "%s: %v", when, err)
	default:
		return assert.ErrorIs(t, err, io.ErrUnexpectedEOF, when)
	}
	return false
}

// testChangedHandshake changes one byte of what the peer sends in the
// handshake. Some bytes mean nothing (a record's version, a random value that
// only the transcript covers): the handshake must then fail at the Finished,
// or be as good as unchanged. It must not crash, hang or be of two minds.
func (s *suite) testChangedHandshake(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		t.Parallel()
		source := rand.New(rand.NewSource(int64(version)))
		for range 150 {
			at, mask := source.Intn(900), byte(1+source.Intn(255))
			t.Run(fmt.Sprintf("byte %d", at), func(t *testing.T) {
				d := s.unconnected(t, r, version)
				var mu sync.Mutex
				seen := 0
				d.peerWire.Tamper(func(p []byte) {
					mu.Lock()
					defer mu.Unlock()
					if i := at - seen; i >= 0 && i < len(p) {
						p[i] ^= mask
					}
					seen += len(p)
				})
				// A changed length makes both ends wait for more: the peer
				// gives up first.
				done := make(chan error, 1)
				go func() {
					err := d.conn.Handshake()
					if err != nil {
						d.conn.Close()
					}
					done <- err
				}()
				t.Cleanup(d.peerWire.EndWhenIdle(50 * time.Millisecond))
				_ = d.peer.Handshake()
				d.peer.Close()
				err := result(t, "Handshake", done)
				if err == nil {
					return
				}
				var e *tlsapi.Error
				if assert.ErrorAs(t, err, &e) {
					assert.NotEqual(t, tlsapi.KindInternal, e.Kind, "%v", err)
					assert.NotEqual(t, tlsapi.KindConfig, e.Kind, "%v", err)
				}
			})
		}
	})
}

func (s *suite) testChangedRecord(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		for _, c := range []struct {
			name string
			// at is the changed byte, from the end when negative.
			at int
		}{{"first byte of the ciphertext", 5}, {"in the middle", 60}, {"last byte of the tag", -1}} {
			t.Run(c.name, func(t *testing.T) {
				d := s.connected(t, r, version)
				_, err := d.peer.Write([]byte("good"))
				require.NoError(t, err)
				d.peerWire.Tamper(func(p []byte) {
					if c.at < 0 {
						p[len(p)+c.at] ^= 1
						return
					}
					p[c.at] ^= 1
				})
				_, err = d.peer.Write(make([]byte, 100))
				require.NoError(t, err)
				d.peerWire.Tamper(nil)
				_, err = d.peer.Write([]byte("after"))
				require.NoError(t, err)

				buf := make([]byte, 100)
				n, err := io.ReadFull(d.conn, buf[:4])
				require.NoError(t, err)
				assert.Equal(t, "good", string(buf[:n]))
				for range 2 {
					n, err = d.conn.Read(buf)
					assert.Zero(t, n)
					e := s.requireKind(t, err, tlsapi.KindBadRecord)
					if e.HasAlert {
						assert.Equal(t, alertBadRecordMAC, e.Alert)
					}
				}
				_, err = d.conn.Write([]byte("x"))
				require.Error(t, err, "the connection is dead in both directions")
				// Where the library sends no alert, the close ends the wait.
				assert.NoError(t, d.conn.Close())
				_, peerErr := d.peer.Read(buf)
				s.requireAlertSeen(t, r, encrypted, peerErr, alertBadRecordMAC)
			})
		}
	})
}

// testLateAlert makes the peer send a fatal alert on an established
// connection: by a record that it cannot decrypt.
func (s *suite) testLateAlert(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		d := s.connected(t, r, version)
		_, err := d.peer.Write([]byte("before"))
		require.NoError(t, err)
		d.connWire.Tamper(func(p []byte) { p[len(p)-1] ^= 1 })
		_, err = d.conn.Write([]byte("x"))
		require.NoError(t, err)
		d.connWire.Tamper(nil)
		_, err = d.peer.Read(make([]byte, 1))
		require.Error(t, err)

		buf := make([]byte, 6)
		_, err = io.ReadFull(d.conn, buf)
		require.NoError(t, err)
		assert.Equal(t, "before", string(buf), "data before the alert is delivered")
		for range 2 {
			_, err = d.conn.Read(buf)
			e := s.requireKind(t, err, tlsapi.KindPeerAlert)
			assert.Equal(t, alertBadRecordMAC, e.Alert)
		}
		_, err = d.conn.Write([]byte("x"))
		require.Error(t, err)
		before := len(d.connWire.Written())
		_ = within(t, "Close", d.conn.Close)
		assert.Len(t, d.connWire.Written(), before, "nothing is sent after a fatal alert")
	})
}
