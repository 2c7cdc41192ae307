//go:build unix && (!linux || race || 386 || s390x)

package nowait

import (
	"errors"
	"syscall"
)

// Read and Write never wait: Go's sockets do not block. The race detector learns
// from these calls that what happened before a write has happened before the read
// of it.

// Read reads what is there.
func Read(fd uintptr, b []byte) (int, syscall.Errno) {
	n, err := syscall.Read(int(fd), b)
	return n, errnoOf(err)
}

// Write writes what the socket takes.
func Write(fd uintptr, b []byte) (int, syscall.Errno) {
	n, err := syscall.Write(int(fd), b)
	return n, errnoOf(err)
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		return syscall.EIO
	}
	return errno
}
