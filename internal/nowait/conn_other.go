//go:build !unix

// Package nowait reads and writes sockets with system calls that never wait. Go's
// poller tells when to try again.
package nowait

import "net"

// Conn returns c: there are no such calls on this system.
func Conn(c net.Conn) net.Conn { return c }
