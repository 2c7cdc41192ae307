//go:build linux && !race && !386 && !s390x

package nowait

import (
	"syscall"
	"unsafe"
)

// Read and Write never wait, so the scheduler is not told of them: that would cost
// more than is left of the call, and it would give the processor to another
// thread in the middle of a long one. The flags make it true also for a socket
// that somebody has made blocking through a duplicate of the descriptor.

// Read reads what is there.
func Read(fd uintptr, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		syscall.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// Write writes what the socket takes.
func Write(fd uintptr, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}
