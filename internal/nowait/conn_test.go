//go:build unix

package nowait_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"

	"github.com/polytls/polytls/internal/nowait"
)

const patience = 10 * time.Second

// pair returns both ends of a connection.
func pair(t testing.TB, network string) (net.Conn, net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "socket")
	}
	l, err := net.Listen(network, address)
	require.NoError(t, err)
	defer l.Close()
	one, err := net.Dial(network, l.Addr().String())
	require.NoError(t, err)
	two, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() {
		one.Close()
		two.Close()
	})
	return one, two
}

func eachNetwork(t *testing.T, test func(t *testing.T, network string)) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) { test(t, network) })
	}
}

func TestNettest(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			one, two := pair(t, network)
			c1, c2 = nowait.Conn(one), nowait.Conn(two)
			return c1, c2, func() { c1.Close(); c2.Close() }, nil
		})
	})
}

// Errors are those of the socket itself, letter by letter.
func TestErrors(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		for name, provoke := range map[string]func(t *testing.T, c, peer net.Conn) error{
			"read after a deadline": func(t *testing.T, c, _ net.Conn) error {
				require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Millisecond)))
				n, err := c.Read(make([]byte, 1))
				assert.Zero(t, n)
				assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
				return err
			},
			"read while it is closed": func(t *testing.T, c, _ net.Conn) error {
				time.AfterFunc(10*time.Millisecond, func() { c.Close() })
				_, err := c.Read(make([]byte, 1))
				assert.ErrorIs(t, err, net.ErrClosed)
				return err
			},
			"read at the end": func(t *testing.T, c, peer net.Conn) error {
				peer.Close()
				_, err := c.Read(make([]byte, 1))
				assert.Equal(t, io.EOF, err)
				return err
			},
			"write to nobody": func(t *testing.T, c, peer net.Conn) error {
				peer.Close()
				for end := time.Now().Add(patience); time.Now().Before(end); {
					if _, err := c.Write([]byte("x")); err != nil {
						return withoutErrno(err)
					}
				}
				return errors.New("it never failed")
			},
			"write after a deadline": func(t *testing.T, c, _ net.Conn) error {
				much := make([]byte, 64<<20)
				_, err := c.Write(much[:1])
				require.NoError(t, err)
				require.NoError(t, c.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
				n, err := c.Write(much)
				assert.Less(t, n, len(much))
				assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
				return err
			},
			"write after Close": func(t *testing.T, c, _ net.Conn) error {
				c.Close()
				_, err := c.Write([]byte("x"))
				assert.ErrorIs(t, err, net.ErrClosed)
				return err
			},
			"read of a reset": func(t *testing.T, c, peer net.Conn) error {
				if tcp, ok := peer.(*net.TCPConn); ok {
					require.NoError(t, tcp.SetLinger(0))
				}
				peer.Close()
				_, err := c.Read(make([]byte, 1))
				return err
			},
		} {
			t.Run(name, func(t *testing.T) {
				plain, plainPeer := pair(t, network)
				quick, quickPeer := pair(t, network)
				want := provoke(t, plain, plainPeer)
				got := provoke(t, nowait.Conn(quick), quickPeer)
				assert.Equal(t, shape(want), shape(got))
			})
		}
	})
}

// withoutErrno is for a reset that comes sooner or later than the refusal.
func withoutErrno(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		var call *os.SyscallError
		if errors.As(err, &call) {
			call.Err = syscall.EPIPE
		}
	}
	return err
}

// shape is an error without what differs between two connections.
func shape(err error) string {
	var op *net.OpError
	if !errors.As(err, &op) {
		return err.Error()
	}
	return op.Op + " " + op.Net + " " + op.Err.Error()
}

func TestNothingIsRead(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		one, _ := pair(t, network)
		c := nowait.Conn(one)
		n, err := c.Read(nil)
		assert.Zero(t, n)
		assert.NoError(t, err, "an empty Read is not the end")
		n, err = c.Write(nil)
		assert.Zero(t, n)
		assert.NoError(t, err)
	})
}

func TestHalfClose(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		one, two := pair(t, network)
		c := nowait.Conn(one)
		_, err := c.Write([]byte("to the end"))
		require.NoError(t, err)
		require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
		text, err := io.ReadAll(two)
		require.NoError(t, err)
		assert.Equal(t, "to the end", string(text))
		_, err = two.Write([]byte("answer"))
		require.NoError(t, err)
		two.Close()
		text, err = io.ReadAll(c)
		require.NoError(t, err)
		assert.Equal(t, "answer", string(text))
	})
}

// Only sockets of the net package are used by their descriptor: a type around one
// may do more than pass bytes on.
func TestOthersStayAsTheyAre(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	assert.Same(t, near, nowait.Conn(near))
	one, _ := pair(t, "tcp")
	around := &struct{ *net.TCPConn }{one.(*net.TCPConn)}
	assert.Same(t, around, nowait.Conn(around))
	assert.NotSame(t, one, nowait.Conn(one))
}
