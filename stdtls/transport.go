package stdtls

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// closeGrace is how long Close itself tries to send the close_notify.
	closeGrace = 10 * time.Millisecond
	// closeTail is how long the background sender may go on after that.
	closeTail = 5 * time.Second
)

// transport stands between crypto/tls and the caller's net.Conn. It makes the
// two ends of a stream tell apart (crypto/tls reports a connection cut between
// records and a close_notify alike), marks errors that come from below, sees
// the first ClientHello and the plaintext alerts, and takes the close_notify
// out of crypto/tls without waiting for the network.
type transport struct {
	net.Conn
	client bool

	// Reads are serialized by crypto/tls. readErr is an error that came
	// together with data: it is returned next.
	readErr error

	closeOnce sync.Once
	closeErr  error

	mu      sync.Mutex
	writing int
	// broken is set when a write failed: a part of a record may be out.
	broken bool
	// withheld takes all output when withholding.
	withholding bool
	withheld    []byte
	// watching is true during the handshake.
	watching bool
	hello    helloRecorder
	alert    int
}

func newTransport(inner net.Conn, client bool) *transport {
	return &transport{Conn: inner, client: client, watching: true, alert: -1}
}

func (t *transport) Read(b []byte) (int, error) {
	if t.readErr != nil {
		return 0, t.readErr
	}
	n, err := t.Conn.Read(b)
	if n > 0 && !t.client {
		t.recordHello(b[:n])
	}
	if err == nil {
		return n, nil
	}
	marked := markTransport(err)
	if n == 0 {
		return 0, marked
	}
	if !marked.Timeout() {
		t.readErr = marked
	}
	return n, nil
}

func (t *transport) Write(b []byte) (int, error) {
	t.mu.Lock()
	if t.withholding {
		t.withheld = append(t.withheld, b...)
		t.mu.Unlock()
		return len(b), nil
	}
	t.writing++
	if t.watching {
		if t.client {
			t.hello.add(b)
		}
		if a := plaintextAlert(b); a >= 0 {
			t.alert = a
		}
	}
	t.mu.Unlock()

	n, err := t.Conn.Write(b)

	t.mu.Lock()
	defer t.mu.Unlock()
	t.writing--
	if err != nil {
		t.broken = true
		return n, markTransport(err)
	}
	return n, nil
}

// SetWriteDeadline is called by crypto/tls for a close_notify. While that is
// withheld, the deadlines are this type's own affair.
func (t *transport) SetWriteDeadline(d time.Time) error {
	t.mu.Lock()
	withholding := t.withholding
	t.mu.Unlock()
	if withholding {
		return nil
	}
	return t.Conn.SetWriteDeadline(d)
}

// Close closes the caller's net.Conn, once.
func (t *transport) Close() error {
	t.closeOnce.Do(func() { t.closeErr = t.Conn.Close() })
	return t.closeErr
}

func (t *transport) recordHello(b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watching {
		t.hello.add(b)
	}
}

// handshakeOver ends the watching.
func (t *transport) handshakeOver() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.watching = false
}

// keyShares returns the groups with a share in the first ClientHello.
func (t *transport) keyShares() []uint16 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hello.keyShares()
}

// sentAlert returns the alert that was sent in the clear, or -1.
func (t *transport) sentAlert() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.alert
}

// withhold diverts all output from now on into memory; false when that would
// tear a record: a write is under way or has failed.
func (t *transport) withhold() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.writing > 0 || t.broken {
		return false
	}
	t.withholding = true
	return true
}

// finish sends what was withheld and closes. It returns at once: what the peer
// does not take is sent in the background for at most closeTail.
func (t *transport) finish() error {
	t.mu.Lock()
	tail := t.withheld
	t.withheld = nil
	t.mu.Unlock()
	if len(tail) == 0 {
		return t.Close()
	}

	switch t.Conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		// The usual case: the socket takes the few bytes right away.
		if err := t.Conn.SetWriteDeadline(time.Now().Add(closeGrace)); err != nil {
			return t.Close()
		}
		n, err := t.Conn.Write(tail)
		if err == nil || !timedOut(err) {
			return t.Close()
		}
		t.wakeReaders()
		go t.sendTail(tail[n:])
		return nil
	}

	// Another transport may wait for the peer, and may not know deadlines.
	t.wakeReaders()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		t.sendTail(tail)
	}()
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	select {
	case <-sent:
		return t.closeErr
	case <-grace.C:
		return nil
	}
}

// wakeReaders ends a Read that waits for the peer, while the transport is
// still open for the tail.
func (t *transport) wakeReaders() { _ = t.Conn.SetReadDeadline(time.Unix(1, 0)) }

func (t *transport) sendTail(tail []byte) {
	// The timer is for transports that ignore deadlines.
	limit := time.AfterFunc(closeTail, func() { _ = t.Close() })
	defer limit.Stop()
	_ = t.Conn.SetWriteDeadline(time.Now().Add(closeTail))
	_, _ = t.Conn.Write(tail)
	_ = t.Close()
}

// transportError marks an error of the caller's net.Conn on its way through
// crypto/tls, which keeps an error for good unless it is temporary.
type transportError struct{ err error }

func markTransport(err error) *transportError {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &transportError{err}
}

func (e *transportError) Error() string   { return e.err.Error() }
func (e *transportError) Unwrap() error   { return e.err }
func (e *transportError) Timeout() bool   { return timedOut(e.err) }
func (e *transportError) Temporary() bool { return timedOut(e.err) }

func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// plaintextAlert returns the description of the last alert among the
// unencrypted records in b, or -1. Encrypted alerts are longer or of another
// record type.
func plaintextAlert(b []byte) int {
	const (
		header    = 5
		alertType = 21
	)
	found := -1
	for len(b) >= header {
		n := int(b[3])<<8 | int(b[4])
		if len(b) < header+n {
			break
		}
		if b[0] == alertType && n == 2 {
			found = int(b[header+1])
		}
		b = b[header+n:]
	}
	return found
}
