package stdtls

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// unixPair returns the two ends of a Unix-domain connection.
func unixPair(t testing.TB) (client, server net.Conn) {
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	defer listener.Close()
	client, err = net.Dial("unix", listener.Addr().String())
	require.NoError(t, err)
	server, err = listener.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// A client that writes and closes without ever reading leaves the server's
// tickets unread in its socket. What it has written must arrive all the same.
func TestUnreadTicketsLoseNoData(t *testing.T) {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	reference := &tls.Config{
		Certificates: []tls.Certificate{ca.Leaf(t, tlstest.Spec{DNSNames: []string{"server.test"}})},
		// The tickets come after the client's last flight, then, as from most
		// libraries, and not together with the server's.
		ClientAuth: tls.RequestClientCert,
	}
	for name, pair := range map[string]func(testing.TB) (net.Conn, net.Conn){"TCP": tcpPair, "Unix": unixPair} {
		for _, halfClosed := range []bool{false, true} {
			title := name
			if halfClosed {
				title += ", half-closed before"
			}
			t.Run(title, func(t *testing.T) {
				ct, st := pair(t)
				size := 100_000
				if socket, ok := ct.(*net.TCPConn); ok {
					// Most stays at the sender's when it closes.
					size = 400_000
					require.NoError(t, socket.SetWriteBuffer(1<<20))
					require.NoError(t, st.(*net.TCPConn).SetReadBuffer(64<<10))
				}
				server := tls.Server(st, reference)
				config := &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca), SessionCache: tlsapi.NewLRUSessionCache(0)}
				client := newEnd(t, ct, true, config, nil)
				shaken := make(chan error, 1)
				go func() { shaken <- server.Handshake() }()
				require.NoError(t, client.Handshake())
				require.NoError(t, <-shaken)

				data := make([]byte, size)
				for i := range data {
					data[i] = byte(rand.Uint32())
				}
				_, err := client.Write(data)
				require.NoError(t, err)
				if halfClosed {
					require.NoError(t, client.CloseWrite())
				}
				within(t, promptly, "Close", func() { require.NoError(t, client.Close()) })
				requireKind(t, client.Close(), tlsapi.KindClosed, opClose)

				// Long enough for a reset to get there first.
				time.Sleep(50 * time.Millisecond)
				require.NoError(t, server.SetDeadline(time.Now().Add(time.Minute)))
				got, err := io.ReadAll(server)
				require.NoError(t, err)
				require.Equal(t, sha256.Sum256(data), sha256.Sum256(got))
				require.NoError(t, server.Close())
				require.True(t, uptime.Eventually(promptly, func() bool {
					_, err := ct.Write([]byte{0})
					return errors.Is(err, net.ErrClosed)
				}), "the client's socket is closed when the server's is")
			})
		}
	}
}

// A Read that waits when a client closes ends at once, although the socket is
// still read from.
func TestCloseEndsReadsWhileTicketsAreTaken(t *testing.T) {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	ct, st := tcpPair(t)
	server := tls.Server(st, &tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, tlstest.Spec{DNSNames: []string{"server.test"}})}})
	go server.Handshake()
	client := newEnd(t, ct, true, &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca)}, nil)
	require.NoError(t, client.Handshake())
	read := make(chan error, 1)
	go func() {
		_, err := client.Read(make([]byte, 1))
		read <- err
	}()
	time.Sleep(20 * time.Millisecond)
	require.NoError(t, client.Close())
	within(t, promptly, "the Read", func() { requireKind(t, <-read, tlsapi.KindClosed, opRead) })
}

// crypto/tls brackets its close_notify with two write deadlines: transport
// tells it from fatal alerts by that.
func TestCloseNotifyIsToldFromAlerts(t *testing.T) {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	cert := ca.Leaf(t, tlstest.Spec{DNSNames: []string{"server.test"}})
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		client, server := connected(t, tcpPair,
			&tlsapi.ClientConfig{Settings: tlsapi.Settings{MaxBlindingDelay: time.Hour}, ServerName: "server.test", RootCAs: tlstest.Pool(ca)},
			&tlsapi.ServerConfig{Settings: tlsapi.Settings{MaxVersion: version}, Certificates: []tls.Certificate{cert}})
		tr := client.(*conn).transport
		require.False(t, tr.notifying)
		require.NoError(t, client.CloseWrite())
		tr.mu.Lock()
		require.False(t, tr.notifying, "an alert after the close_notify is held")
		require.False(t, tr.alerted, "the close_notify was not")
		tr.mu.Unlock()
		_, err := server.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)

		_, err = server.(*conn).inner.Write([]byte{23, 3, 3, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
		require.NoError(t, err)
		_, err = client.Read(make([]byte, 1))
		requireKind(t, err, tlsapi.KindBadRecord, opRead)
		require.True(t, client.Info().BlindingPending)
		require.NoError(t, server.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		_, err = server.(*conn).inner.Read(make([]byte, 1))
		require.ErrorAs(t, err, new(interface{ Timeout() bool }), "neither the alert nor the end has come: %v", err)
		require.NoError(t, client.Close())
		require.True(t, client.Info().BlindingPending)
	})
}

// The alert of a Read that fails waits for a Write that is blocked; both end
// with the Write's deadline, and the failure is blinded.
func TestReadFailsWhileAWriteIsBlocked(t *testing.T) {
	// A third of the delay is longer than what the Write holds the Read up for.
	const delay, blocked = 900 * time.Millisecond, 200 * time.Millisecond
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	cert := ca.Leaf(t, tlstest.Spec{DNSNames: []string{"server.test"}})
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		client, server := connected(t, tcpPair,
			&tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca)},
			&tlsapi.ServerConfig{Settings: tlsapi.Settings{MaxVersion: version, MaxBlindingDelay: delay}, Certificates: []tls.Certificate{cert}})
		peer := client.(*conn).inner
		written := make(chan error, 1)
		go func() {
			// Nobody reads: the sockets' buffers fill up.
			_, err := server.Write(make([]byte, 64<<20))
			written <- err
		}()
		require.True(t, uptime.Eventually(promptly, func() bool {
			tr := server.(*conn).transport
			tr.mu.Lock()
			defer tr.mu.Unlock()
			return tr.writing > 0
		}))
		_, err := peer.Write([]byte{23, 3, 3, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
		require.NoError(t, err)
		require.NoError(t, server.SetWriteDeadline(time.Now().Add(blocked)))
		// However late this test's goroutine runs: the delay begins after begin.
		begin := time.Now()
		within(t, promptly, "the Read", func() {
			_, err := server.Read(make([]byte, 1))
			requireKind(t, err, tlsapi.KindBadRecord, opRead)
		})
		// The Read's error may be there first.
		within(t, promptly, "the Write", func() {
			err := <-written
			require.True(t, errors.Is(err, tlsapi.KindTimeout) || errors.Is(err, tlsapi.KindBadRecord), "%v", err)
		})
		pending := server.Info().BlindingPending
		require.True(t, pending || time.Since(begin) >= delay/3)
		require.NoError(t, server.Close())
		// The end comes after what was in the buffers, not before the delay.
		require.NoError(t, peer.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err = io.Copy(io.Discard, peer)
		require.NotErrorIs(t, err, errTimeout(peer))
		require.GreaterOrEqual(t, time.Since(begin), delay/3)
		require.True(t, uptime.Eventually(promptly, func() bool { return !server.Info().BlindingPending }))
	})
}

// errTimeout is the error of a Read after its deadline.
func errTimeout(c net.Conn) error {
	_ = c.SetReadDeadline(time.Unix(1, 0))
	_, err := c.Read(make([]byte, 1))
	return err
}

// Close while a failure is on its way from crypto/tls to the caller blinds it,
// too.
func TestCloseWhileAReadFails(t *testing.T) {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	cert := ca.Leaf(t, tlstest.Spec{DNSNames: []string{"server.test"}})
	_, server := connected(t, tcpPair,
		&tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca)},
		&tlsapi.ServerConfig{Settings: tlsapi.Settings{MaxBlindingDelay: time.Hour}, Certificates: []tls.Certificate{cert}})
	tr := server.(*conn).transport
	// What crypto/tls writes for an alert, before Read has returned.
	alert := append([]byte{23, 3, 3, 0, 19}, make([]byte, 19)...)
	n, err := tr.Write(alert)
	require.NoError(t, err)
	require.Equal(t, len(alert), n)
	require.NoError(t, server.Close())
	require.True(t, server.Info().BlindingPending)
}
