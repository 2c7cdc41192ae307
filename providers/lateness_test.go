package providers_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// muchData is more than sockets take.
var muchData = make([]byte, 32<<20)

// waiting is a stage at which an operation waits.
type waiting struct {
	name string
	// prepare makes a connection at that stage; operation is what waits.
	prepare   func(t *testing.T, p tlsapi.Provider) (conn tlsapi.Conn, end func())
	operation func(ctx context.Context, conn tlsapi.Conn) error
	// contexts says that the operation takes one.
	contexts bool
}

func handshakeOf(ctx context.Context, conn tlsapi.Conn) error { return conn.HandshakeContext(ctx) }

var waitings = []waiting{
	{"a client's handshake, nothing received", func(t *testing.T, p tlsapi.Provider) (tlsapi.Conn, func()) {
		return stalledHandshake(t, p, 0)
	}, handshakeOf, true},
	{"a client's handshake, in the middle", func(t *testing.T, p tlsapi.Provider) (tlsapi.Conn, func()) {
		return stalledHandshake(t, p, 300)
	}, handshakeOf, true},
	{"a server's handshake, in a hook", blockedHook, handshakeOf, true},
	{"Read", idleConnection, func(_ context.Context, conn tlsapi.Conn) error {
		_, err := conn.Read(make([]byte, 1))
		return err
	}, false},
	{"Write", idleConnection, func(_ context.Context, conn tlsapi.Conn) error {
		_, err := conn.Write(muchData)
		return err
	}, false},
}

// stalledHandshake is a client of which the server's bytes stop.
func stalledHandshake(t *testing.T, p tlsapi.Provider, after int) (tlsapi.Conn, func()) {
	clientConfig, serverConfig := pairConfigs(t)
	one, two := tlstest.Pipe()
	two.Hold()
	two.Release(after)
	client, server := ends(t, p, one, two, clientConfig, serverConfig)
	var peer sync.WaitGroup
	peer.Go(func() { _ = server.Handshake() })
	return client, func() { client.Close(); server.Close(); peer.Wait() }
}

// blockedHook is a server whose hook waits for the end of the handshake.
func blockedHook(t *testing.T, p tlsapi.Provider) (tlsapi.Conn, func()) {
	clientConfig, serverConfig := pairConfigs(t)
	released := make(chan struct{})
	serverConfig.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
		select {
		case <-hello.Context().Done():
		case <-released:
		}
		return nil, errors.New("too late")
	}
	one, two := tlstest.Pipe()
	client, server := ends(t, p, one, two, clientConfig, serverConfig)
	var peer sync.WaitGroup
	peer.Go(func() { _ = client.Handshake() })
	return server, func() { close(released); client.Close(); server.Close(); peer.Wait() }
}

// idleConnection is a client whose server neither reads nor writes.
func idleConnection(t *testing.T, p tlsapi.Provider) (tlsapi.Conn, func()) {
	clientConfig, serverConfig := pairConfigs(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	one, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	two, err := listener.Accept()
	require.NoError(t, err)
	client, server := handshaken(t, p, one, two, clientConfig, serverConfig)
	return client, func() { client.Close(); server.Close() }
}

// TestLateness measures how long after a deadline or the end of a context an
// operation returns, at every stage. That it returns is the test; how late is
// reported.
func TestLateness(t *testing.T) {
	leftover.Check(t)
	count := max(5, int(soakScale(t)*200))
	eachNamed(t, "", func(t *testing.T, p tlsapi.Provider) {
		for _, w := range waitings {
			for _, way := range []string{"deadline", "context"} {
				if way == "context" && !w.contexts {
					continue
				}
				if way == "deadline" && w.name == "a server's handshake, in a hook" {
					continue // deadlines are the transport's; a hook has the context
				}
				var late []time.Duration
				for range count {
					late = append(late, w.once(t, p, way == "context"))
				}
				t.Logf("%s, %s, %s: late by %v at the median, p99 %v, at most %v", p.Name(), w.name, way,
					percentile(late, 50).Round(10*time.Microsecond), percentile(late, 99).Round(10*time.Microsecond), late[len(late)-1].Round(10*time.Microsecond))
			}
		}
	})
}

func (w *waiting) once(t *testing.T, p tlsapi.Provider, contexts bool) time.Duration {
	conn, end := w.prepare(t, p)
	defer end()
	at := time.Now().Add(20 * time.Millisecond)
	ctx := context.Background()
	if contexts {
		limited, cancel := context.WithDeadline(ctx, at)
		defer cancel()
		ctx = limited
	} else {
		require.NoError(t, conn.SetDeadline(at))
	}
	done := make(chan error, 1)
	go func() { done <- w.operation(ctx, conn) }()
	err, ok := uptime.Receive(done, time.Minute)
	late := time.Since(at)
	require.True(t, ok, "the end of the wait is ignored: %s", w.name)
	assert.ErrorIs(t, err, tlsapi.KindTimeout, w.name)
	return late
}
