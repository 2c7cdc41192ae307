//go:build unix

// Package nowait reads and writes sockets with system calls that never wait. Go's
// poller tells when to try again.
package nowait

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// Conn returns a connection that reads and writes the socket of c with Read and
// Write, where c is exactly a *net.TCPConn or a *net.UnixConn of a stream; any
// other c comes back as it is. What it returns has all methods of net.Conn with
// their semantics, CloseRead and CloseWrite, and owns c.
func Conn(c net.Conn) net.Conn {
	var s socket
	switch c := c.(type) {
	case *net.TCPConn:
		s = c
	case *net.UnixConn:
		if c.LocalAddr().Network() != "unix" {
			return c
		}
		s = c
	default:
		return c
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return c
	}
	w := &conn{socket: s, raw: raw}
	w.in.once, w.out.all = w.in.readOnce, w.out.writeAll
	return w
}

type socket interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
	SyscallConn() (syscall.RawConn, error)
}

type conn struct {
	socket
	raw syscall.RawConn
	in  reading
	out writing
}

// reading is what Read and the function that RawConn calls tell each other.
type reading struct {
	mu   sync.Mutex
	b    []byte
	n    int
	err  error
	once func(fd uintptr) bool // readOnce, made one time only
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return c.socket.Read(b)
	}
	r := &c.in
	r.mu.Lock()
	defer r.mu.Unlock()
	r.b, r.n, r.err = b, 0, nil
	rawErr := c.raw.Read(r.once)
	r.b = nil
	switch {
	case rawErr != nil:
		// A deadline, or the socket is closed: it knows the words.
		return c.socket.Read(b)
	case r.err != nil && r.err != io.EOF:
		return 0, c.opError("read", r.err)
	}
	return r.n, r.err
}

func (r *reading) readOnce(fd uintptr) bool {
	for {
		n, errno := Read(fd, r.b)
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			return false
		case errno != 0:
			r.err = errno
		case n == 0:
			r.err = io.EOF
		default:
			r.n = n
		}
		return true
	}
}

// writing is the same for Write.
type writing struct {
	mu  sync.Mutex
	b   []byte
	err error
	all func(fd uintptr) bool // writeAll, made one time only
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return c.socket.Write(b)
	}
	w := &c.out
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b, w.err = b, nil
	rawErr := c.raw.Write(w.all)
	n := len(b) - len(w.b)
	w.b = nil
	switch {
	case rawErr != nil:
		more, err := c.socket.Write(b[n:])
		return n + more, err
	case w.err != nil:
		return n, c.opError("write", w.err)
	}
	return n, nil
}

func (w *writing) writeAll(fd uintptr) bool {
	for len(w.b) > 0 {
		n, errno := Write(fd, w.b)
		switch {
		case errno == syscall.EINTR:
		case errno == syscall.EAGAIN:
			return false
		case errno != 0:
			w.err = errno
			return true
		case n == 0:
			w.err = io.ErrUnexpectedEOF
			return true
		default:
			w.b = w.b[n:]
		}
	}
	return true
}

// opError is the error that the socket would return.
func (c *conn) opError(op string, err error) error {
	if errno, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
