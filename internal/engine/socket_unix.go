//go:build unix

package engine

import (
	"net"
	"syscall"
)

// socket is a transport whose descriptor takes what it can without waiting.
type socket struct {
	raw syscall.RawConn
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
	return &socket{raw: raw}
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
