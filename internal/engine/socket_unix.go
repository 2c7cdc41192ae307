//go:build unix

package engine

import (
	"io"
	"net"
	"os"
	"syscall"

	"github.com/polytls/polytls/internal/nowait"
)

// socket is a transport whose descriptor is read and written without waiting.
// Go's poller tells when to try again, and rules on deadlines and Close: the
// descriptor is used in the functions of RawConn only, until the system says
// that it would block.
type socket struct {
	transport net.Conn
	raw       syscall.RawConn

	// What read and readOnce tell each other; guarded by readMu. once is
	// readOnce, made one time only.
	engine Engine
	space  []byte
	n      int
	err    error
	once   func(fd uintptr) bool

	// The same for write and writeAll; for who may send. With atOnce nobody
	// waits for the socket.
	out      []byte
	atOnce   bool
	writeErr error
	all      func(fd uintptr) bool
}

// newSocket returns nil for any other transport than a plain socket of the net
// package: a type around one may do more than pass bytes on.
func newSocket(transport net.Conn) *socket {
	var raw syscall.RawConn
	var err error
	switch t := transport.(type) {
	case *net.TCPConn:
		raw, err = t.SyscallConn()
	case *net.UnixConn:
		if t.LocalAddr().Network() != "unix" {
			// Datagrams are not a stream.
			return nil
		}
		raw, err = t.SyscallConn()
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	s := &socket{transport: transport, raw: raw}
	s.once, s.all = s.readOnce, s.writeAll
	return s
}

// read reads as the transport would, and borrows memory from the engine only when
// there is something to read. The caller has readMu and ends the loan.
func (s *socket) read(engine Engine) (space []byte, n int, err error) {
	s.engine, s.space, s.n, s.err = engine, nil, 0, nil
	if s.raw.Read(s.once) != nil {
		// A deadline, or the socket is closed.
		return nil, 0, errAskTransport
	}
	return s.space, s.n, s.err
}

func (s *socket) readOnce(fd uintptr) bool {
	s.space = s.engine.InputSpace(true)
	if len(s.space) == 0 {
		return true
	}
	for {
		n, errno := nowait.Read(fd, s.space)
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			s.engine.InputReceived(0)
			return false
		case errno != 0:
			s.err = s.opError("read", errno)
		case n == 0:
			s.err = io.EOF
		default:
			s.n = n
		}
		return true
	}
}

// write writes as the transport would. The caller may send.
func (s *socket) write(b []byte) (written int, err error) {
	s.out, s.atOnce, s.writeErr = b, false, nil
	rawErr := s.raw.Write(s.all)
	written = len(b) - len(s.out)
	s.out = nil
	if rawErr != nil && s.writeErr == nil {
		// A deadline, or the socket is closed.
		return written, errAskTransport
	}
	return written, s.writeErr
}

// tryWrite writes what the socket takes at once, and returns how much that was.
// What stands in the way of the rest is for the next write to find. The caller
// may send.
func (s *socket) tryWrite(b []byte) (written int) {
	s.out, s.atOnce, s.writeErr = b, true, nil
	_ = s.raw.Write(s.all)
	written = len(b) - len(s.out)
	s.out = nil
	return written
}

func (s *socket) writeAll(fd uintptr) bool {
	for len(s.out) > 0 {
		n, errno := nowait.Write(fd, s.out)
		switch {
		case errno == syscall.EINTR:
		case errno == syscall.EAGAIN:
			return s.atOnce
		case errno != 0:
			s.writeErr = s.opError("write", errno)
			return true
		case n == 0:
			s.writeErr = io.ErrUnexpectedEOF
			return true
		default:
			s.out = s.out[n:]
		}
	}
	return true
}

// opError is the error that the transport would return.
func (s *socket) opError(op string, errno syscall.Errno) error {
	return &net.OpError{Op: op, Net: s.transport.LocalAddr().Network(), Source: s.transport.LocalAddr(),
		Addr: s.transport.RemoteAddr(), Err: os.NewSyscallError(op, errno)}
}
