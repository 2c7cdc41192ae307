package engine

import (
	"bytes"
	"time"

	"github.com/polytls/polytls/internal/blinding"
)

// blind begins to hide a fatal failure from the peer, if the configuration says
// so: the engine's output, an alert mostly, is taken out before anybody can
// send it. It is called with mu held, in the step's critical section;
// startBlinding follows without it.
//
// Every failed step of the handshake and of reading is blinded, except for a
// fatal alert of the peer, which knows already. A connection that is being
// closed or cancelled has nothing to wait for.
func (c *Conn) blind() {
	if c.options.MaxBlindingDelay <= 0 || c.hold != nil || c.closed || c.aborted {
		return
	}
	var alert []byte
	if c.engine.HasOutput() {
		// Without any, TakeOutput would give back memory that somebody may be
		// sending from.
		alert = bytes.Clone(c.engine.TakeOutput())
	}
	c.hold = blinding.New(c.transport, alert)
}

// startBlinding starts the delay of a failure that is blinded, and wakes calls
// that wait for the transport; false without such a failure. It is called once,
// by who called blind.
func (c *Conn) startBlinding() bool {
	c.mu.Lock()
	hold := c.hold
	c.mu.Unlock()
	if hold == nil {
		return false
	}
	// From here on setDeadline leaves the transport alone.
	c.deadlineMu.Lock()
	c.transport.SetDeadline(time.Unix(1, 0))
	c.deadlineMu.Unlock()
	if c.tornOutput() {
		hold.DropAlert()
	}
	hold.Start(c.options.MaxBlindingDelay)
	return true
}

// tornOutput reports whether a send has failed or was cut off. One that still
// runs drops the alert itself when it fails.
func (c *Conn) tornOutput() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.sending && (c.sendErr != nil || c.unsent != nil)
}

// abort closes the transport for a context that has ended; false when the
// connection has failed before and its transport waits for the blinding delay.
func (c *Conn) abort() bool {
	c.mu.Lock()
	first := c.hold == nil
	c.aborted = c.aborted || first
	if first {
		c.giveUpWork()
	}
	c.mu.Unlock()
	if first {
		c.transport.Close()
	}
	return first
}
