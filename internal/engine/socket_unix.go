//go:build unix

package engine

import (
	"io"
	"net"
	"os"
	"syscall"
)

// socket is a transport whose descriptor is read and written without waiting.
type socket struct {
	transport net.Conn
	raw       syscall.RawConn

	// What read and readOnce tell each other; guarded by readMu.
	engine Engine
	space  []byte
	n      int
	err    error
	// once is readOnce, made one time only.
	once func(fd uintptr) bool
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
	s.once = s.readOnce
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
		n, err := syscall.Read(int(fd), s.space)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			s.engine.InputReceived(0)
			return false
		case err != nil:
			s.err = &net.OpError{Op: "read", Net: s.transport.LocalAddr().Network(), Source: s.transport.LocalAddr(),
				Addr: s.transport.RemoteAddr(), Err: os.NewSyscallError("read", err)}
		case n == 0:
			s.err = io.EOF
		default:
			s.n = n
		}
		return true
	}
}

// tryWrite writes what the socket takes at once, and returns how much that was.
// What stands in the way of the rest is for the next Write of the transport to
// find.
func (s *socket) tryWrite(b []byte) (written int) {
	_ = s.raw.Write(func(fd uintptr) bool {
		for written < len(b) {
			// Go's sockets do not block.
			n, err := syscall.Write(int(fd), b[written:])
			if err == syscall.EINTR {
				continue
			}
			if err != nil || n <= 0 {
				break
			}
			written += n
		}
		return true
	})
	return written
}
