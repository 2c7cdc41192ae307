package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

// began is what clock counts from.
var began = time.Now()

// clock is a monotonic time that fits into an atomic.
func clock() int64 { return int64(time.Since(began)) }

// transport is an accepted connection on its way to a generation.
type transport struct {
	net.Conn
	generation *generation
}

// conn is a client's connection. It is what the handlers of net/http see, too.
type conn struct {
	tlsapi.Conn
	generation *generation
	remote     net.Addr // the client's, as the PROXY protocol tells
	local      net.Addr // where the client has connected to, likewise

	lastRead     atomic.Int64 // by clock
	lastWrite    atomic.Int64
	writingSince atomic.Int64 // zero when no Write is under way
	// streaming says that nothing but bytes tell whether it is in use: in mode
	// tcp, and after an upgrade.
	streaming  atomic.Bool
	other      atomic.Pointer[io.Closer] // what it is forwarded to while streaming
	requests   atomic.Int32              // under way
	handshaken atomic.Bool
	http1      atomic.Bool // known from the first request on
	closed     atomic.Bool
	deadline   readDeadline
}

// serverConn makes the connection of an accepted transport. It reads the PROXY
// protocol header, if one is expected, and so may block for the time of a
// handshake. It owns t when it fails, too.
func (g *generation) serverConn(t *transport) (tlsapi.Conn, error) {
	c := &conn{generation: g, remote: t.RemoteAddr(), local: t.LocalAddr()}
	settings := g.tls.Load()
	err := c.readProxyHeader(t.Conn, settings.config.HandshakeTimeout)
	if err == nil {
		c.Conn, err = settings.provider.Server(t.Conn, settings.config)
	}
	if err != nil {
		t.Conn.Close()
		g.release()
		g.log.Debug("connection refused", "client", c.remote.String(), "error", err)
		return nil, err
	}
	g.add(c)
	return c, nil
}

// RemoteAddr is the client's address.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// LocalAddr is the address that the client has connected to.
func (c *conn) LocalAddr() net.Addr { return c.local }

// HandshakeContext implements tlsapi.Conn.
func (c *conn) HandshakeContext(ctx context.Context) error {
	first := c.handshaken.CompareAndSwap(false, true)
	err := c.Conn.HandshakeContext(ctx)
	if first {
		c.lastRead.Store(clock())
		if err != nil {
			c.generation.log.Debug("handshake failed", "client", c.remote.String(), "error", err)
		}
	}
	return err
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 1 && c.http1.Load() && !c.streaming.Load() {
		// Only net/http's look after the client reads a single byte.
		if err := c.deadline.watch(); err != nil {
			return 0, err
		}
	}
	c.deadline.begin(c.Conn)
	n, err := c.Conn.Read(p)
	c.deadline.end()
	if n > 0 {
		c.lastRead.Store(clock())
	}
	return n, err
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	c.writingSince.Store(clock())
	n, err := c.Conn.Write(p)
	c.writingSince.Store(0)
	c.lastWrite.Store(clock())
	return n, err
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.deadline.set(c.Conn, t) }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Close implements net.Conn.
func (c *conn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.generation.remove(c)
	}
	return c.Conn.Close()
}

// cut ends a connection from outside: without close_notify and with a reset, so
// that nobody takes it for a clean end. Who uses it then closes it.
func (c *conn) cut() {
	if tcp, ok := c.NetConn().(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.NetConn().Close()
	if other := c.other.Load(); other != nil {
		(*other).Close()
	}
}

// inUse reports whether somebody waits for what is to come over it.
func (c *conn) inUse() bool { return c.streaming.Load() || c.requests.Load() > 0 }

// overdue reports whether a limit of the listener has been passed.
func (c *conn) overdue(now int64, idle, stall time.Duration) bool {
	if since := c.writingSince.Load(); stall > 0 && since > 0 && now-since > int64(stall) {
		return true
	}
	if idle <= 0 || !c.streaming.Load() {
		return false
	}
	return now-max(c.lastRead.Load(), c.lastWrite.Load()) > int64(idle)
}
