package engine

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/polytls/polytls/internal/linger"
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
	// deadlines and does not keep them.
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
	if c.writeErr != nil {
		err := c.writeErr
		if c.closeNotifySent && fatal(err) == nil {
			err = nil
		}
		c.mu.Unlock()
		return err
	}
	res := c.engine.CloseNotify()
	if res.Status == Failed {
		c.readable.Store(true)
		c.writeErr = ResultError(c.options.Provider, "close", res, c.engine.ErrorText())
		err := c.writeErr
		c.mu.Unlock()
		return err
	}
	c.closeNotifySent = true
	c.writeErr = &tlsapi.Error{Provider: c.options.Provider, Op: "write", Kind: tlsapi.KindClosed,
		Err: errors.New("write after CloseWrite")}
	c.mu.Unlock()
	return c.send()
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
	if t.stalled() {
		return c.closeTransport()
	}
	woken := c.wakeReader()
	t.closeTransport(notify && woken)
	if !woken && t.waits() {
		return c.closeTransport()
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
	return linger.Close(c.transport, func() {
		// Whoever held it has left the transport.
		c.readMu.Lock()
		c.endRead()
	})
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

// tail is the background sender of a close_notify or an alert.
type tail struct {
	conn *Conn
	sent chan struct{} // closed when nothing is left to send
	// late is set when the transport has not taken it in time; read after sent.
	late bool
	once sync.Once
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
	c.mu.Unlock()
	var rest []byte
	locked := c.sendMu.TryLock()
	if locked {
		var done bool
		if rest, done = c.sendAtOnce(); !done {
			begin := time.Now()
			rest, done = c.sendSoon(rest)
			t.late = time.Since(begin) >= tailWait
		}
		if done {
			c.sendMu.Unlock()
			c.sendRest()
			close(t.sent)
			c.leave()
			return t
		}
	}
	c.limitWrites(tailLimit)
	go func() {
		defer c.leave()
		defer close(t.sent)
		if locked {
			err := c.sendLocked(rest)
			c.mu.Unlock()
			c.sendMu.Unlock()
			if err != nil {
				return
			}
			c.sendRest()
			return
		}
		c.send()
	}()
	wait := time.NewTimer(tailWait)
	defer wait.Stop()
	select {
	case <-t.sent:
	case <-wait.C:
	}
	return t
}

// sendSoon sends rest and the engine's output on the caller's goroutine, for as
// long as its caller may wait: another goroutine would wake another thread, which
// costs more than what is sent. Where done is false, rest comes before all other
// output. It is called with sendMu held.
//
// Plain sockets have been tried before, and a connection of TLS takes nothing more
// once a write has timed out: both are left to the background.
func (c *Conn) sendSoon(rest []byte) (left []byte, done bool) {
	// crypto/tls, this package, and what embeds one of them.
	if _, ok := c.transport.(interface{ ConnectionState() tls.ConnectionState }); ok {
		return rest, false
	}
	if c.socket != nil || c.sendErr != nil || !c.limitWrites(tailWait) {
		return rest, false
	}
	deaf := time.AfterFunc(deafLimit, func() { c.transport.Close() })
	defer deaf.Stop()
	for {
		if len(rest) == 0 {
			c.mu.Lock()
			rest = c.takeOutput()
			closed := c.closed
			c.mu.Unlock()
			if len(rest) == 0 {
				// Who did not close the connection may write to the transport.
				if !closed {
					c.limitWrites(tailLimit)
				}
				return nil, true
			}
		}
		n, err := c.writeTransport(rest)
		if err != nil {
			if TransportError(c.options.Provider, "write", err).Kind == tlsapi.KindTimeout {
				return rest[n:], false
			}
			c.sendFailed(err, nil)
			return nil, true
		}
		rest = nil
	}
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

// stalled reports whether the tail waits behind a Write that the peer does not
// take: a Write that Close must wake.
func (t *tail) stalled() bool {
	if !t.waits() {
		return false
	}
	if t.conn.writeMu.TryLock() {
		t.conn.writeMu.Unlock()
		return false
	}
	return true
}

// closeTransport closes the transport as soon as the tail is out, or lingers
// where it may.
func (t *tail) closeTransport(mayLinger bool) {
	end := func() {
		if !mayLinger || !t.conn.linger() {
			t.conn.transport.Close()
		}
	}
	t.once.Do(func() {
		select {
		case <-t.sent:
			if t.late {
				// A transport that was slow to take it may be slow to close.
				go end()
				return
			}
			end()
		default:
			// A transport that ignores deadlines is closed by the timer.
			timer := time.AfterFunc(tailLimit, func() { t.conn.transport.Close() })
			go func() {
				<-t.sent
				timer.Stop()
				end()
			}()
		}
	})
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
