//go:build !unix

package proxy

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
)

// setReusePort is for net.ListenConfig.Control.
func setReusePort(_, _ string, _ syscall.RawConn) error {
	return fmt.Errorf("several processes cannot listen on one port with %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
