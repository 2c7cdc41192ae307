//go:build !unix

package engine

import "net"

// socket does not exist on systems without the calls of Unix.
type socket struct{}

func newSocket(net.Conn) *socket { return nil }

func (*socket) read(Engine) ([]byte, int, error) { return nil, 0, errAskTransport }

func (*socket) write([]byte) (int, error) { return 0, errAskTransport }

func (*socket) tryWrite([]byte) int { return 0 }
