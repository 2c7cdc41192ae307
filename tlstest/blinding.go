package tlstest

import (
	"context"
	"crypto/tls"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// blindingDelay is long enough for a third of it to be seen on a busy machine,
// and leaves the suite short.
const blindingDelay = 300 * time.Millisecond

func blinding(delay time.Duration) func(*tlsapi.Settings) {
	return func(s *tlsapi.Settings) { s.MaxBlindingDelay = delay }
}

func (s *suite) testBlinding(t *testing.T) {
	s.need(t, tlsapi.ClientBlinding, tlsapi.ServerBlinding)
	concurrently(t,
		group{"bad record", s.testBlindedRecord},
		group{"bad handshake", s.testBlindedHandshake},
		group{"failed verification", s.testBlindedVerification},
		group{"refused by the hook", s.testBlindedHook},
		group{"off", s.testBlindingOff},
		group{"not blinded", s.testNotBlinded},
		group{"cancellation", s.testBlindedCancellation},
		group{"records of every size", s.testBlindingRecordSizes},
	)
	// These set the limit, and count threads.
	t.Run("close", s.testBlindedClose)
	t.Run("many", s.testBlindedMany)
}

// requireBlinded tests that wire, on which written bytes were written before the
// failure at begin, stays silent and open for a third of the delay and is closed
// in the end. It returns what was written with the close.
func requireBlinded(t *testing.T, wire *Transport, written int, begin time.Time) []byte {
	t.Helper()
	require.True(t, uptime.Eventually(blindingDelay+promptly, func() bool {
		// In this order: what is found to be true was true at a time before
		// the clock was read.
		closed, n := isClosed(wire.Closed()), len(wire.Written())
		elapsed := time.Since(begin)
		if elapsed < blindingDelay/3 {
			require.False(t, closed, "closed after %v", elapsed)
			require.Equal(t, written, n, "something was sent after %v", elapsed)
		}
		return closed
	}), "the transport is still open")
	return wire.Written()[written:]
}

// assertWhileBlinded tests something that holds until the delay of a failure is
// over, which was not before begin. A busy machine may look too late to tell.
func assertWhileBlinded(t *testing.T, begin time.Time, holds func() bool, what string) {
	t.Helper()
	held := holds()
	assert.True(t, held || time.Since(begin) >= blindingDelay/3, what)
}

// failing makes a connection whose next Read finds a record that was changed.
func (s *suite) failing(t *testing.T, r role, version uint16, delay time.Duration) *duo {
	t.Helper()
	d := s.connected(t, r, version, blinding(delay))
	d.peerWire.Tamper(func(p []byte) { p[len(p)-1] ^= 1 })
	_, err := d.peer.Write(make([]byte, 100))
	require.NoError(t, err)
	d.peerWire.Tamper(nil)
	return d
}

func (s *suite) testBlindedRecord(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		for _, closes := range []bool{false, true} {
			name := "left open"
			if closes {
				name = "closed by the user"
			}
			t.Run(name, func(t *testing.T) {
				d := s.failing(t, r, version, blindingDelay)
				written := len(d.connWire.Written())
				begin := time.Now()
				_, err := d.conn.Read(make([]byte, 1))
				s.requireKind(t, err, tlsapi.KindBadRecord)
				assertWhileBlinded(t, begin, func() bool { return d.conn.Info().BlindingPending }, "it is blinded")
				_, err = d.conn.Write([]byte("x"))
				require.Error(t, err)
				assert.NoError(t, d.conn.SetDeadline(time.Now().Add(time.Hour)))
				if closes {
					assert.NoError(t, d.conn.Close())
				}
				last := requireBlinded(t, d.connWire, written, begin)
				assert.False(t, d.conn.Info().BlindingPending)
				// What came is an alert or nothing, and the alert before the end.
				records, err := ParseRecords(last)
				require.NoError(t, err)
				require.LessOrEqual(t, len(records), 1)
				_, peerErr := d.peer.Read(make([]byte, 1))
				s.requireAlertSeen(t, r, encrypted, peerErr, alertBadRecordMAC)
			})
		}
	})
}

func (s *suite) testBlindedHandshake(t *testing.T) {
	eachRole(t, func(t *testing.T, r role) {
		connWire, peerWire := newWire(t)
		if r == server {
			connWire, peerWire = peerWire, connWire
		}
		conn, err := s.make(r, connWire, blinding(blindingDelay))
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		// A ServerHello or ClientHello that is too short for its fields.
		kind := map[role]byte{client: 2, server: 1}[r]
		_, err = peerWire.Write([]byte{RecordHandshake, 3, 3, 0, 8, kind, 0, 0, 4, 3, 3, 0, 0})
		require.NoError(t, err)
		begin := time.Now()
		s.requireKinds(t, within(t, "Handshake", conn.Handshake), tlsapi.KindProtocol, tlsapi.KindBadRecord)
		records, err := ParseRecords(connWire.Written())
		require.NoError(t, err)
		if time.Since(begin) < blindingDelay/3 {
			for _, record := range records {
				assert.EqualValues(t, RecordHandshake, record.Type, "nothing but a client's hello")
			}
			assert.Equal(t, r == client, len(records) > 0)
		}
		requireBlinded(t, connWire, len(connWire.Written()), begin)
	})
}

func (s *suite) testBlindedVerification(t *testing.T) {
	eachVersion(t, func(t *testing.T, version uint16) {
		t.Run("client", func(t *testing.T) {
			other := NewAuthority(t, Spec{CommonName: "Other CA"})
			d := s.clientDuo(t, s.clientConfig(func(c *tlsapi.ClientConfig) {
				c.RootCAs, c.MaxBlindingDelay = Pool(other), blindingDelay
			}), s.referenceServer(only(version)))
			s.requireBlindedHandshake(t, d, client, version, tlsapi.KindUntrusted)
		})
		t.Run("server", func(t *testing.T) {
			s.need(t, tlsapi.ServerClientAuth)
			other := NewAuthority(t, Spec{CommonName: "Other CA"})
			d := s.serverDuo(t, s.serverConfig(func(c *tlsapi.ServerConfig) {
				c.ClientAuth, c.ClientCAs, c.MaxBlindingDelay = tls.RequireAndVerifyClientCert, Pool(other), blindingDelay
			}), s.referenceClient(only(version), sending(&s.clientCert)))
			s.requireBlindedHandshake(t, d, server, version, tlsapi.KindUntrusted)
		})
		t.Run("no certificate", func(t *testing.T) {
			s.need(t, tlsapi.ServerClientAuth)
			d := s.serverDuo(t, s.serverConfig(func(c *tlsapi.ServerConfig) {
				c.ClientAuth, c.ClientCAs, c.MaxBlindingDelay = tls.RequireAndVerifyClientCert, Pool(s.ca), blindingDelay
			}), s.referenceClient(only(version)))
			s.requireBlindedHandshake(t, d, server, version, tlsapi.KindNoCertificate)
		})
	})
}

// requireBlindedHandshake runs a handshake that fails, and whose failure the
// peer hears of only after the delay.
func (s *suite) requireBlindedHandshake(t *testing.T, d *duo, r role, version uint16, kind tlsapi.Kind) {
	t.Helper()
	peerDone := make(chan error, 1)
	begin := time.Now()
	var peerTime time.Duration
	go func() {
		_, err := d.peer.Read(make([]byte, 1))
		peerTime = time.Since(begin)
		peerDone <- err
	}()
	s.requireKind(t, d.conn.Handshake(), kind)
	require.NoError(t, d.conn.Close())
	// No failure was before begin: what is too early after it is too early.
	_, ok := uptime.Receive(d.connWire.Closed(), blindingDelay+2*promptly)
	require.True(t, ok, "the transport is still open")
	assert.GreaterOrEqual(t, time.Since(begin), blindingDelay/3)
	peerErr := result(t, "the peer", peerDone)
	require.Error(t, peerErr)
	assert.GreaterOrEqual(t, peerTime, blindingDelay/3, "what the peer has seen of it: %v", peerErr)
	if kind != tlsapi.KindRejected {
		s.requireAlertSeen(t, r, certificateStage(version), peerErr, append(certificateAlerts, alertHandshakeFailure)...)
	}
}

func (s *suite) testBlindedHook(t *testing.T) {
	s.need(t, tlsapi.ClientVerifyConnection, tlsapi.ServerVerifyConnection)
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		d := s.unconnected(t, r, version, blinding(blindingDelay), func(c *tlsapi.Settings) {
			c.VerifyConnection = func(tls.ConnectionState) error { return io.ErrNoProgress }
		})
		s.requireBlindedHandshake(t, d, r, version, tlsapi.KindRejected)
	})
}

func (s *suite) testBlindingOff(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		d := s.failing(t, r, version, -1)
		_, err := d.conn.Read(make([]byte, 1))
		s.requireKind(t, err, tlsapi.KindBadRecord)
		assert.False(t, d.conn.Info().BlindingPending)
		require.NoError(t, d.conn.Close())
		requireClosedSoon(t, d.connWire)
	})
}

// testNotBlinded ends connections in the ways that are never delayed; the delay
// is one that the suite would not outlast.
func (s *suite) testNotBlinded(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		for name, end := range map[string]func(*testing.T, *duo){
			"own close": func(*testing.T, *duo) {},
			"peer's close": func(t *testing.T, d *duo) {
				require.NoError(t, d.peer.Close())
				_, err := d.conn.Read(make([]byte, 1))
				require.Equal(t, io.EOF, err)
			},
			"cut": func(t *testing.T, d *duo) {
				require.NoError(t, d.peerWire.Close())
				_, err := d.conn.Read(make([]byte, 1))
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			},
			"timeout": func(t *testing.T, d *duo) {
				require.NoError(t, d.conn.SetReadDeadline(time.Unix(1, 0)))
				_, err := d.conn.Read(make([]byte, 1))
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			},
			"peer's alert": func(t *testing.T, d *duo) {
				d.connWire.Tamper(func(p []byte) { p[len(p)-1] ^= 1 })
				_, err := d.conn.Write([]byte("x"))
				require.NoError(t, err)
				_, err = d.peer.Read(make([]byte, 1))
				require.Error(t, err)
				_, err = d.conn.Read(make([]byte, 1))
				s.requireKind(t, err, tlsapi.KindPeerAlert)
			},
		} {
			t.Run(name, func(t *testing.T) {
				d := s.connected(t, r, version, blinding(time.Hour))
				end(t, d)
				assert.False(t, d.conn.Info().BlindingPending)
				require.NoError(t, d.conn.Close())
				requireClosedSoon(t, d.connWire)
			})
		}
	})
	t.Run("plain text", func(t *testing.T) {
		clientWire, serverWire := newWire(t)
		conn, err := s.make(server, serverWire, blinding(time.Hour))
		require.NoError(t, err)
		_, err = clientWire.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		require.NoError(t, err)
		s.requireKind(t, conn.Handshake(), tlsapi.KindNotTLS)
		require.NoError(t, conn.Close())
		requireClosedSoon(t, serverWire)
	})
}

// testBlindedClose tests that neither Close nor a Write in another goroutine
// waits for the delay.
func (s *suite) testBlindedClose(t *testing.T) {
	former := tlsapi.SetBlindedConnectionLimit(0)
	t.Cleanup(func() { tlsapi.SetBlindedConnectionLimit(former) })
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		d := s.failing(t, r, version, time.Hour)
		_, err := d.conn.Read(make([]byte, 1))
		s.requireKind(t, err, tlsapi.KindBadRecord)
		assert.True(t, d.conn.Info().BlindingPending)
		require.NoError(t, within(t, "Close", d.conn.Close))
		assert.False(t, isClosed(d.connWire.Closed()), "Close leaves the transport to the delay")
		assert.True(t, d.conn.Info().BlindingPending)
		// The hour is over when there is no room to wait.
		tlsapi.SetBlindedConnectionLimit(-1)
		requireClosedSoon(t, d.connWire)
		assert.False(t, d.conn.Info().BlindingPending)
		tlsapi.SetBlindedConnectionLimit(0)
	})
}

// testBlindedCancellation tests that a context which ends after the failure
// changes nothing.
func (s *suite) testBlindedCancellation(t *testing.T) {
	eachRole(t, func(t *testing.T, r role) {
		connWire, peerWire := newWire(t)
		if r == server {
			connWire, peerWire = peerWire, connWire
		}
		conn, err := s.make(r, connWire, blinding(blindingDelay))
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		kind := map[role]byte{client: 2, server: 1}[r]
		_, err = peerWire.Write([]byte{RecordHandshake, 3, 3, 0, 8, kind, 0, 0, 4, 3, 3, 0, 0})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		failed := conn.HandshakeContext(ctx)
		written := len(connWire.Written())
		cancel()
		require.ErrorIs(t, conn.HandshakeContext(ctx), failed)
		requireBlinded(t, connWire, written, begin)
	})
}

// testBlindingRecordSizes sends data of sizes whose records an alert could be
// taken for.
func (s *suite) testBlindingRecordSizes(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		d := s.connected(t, r, version, blinding(blindingDelay))
		for _, size := range []int{1, 2, 3, 4, 16384, 16385, 16386, 16387, 32768, 32770} {
			written := make(chan error, 1)
			go func() {
				_, err := d.conn.Write(make([]byte, size))
				written <- err
			}()
			_, err := io.ReadFull(d.peer, make([]byte, size))
			require.NoError(t, err, "%d bytes", size)
			require.NoError(t, <-written)
		}
	})
}

// testBlindedMany lets many connections fail at once.
func (s *suite) testBlindedMany(t *testing.T) {
	record(t)
	const connections, limit = 1000, 100
	former := tlsapi.SetBlindedConnectionLimit(0)
	t.Cleanup(func() {
		// What waits for an hour ends here.
		tlsapi.SetBlindedConnectionLimit(-1)
		tlsapi.SetBlindedConnectionLimit(former)
	})
	fail := func() *Transport {
		clientWire, serverWire, stop := newShortWire()
		t.Cleanup(func() { stop() })
		conn, err := s.make(server, serverWire, blinding(time.Hour))
		require.NoError(t, err)
		_, err = clientWire.Write([]byte{RecordHandshake, 3, 3, 0, 8, 1, 0, 0, 4, 3, 3, 0, 0})
		require.NoError(t, err)
		require.Error(t, conn.Handshake())
		require.NoError(t, conn.Close())
		return serverWire
	}
	before := tlsapi.BlindedConnections()
	wires := []*Transport{fail()}
	goroutines, threads := runtime.NumGoroutine(), threadCount()
	for len(wires) < connections {
		wires = append(wires, fail())
	}
	assert.Equal(t, before+connections, tlsapi.BlindedConnections())
	assert.Less(t, runtime.NumGoroutine()-goroutines, 20, "waiting needs no goroutine")
	assert.Less(t, threadCount()-threads, 20, "waiting needs no thread")
	for i, wire := range wires {
		require.False(t, isClosed(wire.Closed()), "connection %d", i)
		require.Empty(t, wire.Written(), "connection %d", i)
	}
	assert.Equal(t, tlsapi.DefaultBlindedConnectionLimit, tlsapi.SetBlindedConnectionLimit(limit))
	assert.Equal(t, limit, tlsapi.BlindedConnections())
	for _, wire := range wires[:connections-limit] {
		requireClosedSoon(t, wire)
	}
	for i, wire := range wires[connections-limit:] {
		require.False(t, isClosed(wire.Closed()), "connection %d of the youngest", i)
	}
	wires = append(wires, fail())
	requireClosedSoon(t, wires[connections-limit])
	assert.False(t, isClosed(wires[connections-limit+1].Closed()))
	assert.Equal(t, limit, tlsapi.BlindedConnections())
}

// threadCount returns the number of threads of the process, zero where it
// cannot be told.
func threadCount() int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "Threads:" {
			n := 0
			for _, digit := range fields[1] {
				n = n*10 + int(digit-'0')
			}
			return n
		}
	}
	return 0
}
