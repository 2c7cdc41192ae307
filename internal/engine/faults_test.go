package engine_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/boringssl"
	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/openssl"
	"github.com/polytls/polytls/s2n"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// The state machine is tested through the libraries that it drives: what they
// want and when is part of what it must cope with.

const host = "server.example"

// eachProvider runs the test with every native provider that is there.
func eachProvider(t *testing.T, test func(*testing.T, *fixture)) {
	eachOf(t, []tlsapi.Provider{openssl.Provider, boringssl.Provider, s2n.Provider}, test)
}

// eachOf runs the test with every provider of the list that is there.
func eachOf(t *testing.T, providers []tlsapi.Provider, test func(*testing.T, *fixture)) {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	cert := ca.Leaf(t, tlstest.Spec{CommonName: host, DNSNames: []string{host}})
	for _, p := range providers {
		t.Run(p.Name(), func(t *testing.T) {
			if err := p.Available(); err != nil {
				t.Skipf("%s: %v", p.Name(), err)
			}
			test(t, &fixture{
				provider: p,
				client:   tlsapi.ClientConfig{ServerName: host, RootCAs: tlstest.Pool(ca)},
				server:   tlsapi.ServerConfig{Certificates: []tls.Certificate{cert}},
			})
		})
	}
}

type fixture struct {
	provider tlsapi.Provider
	client   tlsapi.ClientConfig
	server   tlsapi.ServerConfig
}

// over returns a client and a server over the two transports.
func (f *fixture) over(t testing.TB, one, two net.Conn) (client, server tlsapi.Conn) {
	client, err := f.provider.Client(one, &f.client)
	require.NoError(t, err)
	server, err = f.provider.Server(two, &f.server)
	require.NoError(t, err)
	return client, server
}

// connected returns a client whose transport is wrapped, and its server, after
// the handshake.
func (f *fixture) connected(t testing.TB, wrap func(net.Conn) net.Conn) (client, server tlsapi.Conn, wire, serverWire *tlstest.Transport) {
	wire, serverWire = tlstest.Pipe()
	var transport net.Conn = wire
	if wrap != nil {
		transport = wrap(wire)
	}
	client, server = f.over(t, transport, serverWire)
	t.Cleanup(func() { client.Close(); server.Close() })
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	require.NoError(t, client.Handshake())
	require.NoError(t, <-done)
	return client, server, wire, serverWire
}

// hooked is a transport whose operations can be replaced.
type hooked struct {
	net.Conn
	read, write atomic.Pointer[func([]byte) (int, error)]
}

func (h *hooked) Read(p []byte) (int, error) {
	if f := h.read.Load(); f != nil {
		return (*f)(p)
	}
	return h.Conn.Read(p)
}

func (h *hooked) Write(p []byte) (int, error) {
	if f := h.write.Load(); f != nil {
		return (*f)(p)
	}
	return h.Conn.Write(p)
}

// within fails the test when f takes longer.
func within(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	start := time.Now()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	if _, ok := uptime.Receive(done, limit); !ok {
		stacks := make([]byte, 1<<20)
		t.Errorf("%s took longer than %v:\n%s", what, limit, stacks[:runtime.Stack(stacks, true)])
		<-done
		t.Logf("%s took %v", what, time.Since(start))
	}
}

// garbage is a record that no key has made.
func garbage() []byte {
	return append([]byte{23, 3, 3, 0, 64}, bytes.Repeat([]byte{0x5a}, 64)...)
}

func TestShortWriteOfTheTransport(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		var h *hooked
		client, _, _, _ := f.connected(t, func(c net.Conn) net.Conn { h = &hooked{Conn: c}; return h })
		short := func(p []byte) (int, error) { return h.Conn.Write(p[:len(p)-1]) }
		h.write.Store(&short)
		n, err := client.Write([]byte("lost"))
		require.ErrorIs(t, err, io.ErrShortWrite)
		require.ErrorIs(t, err, tlsapi.KindTransport)
		assert.Zero(t, n)
		h.write.Store(nil)
		_, again := client.Write([]byte("more"))
		assert.Equal(t, err, again)
	})
}

func TestTransportThatReadsNothing(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		var h *hooked
		client, _, _, _ := f.connected(t, func(c net.Conn) net.Conn { h = &hooked{Conn: c}; return h })
		var calls atomic.Int64
		nothing := func([]byte) (int, error) {
			if calls.Add(1) > 100000 {
				return 0, errors.New("asked too often")
			}
			return 0, nil
		}
		h.read.Store(&nothing)
		_, err := client.Read(make([]byte, 10))
		require.ErrorIs(t, err, io.ErrNoProgress)
	})
}

// The memory that the transport reads into is the library's: a count that
// cannot be must not become the size of the input.
func TestTransportWithImpossibleCounts(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		for _, count := range []func([]byte) int{
			func(p []byte) int { return len(p) + 1 },
			func([]byte) int { return -1 },
		} {
			var h *hooked
			client, _, _, _ := f.connected(t, func(c net.Conn) net.Conn { h = &hooked{Conn: c}; return h })
			impossible := func(p []byte) (int, error) { return count(p), nil }
			h.read.Store(&impossible)
			_, err := client.Read(make([]byte, 10))
			require.ErrorIs(t, err, tlsapi.KindTransport)
			require.NoError(t, client.Close())
		}
	})
}

// A cut connection must not pass for a clean end because the transport wraps
// its errors.
func TestWrappedEndOfTheTransport(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		var h *hooked
		client, _, _, _ := f.connected(t, func(c net.Conn) net.Conn { h = &hooked{Conn: c}; return h })
		end := func([]byte) (int, error) { return 0, fmt.Errorf("tunnel: %w", io.EOF) }
		h.read.Store(&end)
		_, err := client.Read(make([]byte, 10))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.NotErrorIs(t, err, io.EOF)
	})
}

// Data that comes together with the end is delivered before it.
func TestDataAndEndTogether(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		var h *hooked
		client, server, _, _ := f.connected(t, func(c net.Conn) net.Conn { h = &hooked{Conn: c}; return h })
		_, err := server.Write([]byte("last words"))
		require.NoError(t, err)
		both := func(p []byte) (int, error) {
			n, err := h.Conn.Read(p)
			if err == nil {
				err = io.EOF
			}
			return n, err
		}
		h.read.Store(&both)
		require.NoError(t, server.Close())
		got, err := io.ReadAll(client)
		require.NoError(t, err)
		assert.Equal(t, "last words", string(got))
	})
}

// After a Write that has sent part of a record nothing can follow: not an alert
// either. The error stays the Write's.
func TestNothingFollowsATornRecord(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		client, _, wire, serverWire := f.connected(t, nil)
		wire.SetCapacity(1000)
		stalled := len(wire.Written()) + 500
		write := make(chan error, 1)
		go func() {
			_, err := client.Write(make([]byte, 1<<20))
			write <- err
		}()
		require.True(t, uptime.Eventually(10*time.Second, func() bool { return len(wire.Written()) > stalled }), "no part of a record was sent")
		require.NoError(t, client.SetWriteDeadline(time.Unix(1, 0)))
		err := <-write
		require.ErrorIs(t, err, tlsapi.KindTimeout)
		before := len(wire.Written())

		wire.SetCapacity(1 << 20)
		_, readErr := serverWire.Write(garbage())
		require.NoError(t, readErr)
		_, readErr = client.Read(make([]byte, 10))
		require.ErrorIs(t, readErr, tlsapi.KindBadRecord)
		_, again := client.Write([]byte("more"))
		assert.Equal(t, err, again, "the first error of the writing half stays")
		require.NoError(t, client.Close())
		assert.Equal(t, before, len(wire.Written()), "something was sent after a torn record")
	})
}

// A handshake that waits for another one's keeps its promise, too: when its
// context ends the transport is closed.
func TestCancelWhileAnotherHandshakes(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		wire, serverWire := tlstest.Pipe()
		client, server := f.over(t, wire, serverWire)
		defer client.Close()
		defer server.Close()
		first := make(chan error, 1)
		go func() { first <- client.Handshake() }()
		require.True(t, uptime.Eventually(10*time.Second, func() bool { return len(wire.Written()) > 0 }))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, client.HandshakeContext(ctx), context.DeadlineExceeded)
		within(t, 2*time.Second, "the close of the transport", func() { <-wire.Closed() })
		require.Error(t, <-first)
	})
}

// A stalled Write is woken by Close also when the connection has failed in the
// meantime and its alert still waits behind that Write.
func TestCloseWakesWriteBeforeAnAlert(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		client, _, wire, serverWire := f.connected(t, nil)
		wire.SetCapacity(1000)
		write := make(chan error, 1)
		stalled := len(wire.Written()) + 500
		go func() {
			_, err := client.Write(make([]byte, 1<<20))
			write <- err
		}()
		require.True(t, uptime.Eventually(10*time.Second, func() bool { return len(wire.Written()) > stalled }))
		_, err := serverWire.Write(garbage())
		require.NoError(t, err)
		_, err = client.Read(make([]byte, 10))
		require.ErrorIs(t, err, tlsapi.KindBadRecord)
		within(t, time.Second, "Close", func() { require.NoError(t, client.Close()) })
		within(t, time.Second, "the Write", func() { require.Error(t, <-write) })
	})
}

// A Close that interrupts a Write must not tell the peer that what has arrived
// is all there was.
func TestCloseInTheMiddleOfAWriteIsNoCleanEnd(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		for range 30 {
			client, server, _, _ := f.connected(t, nil)
			const size = 4 << 20
			type outcome struct {
				n   int
				err error
			}
			wrote, read := make(chan outcome, 1), make(chan outcome, 1)
			received := make(chan struct{})
			go func() {
				n, err := client.Write(make([]byte, size))
				wrote <- outcome{n, err}
			}()
			go func() {
				total, first, buf := 0, true, make([]byte, 8192)
				for {
					n, err := server.Read(buf)
					total += n
					if first && n > 0 {
						first = false
						close(received)
					}
					if err != nil {
						read <- outcome{total, err}
						return
					}
				}
			}()
			<-received
			require.NoError(t, client.Close())
			w, r := <-wrote, <-read
			if w.err == nil {
				require.Equal(t, size, w.n)
				continue
			}
			require.Less(t, w.n, size)
			require.ErrorIs(t, w.err, net.ErrClosed)
			require.Less(t, r.n, size)
			require.ErrorIs(t, r.err, io.ErrUnexpectedEOF)
		}
	})
}

// CloseWrite that fails has the same error the next time.
func TestCloseWriteOnABrokenTransport(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		client, _, wire, _ := f.connected(t, nil)
		broken := errors.New("cable cut")
		wire.Break(broken)
		err := client.CloseWrite()
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skipf("%s cannot half-close", f.provider.Name())
		}
		require.ErrorIs(t, err, broken)
		assert.ErrorIs(t, client.CloseWrite(), broken)
	})
}

// What Info returns belongs to the caller.
func TestInfoIsACopy(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		client, _, _, _ := f.connected(t, nil)
		shares := client.Info().KeyShares
		require.NotEmpty(t, shares)
		shares[0] = 0
		assert.NotZero(t, client.Info().KeyShares[0])
	})
}

// A Write whose data the peer has may not have returned yet when Close is
// called: that is a clean end all the same.
func TestCloseBehindTheLastWriteIsACleanEnd(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		for range 100 {
			client, server, _, _ := f.connected(t, nil)
			wrote := make(chan error, 1)
			go func() {
				_, err := client.Write([]byte("all of it"))
				wrote <- err
			}()
			_, err := io.ReadFull(server, make([]byte, 9))
			require.NoError(t, err)
			require.NoError(t, client.Close())
			require.NoError(t, <-wrote)
			_, err = server.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
		}
	})
}

// A handshake that cannot send looks for the peer's alert for a moment only,
// whatever deadlines others set meanwhile.
func TestDeadlinesOfOthersWhenAHandshakeCannotSend(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		wire, serverWire := tlstest.Pipe()
		defer serverWire.Close()
		h := &hooked{Conn: wire}
		failing := make(chan struct{})
		once := sync.OnceFunc(func() { close(failing) })
		fail := func([]byte) (int, error) { once(); return 0, syscall.EPIPE }
		h.write.Store(&fail)
		client, server := f.over(t, h, serverWire)
		defer client.Close()
		defer server.Close()
		handshake := make(chan error, 1)
		go func() { handshake <- client.Handshake() }()
		<-failing
		var err error
		if !uptime.Eventually(5*time.Second, func() bool {
			_ = client.SetReadDeadline(time.Time{})
			select {
			case err = <-handshake:
				return true
			default:
				return false
			}
		}) {
			t.Error("the handshake waits for a peer to which it cannot send")
			client.Close()
			err = <-handshake
		}
		require.ErrorIs(t, err, syscall.EPIPE)
	})
}

// A handshake whose write deadline has passed does not wait for the peer.
func TestHandshakePastItsWriteDeadline(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		wire, serverWire := tlstest.Pipe()
		defer serverWire.Close()
		var reads atomic.Int64
		h := &hooked{Conn: wire}
		read := func(p []byte) (int, error) { reads.Add(1); return wire.Read(p) }
		h.read.Store(&read)
		client, server := f.over(t, h, serverWire)
		defer client.Close()
		defer server.Close()
		require.NoError(t, client.SetWriteDeadline(time.Unix(1, 0)))
		require.ErrorIs(t, client.Handshake(), tlsapi.KindTimeout)
		assert.Zero(t, reads.Load())
	})
}

// What is sent without a Write, a server's tickets here, may be late for a
// deadline that Writes have: it goes on with what is sent next.
func TestTicketsOutliveAWriteDeadline(t *testing.T) {
	for _, way := range []string{"Write", "Close"} {
		t.Run(way, func(t *testing.T) {
			eachProvider(t, func(t *testing.T, f *fixture) {
				wire, serverWire := tlstest.Pipe()
				h := &hooked{Conn: serverWire}
				late := make(chan struct{})
				f.server.HandshakeComplete = func(tlsapi.ConnectionInfo) {
					var calls atomic.Int64
					half := func(p []byte) (int, error) {
						if calls.Add(1) > 1 {
							return serverWire.Write(p)
						}
						defer close(late)
						n, err := serverWire.Write(p[:len(p)/2])
						return n, errors.Join(err, os.ErrDeadlineExceeded)
					}
					h.write.Store(&half)
				}
				client, server := f.over(t, wire, h)
				defer client.Close()
				defer server.Close()
				done := make(chan error, 1)
				go func() { done <- server.Handshake() }()
				require.NoError(t, client.Handshake())
				require.NoError(t, <-done)
				select {
				case <-late:
				case <-time.After(200 * time.Millisecond):
					t.Skip("the library sends its tickets with the first data")
				}
				sent := ""
				if way == "Write" {
					sent = "hello"
					_, err := server.Write([]byte(sent))
					require.NoError(t, err)
				}
				require.NoError(t, server.Close())
				received, err := io.ReadAll(client)
				require.NoError(t, err)
				assert.Equal(t, sent, string(received))
			})
		})
	}
}
