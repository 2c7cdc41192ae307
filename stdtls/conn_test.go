package stdtls

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

var versions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

// promptly is far below every timeout of the implementation that a wrong one
// would run into, and far above what a busy machine needs, of the time in which the
// process runs (internal/uptime).
const promptly = 2 * time.Second

// overAll runs a test over both versions and both kinds of transport.
func overAll(t *testing.T, test func(t *testing.T, client, server tlsapi.Conn)) {
	ca := newAuthority(t, "CA")
	cert := leaf(t, ca, "server.test")
	for _, version := range versions {
		for name, pair := range pairs {
			t.Run(tlsapi.VersionName(version)+" "+name, func(t *testing.T) {
				client, server := connected(t, pair,
					&tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca)},
					&tlsapi.ServerConfig{Certificates: []tls.Certificate{cert}, Settings: tlsapi.Settings{MaxVersion: version}})
				test(t, client, server)
			})
		}
	}
}

// within fails the test when f takes longer.
func within(t *testing.T, d time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	if _, ok := uptime.Receive(done, d); !ok {
		buf := make([]byte, 1<<16)
		t.Fatalf("%s takes longer than %v\n%s", what, d, buf[:runtime.Stack(buf, true)])
	}
}

func TestEchoAndHalfClose(t *testing.T) {
	overAll(t, func(t *testing.T, client, server tlsapi.Conn) {
		data := make([]byte, 300_000)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		go func() {
			_, _ = io.Copy(server, server)
			server.CloseWrite()
		}()
		go func() {
			_, _ = client.Write(data)
			_ = client.CloseWrite()
		}()
		got, err := io.ReadAll(client)
		require.NoError(t, err)
		require.Equal(t, sha256.Sum256(data), sha256.Sum256(got))

		_, err = client.Write([]byte("x"))
		requireKind(t, err, tlsapi.KindClosed, opWrite)
		require.NoError(t, client.CloseWrite(), "a second CloseWrite has nothing to do")
		_, err = client.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err, "the end stays")
		require.NoError(t, client.Close())
		require.NoError(t, server.Close())
	})
}

func TestInformation(t *testing.T) {
	ca, clientCA := newAuthority(t, "CA"), newAuthority(t, "Client CA")
	serverCert, clientCert := leaf(t, ca, "server.test"), leaf(t, clientCA, "client.test")
	for _, version := range versions {
		t.Run(tlsapi.VersionName(version), func(t *testing.T) {
			client, server := connected(t, tcpPair,
				&tlsapi.ClientConfig{Settings: tlsapi.Settings{ALPN: tlsapi.ALPNH2H1()}, ServerName: "server.test", RootCAs: tlstest.Pool(ca), Certificate: &clientCert},
				&tlsapi.ServerConfig{Settings: tlsapi.Settings{ALPN: tlsapi.ALPNH1(), MaxVersion: version}, Certificates: []tls.Certificate{serverCert},
					ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: tlstest.Pool(clientCA)})
			want := tlsapi.ConnectionInfo{
				Provider:       "std",
				LibraryVersion: runtime.Version(),
				Version:        version,
				CipherSuite:    client.ConnectionState().CipherSuite,
				Group:          client.ConnectionState().CurveID,
				ALPN:           "http/1.1",
				ServerName:     "server.test",
				Verified:       true,
				KeyShares:      offered(nil, tls.VersionTLS13).shares,
			}
			require.NotZero(t, want.CipherSuite)
			require.NotZero(t, want.Group)
			for _, c := range []struct {
				conn tlsapi.Conn
				peer tls.Certificate
			}{{client, serverCert}, {server, clientCert}} {
				leaf := mustParse(t, c.peer.Certificate[0])
				sum := sha256.Sum256(leaf.Raw)
				want.PeerOrganization = "Leaf Inc"
				want.PeerSerial = fmt.Sprintf("%x", leaf.SerialNumber)
				want.PeerSHA256 = hex.EncodeToString(sum[:])
				require.Equal(t, want, c.conn.Info())
				require.True(t, c.conn.ConnectionState().HandshakeComplete)
			}
			a, err := client.ExportKeyingMaterial("EXPORTER-test", []byte("context"), 40)
			require.NoError(t, err)
			b, err := server.ExportKeyingMaterial("EXPORTER-test", []byte("context"), 40)
			require.NoError(t, err)
			require.Len(t, a, 40)
			require.Equal(t, a, b)
			c, err := server.ExportKeyingMaterial("EXPORTER-other", []byte("context"), 40)
			require.NoError(t, err)
			require.NotEqual(t, a, c)
			for _, wrong := range []struct {
				label   string
				context []byte
				length  int
			}{
				{"x", nil, -1}, {"x", nil, 1 << 20}, {strings.Repeat("x", 300), nil, 1}, {"x", make([]byte, 70_000), 1},
			} {
				_, err := client.ExportKeyingMaterial(wrong.label, wrong.context, wrong.length)
				requireKind(t, err, tlsapi.KindConfig, opExport)
			}
		})
	}
}

func TestBeforeTheHandshake(t *testing.T) {
	ct, _ := pipePair(t)
	client, err := Provider.Client(ct, &tlsapi.ClientConfig{InsecureSkipVerify: true})
	require.NoError(t, err)
	require.Same(t, ct, client.NetConn())
	require.Equal(t, ct.LocalAddr(), client.LocalAddr())
	require.Equal(t, ct.RemoteAddr(), client.RemoteAddr())
	require.False(t, client.ConnectionState().HandshakeComplete)
	require.Equal(t, "std", client.Info().Provider)
	_, err = client.ExportKeyingMaterial("x", nil, 1)
	requireKind(t, err, tlsapi.KindProtocol, opExport)
	requireKind(t, client.CloseWrite(), tlsapi.KindProtocol, opClose)
	require.NoError(t, client.Close())
	requireClosed(t, client)
}

// requireClosed checks what every method says after Close.
func requireClosed(t *testing.T, conn tlsapi.Conn) {
	t.Helper()
	_, readErr := conn.Read(make([]byte, 1))
	_, writeErr := conn.Write([]byte("x"))
	_, exportErr := conn.ExportKeyingMaterial("x", nil, 1)
	for name, err := range map[string]error{
		"Close": conn.Close(), "Read": readErr, "Write": writeErr, "CloseWrite": conn.CloseWrite(), "Export": exportErr,
		"SetDeadline": conn.SetDeadline(time.Now()), "SetReadDeadline": conn.SetReadDeadline(time.Now()), "SetWriteDeadline": conn.SetWriteDeadline(time.Now()),
	} {
		require.ErrorIs(t, err, net.ErrClosed, name)
		requireKind(t, err, tlsapi.KindClosed, "")
	}
}

func TestClose(t *testing.T) {
	overAll(t, func(t *testing.T, client, server tlsapi.Conn) {
		read := make(chan error, 1)
		go func() {
			_, err := server.Read(make([]byte, 1))
			read <- err
		}()
		require.NoError(t, client.Close())
		require.Equal(t, io.EOF, <-read, "a close_notify has come")
		requireClosed(t, client)
		require.NoError(t, client.Handshake(), "the handshake was complete")
		require.NoError(t, server.Close())
		requireClosed(t, server)
	})
}

func TestCloseUnblocks(t *testing.T) {
	overAll(t, func(t *testing.T, client, server tlsapi.Conn) {
		read := make(chan error, 1)
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			_, err := client.Read(make([]byte, 1))
			read <- err
		}()
		written := make(chan error, 1)
		go func() {
			_, err := server.Write(make([]byte, 32<<20))
			written <- err
		}()
		// Both wait: the client reads one byte of many, and nobody reads on.
		require.NoError(t, <-read)
		go func() {
			for {
				if _, err := client.Read(make([]byte, 1<<20)); err != nil {
					read <- err
					return
				}
				select {
				case <-stop:
					return
				case <-time.After(time.Minute):
				}
			}
		}()
		time.Sleep(50 * time.Millisecond)
		within(t, promptly, "Close during a Write", func() { require.NoError(t, server.Close()) })
		within(t, promptly, "the Write", func() {
			err := <-written
			requireKind(t, err, tlsapi.KindClosed, opWrite)
			require.ErrorIs(t, err, net.ErrClosed)
		})
	})
	overAll(t, func(t *testing.T, client, server tlsapi.Conn) {
		read := make(chan error, 1)
		go func() {
			_, err := client.Read(make([]byte, 1))
			read <- err
		}()
		time.Sleep(20 * time.Millisecond)
		// Nobody reads at the other end: over the pipe, the close_notify has
		// to wait in the background.
		within(t, promptly, "Close during a Read", func() { require.NoError(t, client.Close()) })
		within(t, promptly, "the Read", func() { requireKind(t, <-read, tlsapi.KindClosed, opRead) })
		_, err := server.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err, "the close_notify went out later")
	})
}

// A peer that takes nothing must not hold Close, nor the transport for good.
func TestCloseTowardsStalledPeer(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 5 s")
	}
	ca := newAuthority(t, "CA")
	var stalled *stallingConn
	client, _ := connected(t, func(t testing.TB) (net.Conn, net.Conn) {
		ct, st := pipePair(t)
		stalled = &stallingConn{Conn: ct, closed: make(chan struct{})}
		return stalled, st
	}, &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca)}, &tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf(t, ca, "server.test")}})
	stalled.stall.Store(true)
	begin := time.Now()
	within(t, promptly, "Close", func() { require.NoError(t, client.Close()) })
	select {
	case <-stalled.closed:
		require.GreaterOrEqual(t, time.Since(begin), time.Second, "the tail had no time")
	case <-time.After(time.Second):
	}
	within(t, tailLimit+promptly, "closing the transport", func() { <-stalled.closed })
}

// stallingConn knows no deadlines, and its Writes wait for Close.
type stallingConn struct {
	net.Conn
	stall  atomic.Bool
	once   sync.Once
	closed chan struct{}
}

func (s *stallingConn) Write(b []byte) (int, error) {
	if !s.stall.Load() {
		return s.Conn.Write(b)
	}
	<-s.closed
	return 0, net.ErrClosed
}

func (s *stallingConn) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.Conn.Close()
}

func (*stallingConn) SetDeadline(time.Time) error      { return nil }
func (*stallingConn) SetReadDeadline(time.Time) error  { return nil }
func (*stallingConn) SetWriteDeadline(time.Time) error { return nil }

// Only a close_notify is io.EOF.
func TestCutConnection(t *testing.T) {
	overAll(t, func(t *testing.T, client, server tlsapi.Conn) {
		require.NoError(t, client.NetConn().Close())
		_, err := server.Read(make([]byte, 1))
		requireKind(t, err, tlsapi.KindTransport, opRead)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.NotErrorIs(t, err, io.EOF)
		_, again := server.Read(make([]byte, 1))
		require.ErrorIs(t, again, io.ErrUnexpectedEOF)
		require.NoError(t, server.Close())
	})
}

// A handshake that is cut at any byte is an unexpected end, never a hang or a
// clean one.
func TestCutHandshake(t *testing.T) {
	ca := newAuthority(t, "CA")
	cert := leaf(t, ca, "server.test")
	for _, version := range versions {
		t.Run(tlsapi.VersionName(version), func(t *testing.T) {
			flight := serverFlight(t, version, cert)
			step := max(1, len(flight)/150)
			for n := 0; n < len(flight); n += step {
				ct, st := tcpPair(t)
				go func() {
					_, _ = io.ReadFull(st, make([]byte, 5))
					_, _ = st.Write(flight[:n])
					_ = st.(*net.TCPConn).CloseWrite()
					_, _ = io.Copy(io.Discard, st)
				}()
				client, err := Provider.Client(ct, &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca)})
				require.NoError(t, err)
				within(t, promptly, "the handshake", func() { err = client.Handshake() })
				require.Error(t, err, "cut after %d bytes", n)
				require.NotErrorIs(t, err, io.EOF)
				e := requireKind(t, err, err.(*tlsapi.Error).Kind, opHandshake)
				if e.Kind == tlsapi.KindTransport {
					require.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut after %d bytes", n)
				} else {
					// The recorded flight answers another ClientHello: its
					// encrypted part cannot be read.
					require.Contains(t, []tlsapi.Kind{tlsapi.KindBadRecord, tlsapi.KindProtocol}, e.Kind)
				}
				client.Close()
				st.Close()
			}
		})
	}
}

// serverFlight records what a server first sends.
func serverFlight(t *testing.T, version uint16, cert tls.Certificate) []byte {
	ct, st := tcpPair(t)
	server, err := Provider.Server(st, &tlsapi.ServerConfig{Certificates: []tls.Certificate{cert}, Settings: tlsapi.Settings{MaxVersion: version}})
	require.NoError(t, err)
	go server.Handshake()
	go func() { _ = tls.Client(&writeOnly{ct}, &tls.Config{InsecureSkipVerify: true}).Handshake() }()
	var flight []byte
	b := make([]byte, 1<<16)
	for wait := time.Minute; ; wait = 200 * time.Millisecond {
		require.NoError(t, ct.SetReadDeadline(time.Now().Add(wait)))
		n, err := ct.Read(b)
		flight = append(flight, b[:n]...)
		if err != nil {
			break
		}
	}
	require.NotEmpty(t, flight)
	server.Close()
	return flight
}

type writeOnly struct{ net.Conn }

func (writeOnly) Read([]byte) (int, error) { return 0, io.EOF }

func TestPeersThatDoNotSpeakTLS(t *testing.T) {
	ca := newAuthority(t, "CA")
	sc := &tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf(t, ca, "server.test")}}
	cc := &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca)}
	for name, text := range map[string]string{
		"HTTP":   "HTTP/1.1 400 Bad Request\r\n\r\n",
		"SSH":    "SSH-2.0-OpenSSH_9.6\r\n",
		"zeroes": strings.Repeat("\x00", 100),
		"SSLv2":  "\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
	} {
		for _, isClient := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s client=%v", name, isClient), func(t *testing.T) {
				ours, theirs := tcpPair(t)
				_, err := theirs.Write([]byte(text))
				require.NoError(t, err)
				conn := newEnd(t, ours, isClient, cc, sc)
				err = conn.Handshake()
				requireKind(t, err, tlsapi.KindNotTLS, opHandshake)
				var header tls.RecordHeaderError
				require.ErrorAs(t, err, &header)
				require.Equal(t, text[:5], string(header.RecordHeader[:]))
				if header.Conn != nil {
					require.Same(t, ours, header.Conn, "net/http answers over it")
				}
				conn.Close()
			})
		}
	}
	t.Run("a record of TLS that is too long", func(t *testing.T) {
		for _, isClient := range []bool{true, false} {
			ours, theirs := tcpPair(t)
			_, err := theirs.Write([]byte{22, 3, 1, 0xff, 0xff, 1})
			require.NoError(t, err)
			requireKind(t, newEnd(t, ours, isClient, cc, sc).Handshake(), tlsapi.KindBadRecord, opHandshake)
		}
	})
	t.Run("random bytes", func(t *testing.T) {
		for range 200 {
			b := make([]byte, 1+rand.IntN(200))
			for i := range b {
				b[i] = byte(rand.Uint32())
			}
			for _, isClient := range []bool{true, false} {
				ours, theirs := tcpPair(t)
				_, err := theirs.Write(b)
				require.NoError(t, err)
				require.NoError(t, theirs.(*net.TCPConn).CloseWrite())
				conn := newEnd(t, ours, isClient, cc, sc)
				within(t, promptly, "the handshake", func() { err = conn.Handshake() })
				require.Error(t, err)
				require.NotErrorIs(t, err, io.EOF)
				conn.Close()
				theirs.Close()
			}
		}
	})
}

func newEnd(t *testing.T, transport net.Conn, isClient bool, cc *tlsapi.ClientConfig, sc *tlsapi.ServerConfig) tlsapi.Conn {
	t.Helper()
	if isClient {
		conn, err := Provider.Client(transport, cc)
		require.NoError(t, err)
		return conn
	}
	conn, err := Provider.Server(transport, sc)
	require.NoError(t, err)
	return conn
}

func TestAlertsInTheHandshake(t *testing.T) {
	for _, c := range []struct {
		name   string
		record []byte
		alert  tls.AlertError
	}{
		{"handshake_failure", []byte{21, 3, 3, 0, 2, 2, 40}, 40},
		{"unknown", []byte{21, 3, 3, 0, 2, 2, 199}, 199},
		{"close_notify", []byte{21, 3, 3, 0, 2, 1, 0}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, theirs := tcpPair(t)
			_, err := theirs.Write(c.record)
			require.NoError(t, err)
			client, err := Provider.Client(ours, &tlsapi.ClientConfig{InsecureSkipVerify: true})
			require.NoError(t, err)
			err = client.Handshake()
			e := requireKind(t, err, tlsapi.KindPeerAlert, opHandshake)
			require.True(t, e.HasAlert)
			require.Equal(t, c.alert, e.Alert)
			require.ErrorIs(t, err, c.alert)
			require.NotErrorIs(t, err, io.EOF)
		})
	}
}

func TestBadRecord(t *testing.T) {
	overAll(t, func(t *testing.T, client, server tlsapi.Conn) {
		go func() {
			garbage := append([]byte{23, 3, 3, 0, 100}, make([]byte, 100)...)
			_, _ = client.NetConn().Write(garbage)
		}()
		go func() { _, _ = io.Copy(io.Discard, client) }()
		_, err := server.Read(make([]byte, 1))
		e := requireKind(t, err, tlsapi.KindBadRecord, opRead)
		require.Equal(t, alertBadRecordMAC, e.Alert)
		_, again := server.Read(make([]byte, 1))
		requireKind(t, again, tlsapi.KindBadRecord, opRead)
		_, err = server.Write([]byte("x"))
		require.Error(t, err, "nothing follows a fatal alert")
		require.NoError(t, server.Close())
	})
}

// After a fatal error nothing is sent, no close_notify either.
func TestCloseAfterFailureIsSilent(t *testing.T) {
	ca := newAuthority(t, "CA")
	var counter *countingConn
	_, server := connected(t, func(t testing.TB) (net.Conn, net.Conn) {
		ct, st := tcpPair(t)
		counter = &countingConn{Conn: st}
		return ct, counter
	}, &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca)}, &tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf(t, ca, "server.test")}})
	counter.cut.Store(true)
	_, err := server.Read(make([]byte, 1))
	requireKind(t, err, tlsapi.KindTransport, opRead)
	before := counter.written.Load()
	require.NoError(t, server.Close())
	require.Equal(t, before, counter.written.Load())
}

// countingConn counts what is written, and can end its Reads.
type countingConn struct {
	net.Conn
	written atomic.Int64
	cut     atomic.Bool
}

func (c *countingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

func (c *countingConn) Read(b []byte) (int, error) {
	if c.cut.Load() {
		return 0, io.EOF
	}
	return c.Conn.Read(b)
}

func TestReadDeadlineIsNotSticky(t *testing.T) {
	overAll(t, func(t *testing.T, client, server tlsapi.Conn) {
		for range 2 {
			require.NoError(t, client.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
			_, err := client.Read(make([]byte, 1))
			requireTimeout(t, err, opRead)
		}
		require.NoError(t, client.SetReadDeadline(time.Time{}))
		go server.Write([]byte("hello"))
		b := make([]byte, 5)
		_, err := io.ReadFull(client, b)
		require.NoError(t, err)
		require.Equal(t, "hello", string(b))
		go io.Copy(io.Discard, server)
		_, err = client.Write([]byte("still writable"))
		require.NoError(t, err)
	})
}

// A deadline that passes in the middle of a record loses nothing.
func TestReadDeadlineInsideARecord(t *testing.T) {
	ca := newAuthority(t, "CA")
	var slow *dribble
	client, server := connected(t, func(t testing.TB) (net.Conn, net.Conn) {
		ct, st := tcpPair(t)
		slow = &dribble{Conn: st}
		return ct, slow
	}, &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca)}, &tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf(t, ca, "server.test")}})
	slow.pause.Store(int64(2 * time.Millisecond))
	go server.Write([]byte("a short message"))
	var got []byte
	b := make([]byte, 100)
	timeouts := 0
	for len(got) < 15 {
		require.NoError(t, client.SetReadDeadline(time.Now().Add(5*time.Millisecond)))
		n, err := client.Read(b)
		got = append(got, b[:n]...)
		if err != nil {
			requireTimeout(t, err, opRead)
			timeouts++
		}
	}
	require.Equal(t, "a short message", string(got))
	require.NotZero(t, timeouts)
}

// dribble writes byte by byte, with a pause after each.
type dribble struct {
	net.Conn
	pause atomic.Int64
}

func (d *dribble) Write(b []byte) (int, error) {
	if d.pause.Load() == 0 {
		return d.Conn.Write(b)
	}
	for i := range b {
		if _, err := d.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
		time.Sleep(time.Duration(d.pause.Load()))
	}
	return len(b), nil
}

func requireTimeout(t testing.TB, err error, op string) {
	t.Helper()
	e := requireKind(t, err, tlsapi.KindTimeout, op)
	require.True(t, e.Timeout())
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	var netErr net.Error
	require.ErrorAs(t, err, &netErr)
	require.True(t, netErr.Timeout())
}

func TestWriteTimeoutIsFatal(t *testing.T) {
	overAll(t, func(t *testing.T, client, server tlsapi.Conn) {
		require.NoError(t, client.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
		var first error
		within(t, promptly, "the Write", func() { _, first = client.Write(make([]byte, 64<<20)) })
		requireTimeout(t, first, opWrite)
		require.NoError(t, client.SetWriteDeadline(time.Time{}))
		_, second := client.Write([]byte("x"))
		require.Same(t, first, second)
		require.Same(t, first, client.CloseWrite())
		// Nothing may follow a torn record, no close_notify either.
		within(t, promptly, "Close", func() { require.NoError(t, client.Close()) })
		_, err := io.Copy(io.Discard, server)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	})
}

func TestDeadlineBeforeTheHandshake(t *testing.T) {
	for name, pair := range pairs {
		for _, isClient := range []bool{true, false} {
			for when, deadline := range map[string]time.Duration{"passed": -time.Second, "later": 30 * time.Millisecond} {
				t.Run(fmt.Sprintf("%s client=%v %s", name, isClient, when), func(t *testing.T) {
					ours, _ := pair(t)
					ca := newAuthority(t, "CA")
					conn := newEnd(t, ours, isClient, &tlsapi.ClientConfig{InsecureSkipVerify: true}, &tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf(t, ca, "x.test")}})
					require.NoError(t, conn.SetDeadline(time.Now().Add(deadline)))
					var err error
					within(t, promptly, "the handshake", func() { err = conn.Handshake() })
					requireTimeout(t, err, opHandshake)
					require.NoError(t, conn.SetDeadline(time.Time{}))
					require.Same(t, err, conn.Handshake(), "a failed handshake is not repeated")
					_, readErr := conn.Read(make([]byte, 1))
					require.Same(t, err, readErr)
					_, writeErr := conn.Write([]byte("x"))
					require.Same(t, err, writeErr)
					within(t, promptly, "Close", func() { require.NoError(t, conn.Close()) })
				})
			}
		}
	}
}

func TestHandshakeTimeout(t *testing.T) {
	ca := newAuthority(t, "CA")
	for _, isClient := range []bool{true, false} {
		settings := tlsapi.Settings{HandshakeTimeout: 50 * time.Millisecond}
		ours, theirs := tcpPair(t)
		conn := newEnd(t, ours, isClient, &tlsapi.ClientConfig{Settings: settings, InsecureSkipVerify: true},
			&tlsapi.ServerConfig{Settings: settings, Certificates: []tls.Certificate{leaf(t, ca, "x.test")}})
		var err error
		within(t, promptly, "the handshake", func() { _, err = conn.Read(make([]byte, 1)) })
		e := requireKind(t, err, tlsapi.KindTimeout, opHandshake)
		require.True(t, e.Timeout())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, _ = io.Copy(io.Discard, theirs)
		_, err = ours.Write([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed, "the transport is closed")
		conn.Close()
	}
	t.Run("not after the handshake", func(t *testing.T) {
		cert := leaf(t, ca, "x.test")
		for limit := 300 * time.Millisecond; ; limit *= 4 {
			settings := tlsapi.Settings{HandshakeTimeout: limit}
			client, server, clientErr, serverErr := connect(t, tcpPair, &tlsapi.ClientConfig{Settings: settings, InsecureSkipVerify: true},
				&tlsapi.ServerConfig{Settings: settings, Certificates: []tls.Certificate{cert}})
			err := errors.Join(clientErr, serverErr)
			if errors.Is(err, context.DeadlineExceeded) && limit < 20*time.Second {
				continue // a machine on which the handshake itself takes that long
			}
			require.NoError(t, err)
			time.Sleep(limit + 100*time.Millisecond)
			go server.Write([]byte("x"))
			_, err = client.Read(make([]byte, 1))
			require.NoError(t, err)
			return
		}
	})
	t.Run("of the chosen configuration", func(t *testing.T) {
		ct, st := tcpPair(t)
		cert := leaf(t, ca, "x.test")
		server := newEnd(t, st, false, nil, &tlsapi.ServerConfig{GetConfigForClient: func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
			return &tlsapi.ServerConfig{Settings: tlsapi.Settings{HandshakeTimeout: 50 * time.Millisecond}, Certificates: []tls.Certificate{cert}}, nil
		}})
		silent := &writeOnlyOpen{ct, make(chan struct{})}
		defer close(silent.end)
		go tls.Client(silent, &tls.Config{InsecureSkipVerify: true}).Handshake()
		var err error
		within(t, promptly, "the handshake", func() { err = server.Handshake() })
		requireKind(t, err, tlsapi.KindTimeout, opHandshake)
	})
}

// writeOnlyOpen reads nothing until the end.
type writeOnlyOpen struct {
	net.Conn
	end chan struct{}
}

func (w *writeOnlyOpen) Read([]byte) (int, error) { <-w.end; return 0, io.EOF }

func TestHandshakeContext(t *testing.T) {
	newClient := func(t *testing.T) (tlsapi.Conn, net.Conn, *atomic.Int32) {
		ours, _ := tcpPair(t)
		failed := new(atomic.Int32)
		client, err := Provider.Client(ours, &tlsapi.ClientConfig{InsecureSkipVerify: true, Settings: tlsapi.Settings{HandshakeFailed: func(error) { failed.Add(1) }}})
		require.NoError(t, err)
		return client, ours, failed
	}
	requireTransportClosed := func(t *testing.T, ours net.Conn) {
		_, err := ours.Write([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)
	}
	t.Run("canceled", func(t *testing.T) {
		client, ours, failed := newClient(t)
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(30*time.Millisecond, cancel)
		var err error
		within(t, promptly, "the handshake", func() { err = client.HandshakeContext(ctx) })
		requireKind(t, err, tlsapi.KindCanceled, opHandshake)
		require.ErrorIs(t, err, context.Canceled)
		requireTransportClosed(t, ours)
		require.EqualValues(t, 1, failed.Load())
		require.Same(t, err, client.Handshake())
		require.EqualValues(t, 1, failed.Load())
	})
	t.Run("deadline", func(t *testing.T) {
		client, ours, _ := newClient(t)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		defer cancel()
		err := client.HandshakeContext(ctx)
		e := requireKind(t, err, tlsapi.KindTimeout, opHandshake)
		require.True(t, e.Timeout())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		requireTransportClosed(t, ours)
	})
	t.Run("canceled before", func(t *testing.T) {
		transport := newRecorder()
		client, err := Provider.Client(transport, &tlsapi.ClientConfig{InsecureSkipVerify: true})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		requireKind(t, client.HandshakeContext(ctx), tlsapi.KindCanceled, opHandshake)
		require.Empty(t, transport.bytes())
		<-transport.closed
	})
	t.Run("canceled while another goroutine runs it", func(t *testing.T) {
		client, ours, failed := newClient(t)
		running := make(chan error, 1)
		go func() { running <- client.Handshake() }()
		time.Sleep(20 * time.Millisecond)
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(20*time.Millisecond, cancel)
		var err error
		within(t, promptly, "the waiting handshake", func() { err = client.HandshakeContext(ctx) })
		requireKind(t, err, tlsapi.KindCanceled, opHandshake)
		within(t, promptly, "the running handshake", func() { requireKind(t, <-running, tlsapi.KindCanceled, opHandshake) })
		requireTransportClosed(t, ours)
		require.EqualValues(t, 1, failed.Load())
	})
	t.Run("closed", func(t *testing.T) {
		client, _, failed := newClient(t)
		running := make(chan error, 2)
		go func() { running <- client.Handshake() }()
		go func() {
			_, err := client.Read(make([]byte, 1))
			running <- err
		}()
		time.Sleep(30 * time.Millisecond)
		within(t, promptly, "Close", func() { require.NoError(t, client.Close()) })
		for range 2 {
			within(t, promptly, "the handshake", func() { requireKind(t, <-running, tlsapi.KindClosed, "") })
		}
		require.True(t, uptime.Eventually(promptly, func() bool { return failed.Load() == 1 }))
	})
	t.Run("canceled after", func(t *testing.T) {
		ca := newAuthority(t, "CA")
		ct, st := tcpPair(t)
		client := newEnd(t, ct, true, &tlsapi.ClientConfig{InsecureSkipVerify: true}, nil)
		server := newEnd(t, st, false, nil, &tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf(t, ca, "x.test")}})
		ctx, cancel := context.WithCancel(context.Background())
		go server.Handshake()
		require.NoError(t, client.HandshakeContext(ctx))
		cancel()
		require.NoError(t, client.HandshakeContext(ctx))
		go server.Write([]byte("x"))
		_, err := client.Read(make([]byte, 1))
		require.NoError(t, err)
	})
}

func TestHooks(t *testing.T) {
	ca := newAuthority(t, "CA")
	cert := leaf(t, ca, "server.test")
	type calls struct {
		verify, complete, failed atomic.Int32
		info                     tlsapi.ConnectionInfo
		err                      error
	}
	settings := func(c *calls, verdict error) tlsapi.Settings {
		return tlsapi.Settings{
			VerifyConnection:  func(tls.ConnectionState) error { c.verify.Add(1); return verdict },
			HandshakeComplete: func(info tlsapi.ConnectionInfo) { c.complete.Add(1); c.info = info },
			HandshakeFailed:   func(err error) { c.failed.Add(1); c.err = err },
		}
	}
	boom := errors.New("boom")
	for _, version := range versions {
		for _, c := range []struct {
			name                         string
			clientVerdict, serverVerdict error
		}{{"accepted", nil, nil}, {"client refuses", boom, nil}, {"server refuses", nil, boom}} {
			t.Run(tlsapi.VersionName(version)+" "+c.name, func(t *testing.T) {
				var onClient, onServer calls
				sc := &tlsapi.ServerConfig{Settings: settings(&onServer, c.serverVerdict), Certificates: []tls.Certificate{cert}}
				sc.MaxVersion = version
				ct, st := tcpPair(t)
				client := newEnd(t, ct, true, &tlsapi.ClientConfig{Settings: settings(&onClient, c.clientVerdict), ServerName: "server.test", RootCAs: tlstest.Pool(ca)}, nil)
				server := newEnd(t, st, false, nil, sc)
				serverErr := make(chan error, 1)
				go func() { serverErr <- server.Handshake() }()
				var group sync.WaitGroup
				for range 10 {
					group.Go(func() { _ = client.Handshake() })
				}
				group.Wait()
				clientErr := client.Handshake()

				switch {
				case c.clientVerdict != nil:
					e := requireKind(t, clientErr, tlsapi.KindRejected, opHandshake)
					require.ErrorIs(t, clientErr, boom)
					require.Equal(t, alertBadCertificate, e.Alert)
					require.Same(t, clientErr, onClient.err)
					require.Equal(t, alertBadCertificate, requireKind(t, <-serverErr, tlsapi.KindPeerAlert, opHandshake).Alert)
					require.EqualValues(t, 0, onClient.complete.Load())
					require.EqualValues(t, 1, onClient.failed.Load())
					require.EqualValues(t, 1, onServer.failed.Load())
				case c.serverVerdict != nil:
					requireKind(t, <-serverErr, tlsapi.KindRejected, opHandshake)
					require.EqualValues(t, 1, onServer.failed.Load())
					require.EqualValues(t, 0, onServer.complete.Load())
					if clientErr == nil {
						_, clientErr = client.Read(make([]byte, 1))
					}
					require.Equal(t, alertBadCertificate, requireKind(t, clientErr, tlsapi.KindPeerAlert, "").Alert)
				default:
					require.NoError(t, errors.Join(clientErr, <-serverErr))
					require.Equal(t, client.Info(), onClient.info)
					require.Equal(t, server.Info(), onServer.info)
					require.EqualValues(t, 1, onClient.complete.Load())
					require.EqualValues(t, 1, onServer.complete.Load())
					require.EqualValues(t, 0, onClient.failed.Load()+onServer.failed.Load())
				}
				require.LessOrEqual(t, onClient.verify.Load(), int32(1))
				require.LessOrEqual(t, onServer.verify.Load(), int32(1))
				client.Close()
				server.Close()
			})
		}
	}
	t.Run("not when never started", func(t *testing.T) {
		var onClient calls
		client := newEnd(t, newRecorder(), true, &tlsapi.ClientConfig{Settings: settings(&onClient, nil), InsecureSkipVerify: true}, nil)
		require.NoError(t, client.Close())
		require.Error(t, client.Handshake())
		require.EqualValues(t, 0, onClient.failed.Load())
	})
	t.Run("after a failed verification only HandshakeFailed", func(t *testing.T) {
		var onClient calls
		client, _, clientErr, _ := connect(t, tcpPair,
			&tlsapi.ClientConfig{Settings: settings(&onClient, nil), ServerName: "other.test", RootCAs: tlstest.Pool(ca)},
			&tlsapi.ServerConfig{Certificates: []tls.Certificate{cert}})
		requireKind(t, clientErr, tlsapi.KindHostname, opHandshake)
		require.EqualValues(t, 0, onClient.verify.Load())
		require.EqualValues(t, 1, onClient.failed.Load())
		client.Close()
	})
	t.Run("may look at the connection and close it", func(t *testing.T) {
		ct, st := tcpPair(t)
		var client tlsapi.Conn
		client = newEnd(t, ct, true, &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca), Settings: tlsapi.Settings{
			VerifyConnection: func(state tls.ConnectionState) error {
				known := client.ConnectionState()
				if !bytes.Equal(known.PeerCertificates[0].Raw, cert.Certificate[0]) || len(state.VerifiedChains) != 1 || client.Info().Version == 0 {
					return errors.New("not known yet")
				}
				return boom
			},
			HandshakeFailed: func(err error) { _ = client.Handshake(); client.Close() },
		}}, nil)
		server := newEnd(t, st, false, nil, &tlsapi.ServerConfig{Certificates: []tls.Certificate{cert}})
		go server.Handshake()
		within(t, promptly, "the handshake", func() { require.ErrorIs(t, client.Handshake(), boom) })
	})
}

// Over a transport without buffers both ends write at once when a client
// refuses a server: neither may wait for the other for good.
func TestRefusalOverUnbufferedTransport(t *testing.T) {
	ca, other := newAuthority(t, "CA"), newAuthority(t, "Other")
	for _, version := range versions {
		ct, st := pipePair(t)
		client := newEnd(t, ct, true, &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(other)}, nil)
		server := newEnd(t, st, false, nil, &tlsapi.ServerConfig{Settings: tlsapi.Settings{MaxVersion: version}, Certificates: []tls.Certificate{leaf(t, ca, "server.test")}})
		serverErr := make(chan error, 1)
		go func() { serverErr <- server.Handshake() }()
		var err error
		within(t, promptly, "the client's handshake", func() { err = client.Handshake() })
		requireKind(t, err, tlsapi.KindUntrusted, opHandshake)
		within(t, promptly, "Close", func() { client.Close() })
		server.Close()
		within(t, promptly, "the server's handshake", func() { require.Error(t, <-serverErr) })
	}
}

// The errors of a TLS connection that is the transport of another one are
// those of a transport.
func TestTLSInsideTLS(t *testing.T) {
	ca := newAuthority(t, "CA")
	cc, sc := &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca)}, &tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf(t, ca, "server.test")}}
	var outer tlsapi.Conn
	client, server := connected(t, func(t testing.TB) (net.Conn, net.Conn) {
		c, s := connected(t, tcpPair, cc, sc)
		outer = s
		return c, s
	}, cc, sc)
	require.NoError(t, client.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := client.Read(make([]byte, 1))
	requireTimeout(t, err, opRead)
	require.NoError(t, client.SetReadDeadline(time.Time{}))
	go server.Write([]byte("x"))
	_, err = client.Read(make([]byte, 1))
	require.NoError(t, err)

	require.NoError(t, outer.Close(), "with a close_notify of the outer connection only")
	_, err = client.Read(make([]byte, 1))
	requireKind(t, err, tlsapi.KindTransport, opRead)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// CloseWrite is a Write: it obeys the caller's deadline, not one of its own.
func TestCloseWriteObeysDeadline(t *testing.T) {
	ca := newAuthority(t, "CA")
	client, _ := connected(t, pipePair, &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca)},
		&tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf(t, ca, "server.test")}})
	require.NoError(t, client.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
	var err error
	within(t, promptly, "CloseWrite", func() { err = client.CloseWrite() })
	requireTimeout(t, err, opClose)
	_, writeErr := client.Write([]byte("x"))
	require.Same(t, err, writeErr)
}

// Everything at once, for the race detector.
func TestConcurrentUse(t *testing.T) {
	overAll(t, func(t *testing.T, client, server tlsapi.Conn) {
		var group sync.WaitGroup
		for _, conn := range []tlsapi.Conn{client, server} {
			for range 3 {
				group.Go(func() {
					b := make([]byte, 1000)
					for {
						if _, err := conn.Read(b); err != nil {
							return
						}
					}
				})
				group.Go(func() {
					for {
						if _, err := conn.Write(make([]byte, 3000)); err != nil {
							return
						}
					}
				})
				group.Go(func() {
					for range 50 {
						_ = conn.SetDeadline(time.Now().Add(time.Minute))
						_ = conn.Info()
						_ = conn.ConnectionState()
						_, _ = conn.ExportKeyingMaterial("x", nil, 10)
						_ = conn.Handshake()
						time.Sleep(time.Millisecond)
					}
				})
			}
		}
		time.Sleep(60 * time.Millisecond)
		within(t, promptly, "Close", func() {
			client.Close()
			client.Close()
			server.Close()
		})
		within(t, 10*time.Second, "the end", group.Wait)
	})
}
