package engine_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A close_notify that the transport takes bit by bit, and late, arrives whole
// although Close has not waited for it.
func TestCloseNotifyOfALateReader(t *testing.T) {
	leftover.Check(t)
	eachProvider(t, func(t *testing.T, f *fixture) {
		client, server, wire, _ := f.connected(t, nil)
		wire.SetCapacity(7)
		within(t, time.Second, "Close", func() { require.NoError(t, client.Close()) })
		select {
		case <-wire.Closed():
			require.Fail(t, "the transport was closed before the record was out")
		case <-time.After(50 * time.Millisecond):
		}
		n, err := server.Read(make([]byte, 10))
		assert.Zero(t, n)
		require.ErrorIs(t, err, io.EOF)
		within(t, time.Second, "the close of the transport", func() { <-wire.Closed() })
	})
}

// A program that was stopped for a while does not take its transport for one that
// ignores deadlines.
func TestCloseNotifyOfAStoppedProgram(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no signals")
	}
	eachProvider(t, func(t *testing.T, f *fixture) {
		var h *hooked
		client, server, wire, _ := f.connected(t, func(c net.Conn) net.Conn { h = &hooked{Conn: c}; return h })
		wire.SetCapacity(7)
		stop := exec.Command("sh", "-c", "kill -STOP $PPID; sleep 1; kill -CONT $PPID")
		var once sync.Once
		write := func(p []byte) (int, error) {
			once.Do(func() { assert.NoError(t, stop.Start()) })
			return wire.Write(p)
		}
		h.write.Store(&write)
		require.NoError(t, client.Close())
		require.NoError(t, stop.Wait())
		n, err := server.Read(make([]byte, 10))
		assert.Zero(t, n)
		require.ErrorIs(t, err, io.EOF)
	})
}

// A transport that is a connection of TLS takes nothing after a write that has
// timed out, so a late reader of it must not meet one.
func TestCloseNotifyThroughTLS(t *testing.T) {
	leftover.Check(t)
	eachProvider(t, func(t *testing.T, f *fixture) {
		wire, serverWire := tlstest.Pipe()
		// As the connections of a listener that keeps account of them.
		outerClient := struct{ *tls.Conn }{tls.Client(wire, &tls.Config{InsecureSkipVerify: true})}
		outerServer := tls.Server(serverWire, &tls.Config{Certificates: f.server.Certificates})
		client, server := f.over(t, outerClient, outerServer)
		t.Cleanup(func() { client.Close(); server.Close() })
		done := make(chan error, 1)
		go func() { done <- server.Handshake() }()
		require.NoError(t, client.Handshake())
		require.NoError(t, <-done)
		// The tickets of both are read before the wire gets narrow.
		go func() { _, err := server.Write([]byte{1}); done <- err }()
		_, err := io.ReadFull(client, make([]byte, 1))
		require.NoError(t, err)
		require.NoError(t, <-done)

		wire.SetCapacity(7)
		within(t, time.Second, "Close", func() { require.NoError(t, client.Close()) })
		time.Sleep(100 * time.Millisecond)
		_, err = server.Read(make([]byte, 10))
		require.ErrorIs(t, err, io.EOF)
	})
}

// A transport that hides a connection of TLS may lose the close_notify when nobody
// reads it, but Close does not wait for it.
func TestCloseThroughHiddenTLS(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		wire, serverWire := tlstest.Pipe()
		outerClient := struct{ net.Conn }{tls.Client(wire, &tls.Config{InsecureSkipVerify: true})}
		outerServer := tls.Server(serverWire, &tls.Config{Certificates: f.server.Certificates})
		client, server := f.over(t, outerClient, outerServer)
		t.Cleanup(func() { wire.Close(); client.Close(); server.Close() })
		done := make(chan error, 1)
		go func() { done <- server.Handshake() }()
		require.NoError(t, client.Handshake())
		require.NoError(t, <-done)
		go func() { _, err := server.Write([]byte{1}); done <- err }()
		_, err := io.ReadFull(client, make([]byte, 1))
		require.NoError(t, err)
		require.NoError(t, <-done)

		wire.SetCapacity(7)
		within(t, time.Second, "Close", func() { require.NoError(t, client.Close()) })
	})
}

// A list of a configuration that was set since, against the rule, is not taken for
// what it was.
func TestChangedConfigurations(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "another CA"})
		client, server := f.client, f.server
		client.ALPN, server.ALPN = []string{"one1", "two2"}, []string{"one1", "two2"}
		server.Certificates = append([]tls.Certificate(nil), server.Certificates...)
		client.RootCAs = tlsapi.NewCertPool()
		for _, cert := range mustCertificates(t, f.client.RootCAs) {
			client.RootCAs.AddCert(cert)
		}
		handshake := func() (tlsapi.ConnectionInfo, tls.ConnectionState, error) {
			one, two := tlstest.Pipe()
			c, err := f.provider.Client(one, &client)
			require.NoError(t, err)
			defer c.Close()
			s, err := f.provider.Server(two, &server)
			require.NoError(t, err)
			defer s.Close()
			var group sync.WaitGroup
			group.Go(func() { _ = s.Handshake() })
			err = c.Handshake()
			one.Close()
			group.Wait()
			return c.Info(), c.ConnectionState(), err
		}
		info, state, err := handshake()
		require.NoError(t, err)
		assert.Equal(t, "one1", info.ALPN)
		assert.Equal(t, f.server.Certificates[0].Certificate[0], state.PeerCertificates[0].Raw)

		server.ALPN[0], server.ALPN[1] = "two2", "one1"
		info, _, err = handshake()
		require.NoError(t, err)
		assert.Equal(t, "two2", info.ALPN)

		server.Certificates[0] = ca.Leaf(t, tlstest.Spec{CommonName: host, DNSNames: []string{host}})
		_, _, err = handshake()
		require.Error(t, err, "the certificate is another CA's")

		for _, cert := range mustCertificates(t, tlstest.Pool(ca)) {
			client.RootCAs.AddCert(cert)
		}
		_, state, err = handshake()
		require.NoError(t, err, "the CA was added to the pool")
		assert.Equal(t, server.Certificates[0].Certificate[0], state.PeerCertificates[0].Raw)
	})
}

// A name whose memory has got other content since, against the rule, is not taken
// for the former: the server has to prove the name that stands there now.
func TestChangedNames(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		memory := []byte(host)
		client := f.client
		client.ServerName = unsafe.String(&memory[0], len(memory))
		handshake := func() (tls.ConnectionState, error) {
			one, two := tlstest.Pipe()
			c, err := f.provider.Client(one, &client)
			require.NoError(t, err)
			defer c.Close()
			s, err := f.provider.Server(two, &f.server)
			require.NoError(t, err)
			defer s.Close()
			var group sync.WaitGroup
			group.Go(func() { _ = s.Handshake() })
			err = c.Handshake()
			one.Close()
			group.Wait()
			return c.ConnectionState(), err
		}
		state, err := handshake()
		require.NoError(t, err)
		assert.Equal(t, host, state.ServerName)

		memory[0] ^= 1
		_, err = handshake()
		require.ErrorIs(t, err, tlsapi.KindHostname)
	})
}

func mustCertificates(t *testing.T, pool *tlsapi.CertPool) []*x509.Certificate {
	list, err := pool.Certificates()
	require.NoError(t, err)
	return list
}
