//go:build unix

package linger

import (
	"net"
	"syscall"
)

// Look looks at the input of a socket and leaves it there.
func Look(transport net.Conn) Input {
	socket, ok := transport.(syscall.Conn)
	if !ok {
		return Unknown
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return Ended
	}
	input := Ended
	if raw.Control(func(fd uintptr) {
		var one [1]byte
		for {
			// Go's sockets do not block.
			n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK)
			switch {
			case err == syscall.EINTR:
				continue
			case err == syscall.EAGAIN:
				input = None
			case err == nil && n > 0:
				input = Waiting
			case err == syscall.ENOTSOCK:
				input = Unknown
			}
			return
		}
	}) != nil {
		return Ended
	}
	return input
}
