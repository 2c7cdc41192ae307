package tlstest

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseClientHello(t *testing.T) {
	client, server := Pipe()
	conn := tls.Client(client, &tls.Config{
		ServerName:       "server.example",
		NextProtos:       []string{"h2", "http/1.1"},
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
		CipherSuites:     []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	})
	require.NoError(t, client.SetReadDeadline(time.Now().Add(time.Millisecond)))
	require.Error(t, conn.Handshake())
	require.NoError(t, server.Close())

	hello, err := ParseClientHello(client.Written())
	require.NoError(t, err)
	assert.Equal(t, "server.example", hello.ServerName)
	assert.Equal(t, []string{"h2", "http/1.1"}, hello.ALPN)
	assert.Equal(t, []tls.CurveID{tls.X25519, tls.CurveP256}, hello.Groups)
	assert.Equal(t, []tls.CurveID{tls.X25519}, hello.KeyShares)
	assert.Equal(t, []uint16{tls.VersionTLS13, tls.VersionTLS12}, hello.SupportedVersions)
	assert.Contains(t, hello.SignatureSchemes, tls.Ed25519)
	tls13, tls12 := hello.Suites()
	assert.Len(t, tls13, 3)
	assert.Equal(t, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, tls12)

	for n := range client.Written() {
		_, err := ParseClientHello(client.Written()[:n])
		assert.Error(t, err, "the first %d bytes", n)
	}
}

func TestTransport(t *testing.T) {
	t.Run("data then end of file", func(t *testing.T) {
		client, server := Pipe()
		_, err := client.Write([]byte("hello"))
		require.NoError(t, err)
		require.NoError(t, client.Close())
		require.ErrorIs(t, client.Close(), net.ErrClosed)
		got, err := io.ReadAll(server)
		require.NoError(t, err)
		assert.Equal(t, "hello", string(got))
		assert.Equal(t, "hello", string(client.Written()))
		n, err := server.Write(make([]byte, 64<<10))
		assert.NoError(t, err, "nobody has said yet that the data is lost")
		assert.Equal(t, 64<<10, n)
		_, err = server.Write([]byte("x"))
		assert.ErrorIs(t, err, syscall.EPIPE)
	})
	t.Run("cut", func(t *testing.T) {
		client, server := Pipe()
		client.CutAfter(3)
		n, err := client.Write([]byte("hello"))
		require.NoError(t, err)
		assert.Equal(t, 5, n)
		got, err := io.ReadAll(server)
		require.NoError(t, err)
		assert.Equal(t, "hel", string(got))
		_, err = client.Read(make([]byte, 1))
		assert.ErrorIs(t, err, io.EOF)
	})
	t.Run("hold and release", func(t *testing.T) {
		client, server := Pipe()
		client.Hold()
		_, err := client.Write([]byte("hello"))
		require.NoError(t, err)
		client.Release(2)
		buf := make([]byte, 10)
		n, err := server.Read(buf)
		require.NoError(t, err)
		assert.Equal(t, "he", string(buf[:n]))
		client.Release(-1)
		n, err = server.Read(buf)
		require.NoError(t, err)
		assert.Equal(t, "llo", string(buf[:n]))
	})
	t.Run("deadlines", func(t *testing.T) {
		client, server := Pipe()
		require.NoError(t, client.SetReadDeadline(time.Now().Add(time.Millisecond)))
		_, err := client.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, client.SetReadDeadline(time.Time{}))
		_, err = server.Write([]byte("x"))
		require.NoError(t, err)
		_, err = client.Read(make([]byte, 1))
		require.NoError(t, err)

		client.SetCapacity(10)
		require.NoError(t, client.SetWriteDeadline(time.Now().Add(time.Millisecond)))
		n, err := client.Write(make([]byte, 20))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		assert.Equal(t, 10, n)
	})
}
