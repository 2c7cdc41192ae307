package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

// copyBuffers are the buffers of both directions: what is on its way through
// the proxy is bounded by them.
var copyBuffers = sync.Pool{New: func() any { return new(copyBuffer) }}

type copyBuffer [32 << 10]byte

// serveTCP runs a connection of mode tcp to its end.
func (g *generation) serveTCP(t *transport) {
	accepted, err := g.serverConn(t)
	if err != nil {
		return
	}
	c := accepted.(*conn)
	defer c.Close()
	// Close and the configuration's timeout end it.
	if err := c.HandshakeContext(g.uncut); err != nil {
		return
	}
	began := time.Now()
	record := connectionRecord{}
	c.requests.Add(1) // The client waits.
	backend, chosen, err := g.pool.connect(g.uncut, c)
	if err == nil {
		c.attach(backend)
		record.received, record.sent, err = forward(c, backend)
		record.backend = chosen.config.Address
	} else {
		g.log.Warn("no backend", "client", c.remote.String(), "error", err)
		// Not a clean end: nothing was served.
		abort(c)
	}
	duration := time.Since(began)
	g.metrics.connection(duration, record.received, record.sent)
	if access := g.access.Load(); access != nil {
		record.listener, record.duration, record.err = g.config.Name, duration, err
		access.connection(c, &record)
	}
}

// quietTime is how long a backend that cannot be told of the client's end must
// have sent nothing until its connection is closed.
const quietTime = time.Second

// forward copies both ways until both ends are done, and closes the backend's
// connection. It returns what has come from the client and what has gone to it.
func forward(client *conn, backend net.Conn) (received, sent int64, err error) {
	up, ended := make(chan error, 1), make(chan struct{})
	var quiet atomic.Bool
	go func() {
		var err error
		received, err = copyHalf(backend, client)
		switch {
		case err != nil:
			abort(backend)
			abort(client)
		case closeWrite(backend) != nil:
			// A library that cannot half-close.
			if client.waitForQuiet(quietTime, ended) {
				quiet.Store(true)
				backend.Close()
			}
		}
		up <- err
	}()
	sent, err = copyHalf(client, backend)
	close(ended)
	switch {
	case err != nil && quiet.Load():
		err = nil
		client.Close()
	case err != nil:
		abort(backend)
		abort(client)
	case closeWrite(client) != nil:
		// The client would wait for the end: it gets that of everything.
		client.Close()
		backend.Close()
	}
	if upErr := <-up; err == nil && !errors.Is(upErr, net.ErrClosed) {
		err = upErr
	}
	backend.Close()
	return received, sent, err
}

// waitForQuiet waits until nothing has been written to the client for a time.
// It is false when ended comes first.
func (c *conn) waitForQuiet(quiet time.Duration, ended <-chan struct{}) bool {
	from := clock()
	for {
		left := quiet - time.Duration(clock()-max(from, c.lastWrite.Load()))
		if left <= 0 {
			return true
		}
		select {
		case <-ended:
			return false
		case <-time.After(left):
		}
	}
}

// copyHalf copies until src ends; at its clean end the error is nil.
func copyHalf(dst io.Writer, src io.Reader) (n int64, err error) {
	buffer := copyBuffers.Get().(*copyBuffer)
	defer copyBuffers.Put(buffer)
	for {
		got, readErr := src.Read(buffer[:])
		if got > 0 {
			written, err := dst.Write(buffer[:got])
			n += int64(written)
			if err != nil {
				return n, err
			}
		}
		switch {
		case readErr == io.EOF:
			return n, nil
		case readErr != nil:
			return n, readErr
		}
	}
}

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// abort closes a connection so that its peer does not take what it has got for
// everything: without close_notify, and with a reset where there is TCP.
func abort(c net.Conn) {
	socket := c
	if secure, ok := c.(tlsapi.Conn); ok {
		socket = secure.NetConn()
		// Its memory, once who uses it has left.
		defer secure.Close()
	}
	if tcp, ok := socket.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	socket.Close()
}
