package engine_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"runtime"
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

// choosing returns a server whose certificate hook is f, and its client.
func (f *fixture) choosing(t *testing.T, hook func(*tls.ClientHelloInfo) (*tls.Certificate, error)) (client, server tlsapi.Conn) {
	one, two := tlstest.Pipe()
	t.Cleanup(func() { one.Close(); two.Close() })
	config := f.server
	config.GetCertificate = hook
	client, err := f.provider.Client(one, &f.client)
	require.NoError(t, err)
	server, err = f.provider.Server(two, &config)
	require.NoError(t, err)
	t.Cleanup(func() { client.Close(); server.Close() })
	go client.Handshake()
	return client, server
}

func TestHookThatPanics(t *testing.T) {
	leftover.Check(t)
	eachProvider(t, func(t *testing.T, f *fixture) {
		_, server := f.choosing(t, func(*tls.ClientHelloInfo) (*tls.Certificate, error) { panic("a bug of the program") })
		// Where net/http and others recover from it.
		assert.PanicsWithValue(t, "a bug of the program", func() { server.Handshake() })
		require.ErrorIs(t, server.Handshake(), tlsapi.KindInternal)
		require.NoError(t, server.Close())
	})
}

func TestHookThatEndsItsGoroutine(t *testing.T) {
	leftover.Check(t)
	eachProvider(t, func(t *testing.T, f *fixture) {
		_, server := f.choosing(t, func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			runtime.Goexit()
			return nil, nil
		})
		err := server.Handshake()
		require.ErrorIs(t, err, tlsapi.KindInternal)
		require.ErrorContains(t, err, "ended its goroutine")
	})
}

// What a hook comes to after the connection is gone is released: the address
// sanitizer sees to it, and the goroutine ends.
func TestHookThatOutlivesItsConnection(t *testing.T) {
	leftover.Check(t)
	eachProvider(t, func(t *testing.T, f *fixture) {
		entered, release, returned := make(chan struct{}), make(chan struct{}), make(chan struct{})
		_, server := f.choosing(t, func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			defer close(returned)
			close(entered)
			<-release
			// The transport is closed, but an address still has to be there.
			_ = hello.Conn.RemoteAddr().String()
			return nil, nil
		})
		done := make(chan error, 1)
		go func() { done <- server.Handshake() }()
		<-entered
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-done, net.ErrClosed)
		close(release)
		<-returned
	})
}

// All that use the connection while a hook blocks keep to their promises.
func TestConnectionWhileHookBlocks(t *testing.T) {
	leftover.Check(t)
	eachProvider(t, func(t *testing.T, f *fixture) {
		entered, release := make(chan struct{}), make(chan struct{})
		client, server := f.choosing(t, func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			close(entered)
			<-release
			return nil, nil
		})
		done := make(chan error, 1)
		go func() { done <- server.Handshake() }()
		<-entered
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		assert.False(t, server.ConnectionState().HandshakeComplete)
		assert.Equal(t, f.provider.Name(), server.Info().Provider)
		_, err := server.ExportKeyingMaterial("label", nil, 32)
		assert.Error(t, err)
		assert.Error(t, server.CloseWrite())
		assert.NoError(t, server.SetDeadline(time.Now().Add(time.Minute)))
		// A second caller of the handshake with a context of its own ends it.
		err = server.HandshakeContext(ctx)
		assert.True(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
		assert.Error(t, <-done)
		close(release)
		client.Close()
	})
}

// A handshake that waits for a place among others may learn of its context's end
// before anybody else does: the transport is closed all the same.
func TestContextThatTheHandshakeSeesFirst(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		for range 4 {
			var all sync.WaitGroup
			for i := range 150 {
				all.Go(func() {
					wire, serverWire := tlstest.Pipe()
					client, server := f.over(t, wire, serverWire)
					defer client.Close()
					defer server.Close()
					go func() { _ = client.Handshake() }()
					ctx := &slowContext{context.Background(), make(chan struct{})}
					time.AfterFunc(time.Duration(i)*100*time.Microsecond, func() { close(ctx.done) })
					if err := server.HandshakeContext(ctx); !errors.Is(err, context.Canceled) {
						return // it was done before
					}
					if _, closed := uptime.Receive(serverWire.Closed(), 5*time.Second); !closed {
						t.Error("the transport stays open")
					}
				})
			}
			all.Wait()
		}
	})
}

// slowContext is a context whose end everybody learns from Done alone: the
// package context needs a goroutine for it.
type slowContext struct {
	context.Context
	done chan struct{}
}

func (c *slowContext) Done() <-chan struct{} { return c.done }

func (c *slowContext) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}
