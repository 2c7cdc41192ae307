package tlstest

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// closeRounds is how often an end closes at once: whether its peer's tickets are
// there by then is a matter of chance.
const closeRounds = 25

// pairCloseAtOnce lets one end close right after it has written, over TCP, with
// the other's session tickets unread or still on their way. TCP answers such
// bytes with a reset, which must not destroy the data.
func pairCloseAtOnce(t *testing.T, c, v *suite, version uint16) {
	sent := randomBytes(256 << 10)
	for _, x := range []struct {
		name   string
		writer role
	}{{"by the client", client}, {"by the server", server}} {
		t.Run(x.name, func(t *testing.T) {
			for round := range closeRounds {
				writer, reader := newTCPPair(t, c, v, version, x.writer)
				type outcome struct {
					data []byte
					err  error
				}
				read, closed := make(chan outcome, 1), make(chan struct{})
				go func() {
					err := reader.Handshake()
					if err != nil {
						reader.Close()
						read <- outcome{err: err}
						return
					}
					<-closed
					data, err := io.ReadAll(reader)
					reader.Close()
					read <- outcome{data, err}
				}()
				require.NoError(t, writer.Handshake(), "round %d", round)
				_, err := writer.Write(sent)
				require.NoError(t, err, "round %d", round)
				require.NoError(t, closeAtOnce(t, writer), "round %d", round)
				close(closed)
				got := <-read
				require.NoError(t, got.err, "round %d, after %d bytes", round, len(got.data))
				require.True(t, bytes.Equal(sent, got.data), "round %d", round)
			}
		})
	}
}

// closeAtOnce closes a connection, which must not wait for anybody.
func closeAtOnce(t *testing.T, c io.Closer) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- c.Close() }()
	err, ok := uptime.Receive(done, atOnce)
	if !ok {
		t.Errorf("Close took longer than %v", atOnce)
		err = <-done
	}
	return err
}

// newTCPPair is newPair over TCP, with room for what is written at the writer's
// end: there a reset destroys it.
func newTCPPair(t *testing.T, c, v *suite, version uint16, writer role) (writes, reads tlsapi.Conn) {
	t.Helper()
	clientConfig, serverConfig := pairConfigs(t, c, v, version)
	clientSide, serverSide := tcpPair(t)
	writeSide := clientSide
	if writer == server {
		writeSide = serverSide
	}
	require.NoError(t, writeSide.(*net.TCPConn).SetWriteBuffer(1<<20))
	clientConn, err := c.p.Client(clientSide, clientConfig)
	require.NoError(t, err)
	serverConn, err := v.p.Server(serverSide, serverConfig)
	require.NoError(t, err)
	if writer == server {
		return serverConn, clientConn
	}
	return clientConn, serverConn
}

// testTicketsUntaken lets a client write and go before the server can send its
// tickets: what it has written arrives.
func (s *suite) testTicketsUntaken(t *testing.T) {
	s.need(t, tlsapi.ServerSessionTickets)
	clientWire, serverWire := newWire(t)
	gated := &gatedReader{Conn: serverWire, open: make(chan struct{})}
	conn, err := s.p.Server(gated, s.serverConfig())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	peer := tls.Client(clientWire, s.referenceClient(only(tls.VersionTLS13)))
	type outcome struct {
		data []byte
		err  error
	}
	read := make(chan outcome, 1)
	go func() {
		data, err := io.ReadAll(conn)
		read <- outcome{data, err}
	}()
	require.NoError(t, peer.Handshake())
	_, err = peer.Write([]byte("last words"))
	require.NoError(t, err)
	require.NoError(t, peer.Close())
	serverWire.SetCapacity(0) // the reset has arrived
	close(gated.open)
	got := <-read
	require.NoError(t, got.err)
	assert.Equal(t, "last words", string(got.data))
}

// gatedReader reads nothing behind the client's first flight until open is
// closed.
type gatedReader struct {
	net.Conn
	answered atomic.Bool
	open     chan struct{}
}

func (g *gatedReader) Write(p []byte) (int, error) {
	g.answered.Store(true)
	return g.Conn.Write(p)
}

func (g *gatedReader) Read(p []byte) (int, error) {
	if g.answered.Load() {
		<-g.open
	}
	return g.Conn.Read(p)
}
