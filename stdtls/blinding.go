package stdtls

import (
	"time"

	"github.com/polytls/polytls/internal/blinding"
	"github.com/polytls/polytls/tlsapi"
)

// blindingDelay is the longest delay of a configuration; by default there is
// none.
func blindingDelay(s *tlsapi.Settings) time.Duration { return blinding.Max(s.MaxBlindingDelay, 0) }

// blinded reports whether errors of this kind are hidden from the peer: those
// that its bytes, its certificate or a verdict about them caused.
func blinded(kind tlsapi.Kind) bool {
	switch kind {
	case tlsapi.KindTransport, tlsapi.KindTimeout, tlsapi.KindCanceled, tlsapi.KindClosed,
		tlsapi.KindPeerAlert, tlsapi.KindNotTLS:
		return false
	}
	return true
}

// blind begins the delay of a failed connection where there is one to be; where
// not, an alert that waited for this decision goes out.
func (c *conn) blind(e *tlsapi.Error) {
	longest := blindingDelay(c.settings)
	if longest == 0 {
		return
	}
	if !blinded(e.Kind) {
		c.transport.releaseAlert()
		return
	}
	c.deadlines.Lock()
	defer c.deadlines.Unlock()
	if !c.isClosed() {
		c.transport.beginHold(longest)
	}
}

// setBlinding sets the longest delay from now on; zero is none.
func (t *transport) setBlinding(longest time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.blinding = longest
}

// holdFailure begins the delay of a connection whose alert has been written
// while the error is on its way to conn.blind; false when there is none.
func (t *transport) holdFailure() bool {
	t.mu.Lock()
	longest, failed := t.blinding, len(t.heldAlert) > 0 && t.hold == nil
	t.mu.Unlock()
	if failed {
		t.beginHold(longest)
	}
	return failed
}

// releaseAlert sends an alert that was held back.
func (t *transport) releaseAlert() {
	t.mu.Lock()
	alert := t.heldAlert
	t.heldAlert = nil
	torn := t.broken != nil || t.writing > 0
	t.mu.Unlock()
	if len(alert) > 0 && !torn {
		t.sendTail(alert)
	}
}

// beginHold gives the caller's net.Conn to the blinding delay and wakes who
// waits for it.
func (t *transport) beginHold(longest time.Duration) {
	t.mu.Lock()
	if t.hold != nil {
		t.mu.Unlock()
		return
	}
	alert := t.heldAlert
	t.heldAlert = nil
	if t.broken != nil {
		alert = nil
	}
	hold := blinding.New(t.Conn, alert)
	t.hold = hold
	t.mu.Unlock()
	// A Write that this interrupts drops the alert.
	_ = t.Conn.SetDeadline(time.Unix(1, 0))
	hold.Start(longest)
}

// blindingPending reports whether the delay has begun and not ended.
func (t *transport) blindingPending() bool {
	t.mu.Lock()
	hold := t.hold
	t.mu.Unlock()
	return hold != nil && hold.Pending()
}

// held reports whether the delay has begun.
func (t *transport) held() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hold != nil
}

// maxRecordData is the most data in a record of TLS.
const maxRecordData = 1 << 14

// writeTLS writes with crypto/tls. On a connection that blinds, no record has
// two bytes of data: in TLS 1.3 it would look like an alert.
func (c *conn) writeTLS(b []byte) (int, error) {
	if blindingDelay(c.settings) == 0 || len(b)%maxRecordData != 2 {
		return c.tls.Write(b)
	}
	n, err := c.tls.Write(b[:len(b)-1])
	if err != nil {
		return n, err
	}
	last, err := c.tls.Write(b[len(b)-1:])
	return n + last, err
}
