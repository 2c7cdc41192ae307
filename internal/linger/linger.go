// Package linger closes transports without losing what was written last.
//
// TCP answers data that nobody reads any more with a reset, and a reset
// destroys what the other end has not received yet. A TLS client that closes
// early has often not read its session tickets: they are such data.
package linger

import (
	"io"
	"net"
	"sync"
	"time"
)

const (
	// Limit is how long a transport may stay open for its peer to close.
	Limit = 5 * time.Second
	// maxBytes is how much input is discarded meanwhile: many times the
	// tickets of a server. A peer that sends more has not noticed the close.
	maxBytes = 1 << 20
)

// Input is what is known of the input of a transport.
type Input int

const (
	// Unknown is the answer for transports that are no sockets.
	Unknown Input = iota
	// None says that nothing waits at the moment.
	None
	// Waiting says that unread bytes wait.
	Waiting
	// Ended says that no more input can come.
	Ended
)

// Close half-closes the transport, and closes it when discard returns, which reads
// its input to the end: see Discard. It returns at once. False means that the
// transport cannot be half-closed; it is as it was then.
func Close(transport net.Conn, discard func()) bool {
	half, ok := transport.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return false
	}
	stop := func() bool { return true }
	switch transport.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		// A transport that ignores deadlines is closed by the timer.
		stop = time.AfterFunc(Limit, func() { transport.Close() }).Stop
	}
	go func() {
		defer stop()
		defer transport.Close()
		discard()
	}()
	return true
}

// lock is that of whoever reads from a transport.
type lock interface {
	sync.Locker
	TryLock() bool
}

// Await takes the lock of whoever reads from the transport, and closes that where it
// takes longer than Limit: a Read may be in the program's own code, a session cache,
// and stay there.
func Await(transport net.Conn, reading lock) {
	if reading.TryLock() {
		return
	}
	limit := time.AfterFunc(Limit, func() { transport.Close() })
	defer limit.Stop()
	reading.Lock()
}

// Discard reads the input of a transport and drops it, until it ends or Limit is
// over.
func Discard(transport net.Conn) {
	if transport.SetReadDeadline(time.Now().Add(Limit)) == nil {
		_, _ = io.CopyN(io.Discard, transport, maxBytes)
	}
}
