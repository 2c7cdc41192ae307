package engine

import (
	"os"
	"time"
)

// The longest and the shortest time between two looks of sendForRead.
const (
	readSendPause    = 20 * time.Millisecond
	readSendMinPause = 100 * time.Microsecond
)

// sendForRead sends what the library wants sent before it reads on: answers to a
// peer that asks for more than it takes. Only the transport's Write waits for
// such a peer, and that has the deadline of Writes: this returns at the deadline
// of Reads.
func (c *Conn) sendForRead() error {
	for pause := readSendMinPause; ; pause = min(2*pause, readSendPause) {
		c.sendInBackground()
		if c.sendMu.TryLock() {
			err := c.sendErr
			c.sendMu.Unlock()
			if err != nil {
				return err
			}
		}
		c.mu.Lock()
		closed, full := c.closed, c.engine.HasOutput()
		c.mu.Unlock()
		if closed {
			return ClosedError(c.options.Provider, "read")
		}
		if !full {
			return nil
		}
		if at := c.readDeadline.Load(); at != nil && !at.IsZero() && !time.Now().Before(*at) {
			return TransportError(c.options.Provider, "read", os.ErrDeadlineExceeded)
		}
		time.Sleep(pause)
	}
}
