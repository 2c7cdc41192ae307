package stdtls

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/polytls/polytls/internal/blinding"
	"github.com/polytls/polytls/internal/linger"
	"github.com/polytls/polytls/tlsapi"
)

const (
	// tailWait is how long a failing handshake or Close waits for its last
	// bytes to go out: enough for a transport that takes them, not noticed
	// where it does not.
	tailWait = 50 * time.Millisecond
	// tailLimit is how long they may take in the background.
	tailLimit = 5 * time.Second
)

// transport stands between crypto/tls and the caller's net.Conn. It makes the
// two ends of a stream tell apart (crypto/tls reports a connection cut between
// records and a close_notify alike), marks errors that come from below, sees
// the first ClientHello and the alerts, and sends the last bytes, an alert of
// the handshake or the close_notify, without waiting for the peer.
type transport struct {
	net.Conn
	client bool

	// Reads are serialized by crypto/tls. readErr is an error that came
	// together with data: it is returned next.
	readErr   error
	closeOnce sync.Once
	closeErr  error

	mu      sync.Mutex
	writing int
	// broken is the error of a failed write. A part of a record may be out, so
	// it was the last write.
	broken *transportError
	// withheld takes all output when withholding.
	withholding bool
	withheld    []byte
	// tailSent is not nil when the last bytes are on their way, and closed
	// when they are out or lost.
	tailSent chan struct{}
	// lingering closes in the background what must not be closed at once, and
	// returns false otherwise. It is set before finish, or nil.
	lingering func() bool
	// blinding is the longest blinding delay: fatal alerts wait for it when it
	// is not zero. alerted is set when one has been written, and heldAlert is
	// it. While notifying, what crypto/tls writes is a close_notify.
	blinding  time.Duration
	alerted   bool
	heldAlert []byte
	notifying bool
	// hold is not nil once the delay has begun: inner belongs to it.
	hold *blinding.Hold
	// watching is true during the handshake.
	watching bool
	hello    helloRecorder
	// alert is the last one sent in the clear, -1 for none.
	alert int
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
	alert, last := lastAlert(b)
	t.mu.Lock()
	if t.withholding {
		if last && t.blinding > 0 && !t.notifying {
			// Of a Read that fails while Close says that all is well.
			t.mu.Unlock()
			return len(b), nil
		}
		t.withheld = append(t.withheld, b...)
		t.mu.Unlock()
		return len(b), nil
	}
	if t.broken != nil {
		t.mu.Unlock()
		return 0, t.broken
	}
	if t.tailSent != nil || t.alerted {
		t.mu.Unlock()
		return 0, markTransport(errAfterTail)
	}
	if t.watching && t.client {
		t.hello.add(b)
	}
	if last && (t.watching || t.blinding > 0 && !t.notifying) {
		if t.watching {
			t.alert = alert
		}
		if t.blinding > 0 {
			// It waits for what the error will be: see conn.blind.
			t.alerted, t.heldAlert = true, bytes.Clone(b)
			t.mu.Unlock()
			return len(b), nil
		}
		t.mu.Unlock()
		// The peer may be writing, too, and not read before that is done:
		// over a transport without buffers both would wait forever.
		t.sendTail(b)
		return len(b), nil
	}
	t.writing++
	t.mu.Unlock()

	n, err := t.Conn.Write(b)

	t.mu.Lock()
	defer t.mu.Unlock()
	t.writing--
	if err != nil {
		t.broken = markTransport(err)
		if t.hold != nil {
			t.hold.DropAlert()
		}
		return n, t.broken
	}
	return n, nil
}

var errAfterTail = errors.New("the connection has failed and its alert was the last to be sent")

// SetWriteDeadline sets none: crypto/tls would replace the caller's. It calls it
// to send a close_notify, with a deadline to come before that and one that has
// passed after it, and lets nobody else write in between.
func (t *transport) SetWriteDeadline(deadline time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.notifying = time.Until(deadline) > 0
	return nil
}

// RemoteAddr is the same for all: crypto/tls makes the key of a session without
// a server name of it, which sessions ignores, and needs one that is not empty.
func (t *transport) RemoteAddr() net.Addr { return &net.UnixAddr{Net: "peer", Name: "peer"} }

// Close closes the caller's net.Conn, once; it leaves one alone that waits for
// the blinding delay.
func (t *transport) Close() error {
	t.mu.Lock()
	held := t.hold != nil
	t.mu.Unlock()
	if held {
		return nil
	}
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
func (t *transport) keyShares() []tlsapi.CurveID {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hello.offer.shares
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
	if t.writing > 0 || t.broken != nil {
		return false
	}
	t.withholding = true
	return true
}

// finish sends what was withheld and closes, as soon as the last bytes are out.
// It returns at once: what the peer does not take is sent in the background for
// at most tailLimit. Discard reads and drops the input when no Read does any more.
func (t *transport) finish(discard func()) error {
	t.mu.Lock()
	if t.hold != nil {
		t.mu.Unlock()
		return nil
	}
	tail := t.withheld
	t.withheld = nil
	t.mu.Unlock()
	if len(tail) > 0 {
		t.sendTail(tail)
	}

	t.mu.Lock()
	sent := t.tailSent
	t.mu.Unlock()
	if sent == nil {
		return t.end()
	}
	select {
	case <-sent:
		return t.end()
	default:
	}
	// The timer is for transports that ignore deadlines.
	limit := time.AfterFunc(tailLimit, func() { _ = t.Close() })
	discarded := make(chan struct{})
	// This ends a Read that waits for the peer while the transport is open.
	if t.Conn.SetReadDeadline(time.Unix(1, 0)) == nil {
		go func() {
			// A peer that writes may read nothing before that is done.
			defer close(discarded)
			discard()
		}()
	} else {
		close(discarded)
	}
	go func() {
		<-sent
		limit.Stop()
		if t.lingering == nil || !linger.Close(t.Conn, func() { <-discarded }) {
			_ = t.Close()
		}
	}()
	return nil
}

// end closes the transport, or lingers.
func (t *transport) end() error {
	if t.lingering != nil && t.lingering() {
		return nil
	}
	return t.Close()
}

// sendTail sends the last bytes in the background and waits for tailWait.
func (t *transport) sendTail(b []byte) {
	tail := bytes.Clone(b)
	sent := make(chan struct{})
	t.mu.Lock()
	t.tailSent = sent
	t.mu.Unlock()
	_ = t.Conn.SetWriteDeadline(time.Now().Add(tailLimit))
	go func() {
		defer close(sent)
		_, _ = t.Conn.Write(tail)
	}()
	wait := time.NewTimer(tailWait)
	defer wait.Stop()
	select {
	case <-sent:
	case <-wait.C:
	}
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

// lastAlert reports whether the last of the records in b is an alert, and which
// one: -1 when it is encrypted. TLS 1.3 hides the type of a record; no handshake
// message is so short that its record could be that of an encrypted alert, and
// connections that blind avoid records with two bytes of data (see
// conn.writeTLS). Without blinding it holds for handshakes only.
func lastAlert(b []byte) (alert int, last bool) {
	const (
		recordAlert       = 21
		recordApplication = 23
		alertBytes        = 2
		// The alert, its record type and the tag of every AEAD of TLS 1.3.
		encryptedAlertBytes = alertBytes + 1 + 16
	)
	for len(b) >= recordHeader {
		n := int(b[3])<<8 | int(b[4])
		if len(b) < recordHeader+n {
			return -1, false
		}
		alert, last = -1, false
		switch {
		case b[0] == recordAlert && n == alertBytes:
			alert, last = int(b[recordHeader+1]), true
		case b[0] == recordAlert || b[0] == recordApplication && n == encryptedAlertBytes:
			last = true
		}
		b = b[recordHeader+n:]
	}
	return alert, last
}
