package engine

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/polytls/polytls/internal/linger"
	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/tlsapi"
)

const (
	// tailLimit is how long a close_notify or an alert may wait for the
	// transport after Close or a failure.
	tailLimit = 5 * time.Second
	// tailWait is how long Close, or a failing call, waits for it to be sent
	// before leaving it to the background: enough for a transport that takes
	// it, not noticed where it does not.
	tailWait = 50 * time.Millisecond
	// deafLimit is how long Close waits for a transport that accepts write
	// deadlines and does not keep them, as time in which the program runs: one
	// that was suspended has not seen the deadline pass.
	deafLimit = 500 * time.Millisecond
)

// CloseWrite sends a close_notify and leaves the reading half open.
func (c *Conn) CloseWrite() error {
	if err := c.enter("close"); err != nil {
		return err
	}
	defer c.leave()
	if !c.handshakeDone.Load() {
		return &tlsapi.Error{Provider: c.options.Provider, Op: "close", Kind: tlsapi.KindProtocol,
			Err: errors.New("CloseWrite before the handshake has completed")}
	}
	if !c.options.HalfClose {
		return &tlsapi.Error{Provider: c.options.Provider, Op: "close", Kind: tlsapi.KindUnsupported, Option: "CloseWrite",
			Err: errors.New("the library stops reading once it has sent a close_notify")}
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closeWrite()
}

// closeWrite is CloseWrite with writeMu and mu held.
func (c *Conn) closeWrite() error {
	if err := c.beginWriting(); err != nil {
		if c.closeNotifySent && !c.closed && fatal(err) == nil {
			err = nil
		}
		return err
	}
	res := c.engine.CloseNotify()
	if res.Status == Failed {
		c.endSending()
		c.readable.Store(true)
		c.writeErr = ResultError(c.options.Provider, "close", res, c.engine.ErrorText())
		return c.writeErr
	}
	c.closeNotifySent = true
	c.writeErr = &tlsapi.Error{Provider: c.options.Provider, Op: "write", Kind: tlsapi.KindClosed,
		Err: errors.New("write after CloseWrite")}
	return c.sendAll()
}

// Close ends the connection.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ClosedError(c.options.Provider, "close")
	}
	c.closed = true
	c.closing.Store(true)
	c.readable.Store(true)
	c.sendFree.Broadcast()
	c.users++
	c.plain.drop()
	c.giveUpWork()
	c.gatherFacts()
	if c.lateOutput != nil {
		c.lateOutput.Stop()
	}
	pending, held := c.tail, c.hold != nil
	// A close_notify goes out after a complete handshake and as long as
	// nothing fatal has happened; not into the middle of somebody's Write: it
	// would tell the peer that the part that has arrived is all.
	clean := pending == nil && !held && !c.writing && c.handshakeDone.Load() && fatal(c.readErr) == nil && fatal(c.writeErr) == nil
	notify := clean && !c.closeNotifySent
	c.mu.Unlock()
	defer c.leave()

	if held {
		// The transport belongs to the hold, and nobody waits for it any more.
		return nil
	}
	if pending == nil && !notify {
		if clean && c.wakeReader() && c.linger() {
			return nil
		}
		return c.closeTransport()
	}
	t := pending
	if notify {
		c.mu.Lock()
		c.engine.CloseNotify()
		c.closeNotifySent = true
		c.mu.Unlock()
		t = c.startTail()
	}
	woken := t.wakeSender() && c.wakeReader()
	switch {
	case t.waits() && !woken:
		return c.closeTransport()
	case t.waits():
		t.closeBehind(notify)
	case notify && woken && c.linger():
	case t.late:
		// A transport that was slow to take it may be slow to close.
		go c.transport.Close()
	default:
		c.transport.Close()
	}
	return nil
}

// linger leaves the close of the transport to the background where input may be
// unread, or still on its way: closing at once could destroy what was written.
// That is so when bytes wait, and for a client of TLS 1.3 that has not read any
// data, as the server's tickets come before that. False means that there is no
// need, or no way; readers must have been woken before.
func (c *Conn) linger() bool {
	c.mu.Lock()
	ended := c.readErr != nil || fatal(c.writeErr) != nil
	expected := c.options.Client && !c.heard && c.facts.Version == tls.VersionTLS13
	c.mu.Unlock()
	if ended {
		return false
	}
	switch linger.Look(c.transport) {
	case linger.Ended:
		return false
	case linger.None, linger.Unknown:
		if !expected {
			return false
		}
	}
	return linger.Close(c.transport, c.discard)
}

// discard reads what arrives and drops it. Readers must have been woken before.
func (c *Conn) discard() {
	// Whoever held it has left the transport.
	linger.Await(c.transport, &c.readMu)
	c.endRead()
	c.deadlineMu.Lock()
	//lint:ignore SA2001 whoever held it has set his deadline
	c.deadlineMu.Unlock()
	linger.Discard(c.transport)
}

func (c *Conn) closeTransport() error {
	if err := c.transport.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return TransportError(c.options.Provider, "close", err)
	}
	return nil
}

// fatal filters the clean ends out of a sticky error.
func fatal(err error) error {
	if err == nil {
		return nil
	}
	var e *tlsapi.Error
	if err == io.EOF || errors.As(err, &e) && e.Kind == tlsapi.KindClosed {
		return nil
	}
	return err
}

// wakeReader ends a blocked Read while the tail is still being sent; false when
// the transport has no deadlines. The connection is closed: a Read that has not
// begun to wait does not.
func (c *Conn) wakeReader() bool {
	if c.socket != nil && c.readMu.TryLock() {
		c.readMu.Unlock()
		return true
	}
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	return c.transport.SetReadDeadline(time.Unix(1, 0)) == nil
}

// tail is the end of what a connection sends: a close_notify or an alert.
type tail struct {
	conn *Conn
	sent chan struct{} // closed when nothing is left to send
	// late is set when the transport has not taken it in time; read after sent.
	late bool
	// begun is set when nobody else sends any more; guarded by the connection's mu.
	begun bool
	// deaf closes a transport that ignores a deadline that Close has set.
	deaf uptime.Timer
}

// startTail sends the engine's output, for at most tailLimit. It waits for it for
// at most tailWait; what is left then goes on in the background.
func (c *Conn) startTail() *tail {
	c.mu.Lock()
	if t := c.tail; t != nil {
		c.mu.Unlock()
		return t
	}
	t := &tail{conn: c, sent: make(chan struct{})}
	c.tail = t
	c.users++
	if !c.sending {
		c.sending, t.begun = true, true
		if c.sendNow(t) {
			c.mu.Unlock()
			return t
		}
	}
	mine := t.begun
	c.mu.Unlock()
	c.limitWrites(tailLimit)
	go func() {
		defer close(t.sent)
		c.mu.Lock()
		if !mine {
			c.beginSending()
			t.begun = true
			c.mu.Unlock()
			t.deaf.Stop()
			c.limitWrites(tailLimit)
			c.mu.Lock()
		}
		_, _ = c.pump(false)
		c.endSending()
		c.leaveLocked()
		c.mu.Unlock()
	}()
	if t.late {
		return t
	}
	wait := time.NewTimer(tailWait)
	defer wait.Stop()
	select {
	case <-t.sent:
	case <-wait.C:
	}
	return t
}

// sendNow sends a tail on the caller's goroutine if that can be done soon, and
// reports whether that was all: the tail is over then. It is called like pump.
func (c *Conn) sendNow(t *tail) (all bool) {
	returned := false
	defer func() {
		if !returned {
			// The transport has panicked.
			c.leaveLocked()
			c.mu.Unlock()
			close(t.sent)
		}
	}()
	all = c.sendAtOnce() || c.sendSoon(t)
	returned = true
	if all {
		c.endSending()
		c.leaveLocked()
		close(t.sent)
	}
	return all
}

// sendSoon sends a tail on the caller's goroutine, for as long as its caller may
// wait, and reports whether that was all: another goroutine would wake another
// thread, which costs more than what is sent. It is called like pump.
//
// Plain sockets have been tried before, and a connection of TLS takes nothing more
// once a write has timed out: both are left to the background.
func (c *Conn) sendSoon(t *tail) bool {
	// crypto/tls, this package, and what embeds one of them.
	if _, ok := c.transport.(interface{ ConnectionState() tls.ConnectionState }); ok || c.socket != nil {
		return false
	}
	c.mu.Unlock()
	begin := time.Now()
	limited := c.limitWrites(tailWait)
	c.mu.Lock()
	if !limited {
		return false
	}
	t.deaf.Start(deafLimit, func() { c.transport.Close() })
	defer t.deaf.Stop()
	done, _ := c.pump(false)
	t.late = time.Since(begin) >= tailWait
	if done && !c.closed {
		// Who did not close the connection may write to the transport.
		c.mu.Unlock()
		c.limitWrites(tailLimit)
		c.mu.Lock()
		done, _ = c.pump(false)
	}
	return done
}

// limitWrites sets the transport's write deadline; false when it has none.
func (c *Conn) limitWrites(limit time.Duration) bool {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	return c.transport.SetWriteDeadline(time.Now().Add(limit)) == nil
}

// waits reports whether something is left to send.
func (t *tail) waits() bool {
	select {
	case <-t.sent:
		return false
	default:
		return true
	}
}

// wakeSender ends the Write, or what else sends, that the tail waits for; false when
// the transport has no deadlines. A Write that has been taken and has yet to return
// does not notice, and the tail follows it.
func (t *tail) wakeSender() bool {
	c := t.conn
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	c.mu.Lock()
	begun := t.begun
	if !begun {
		t.deaf.Start(deafLimit, func() { c.transport.Close() })
	}
	c.mu.Unlock()
	if begun {
		return true
	}
	// The tail sets its own deadline when it has begun, and so after this one.
	return c.transport.SetWriteDeadline(time.Unix(1, 0)) == nil
}

// closeBehind closes the transport as soon as the tail is out, or lingers where it
// may. Meanwhile it reads: a peer that writes may read nothing before that is done.
func (t *tail) closeBehind(mayLinger bool) {
	transport := t.conn.transport
	// A transport that ignores deadlines is closed by the timer.
	timer := time.AfterFunc(tailLimit, func() { transport.Close() })
	discarded := make(chan struct{})
	go func() {
		defer close(discarded)
		t.conn.discard()
	}()
	go func() {
		<-t.sent
		timer.Stop()
		if !mayLinger || !linger.Close(transport, func() { <-discarded }) {
			transport.Close()
		}
	}()
}

// sendAlert lets the alert of a fatal error go out, now or with the end of the
// blinding delay. Without one, the transport stays open until Close.
func (c *Conn) sendAlert() {
	if c.startBlinding() {
		return
	}
	c.mu.Lock()
	output := c.engine.HasOutput() && !c.closed
	c.mu.Unlock()
	if output {
		c.startTail()
	}
}
