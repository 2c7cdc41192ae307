//go:build unix

package proxy

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// setReusePort is for net.ListenConfig.Control.
func setReusePort(_, _ string, raw syscall.RawConn) error {
	var err error
	if outer := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); outer != nil {
		return outer
	}
	return err
}
