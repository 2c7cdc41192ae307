package engine

import (
	"os"
	"time"
)

// The shortest and the longest time between two looks of sendForRead.
const (
	readSendMinPause = 100 * time.Microsecond
	readSendPause    = 20 * time.Millisecond
)

// sendForRead sends what the library wants sent before it reads on: answers to a
// peer that asks for more than it takes. Only the transport's Write waits for
// such a peer, and that has the deadline of Writes: this returns at the deadline
// of Reads, too, and leaves the sending to the background.
func (c *Conn) sendForRead() error {
	var done chan error
	for pause := readSendMinPause; ; pause = min(2*pause, readSendPause) {
		c.mu.Lock()
		switch {
		case c.closed:
			c.mu.Unlock()
			return ClosedError(c.options.Provider, "read")
		case c.sendErr != nil:
			err := c.sendErr
			c.mu.Unlock()
			return err
		case c.unsent == nil && !c.engine.HasOutput():
			// There is room again, whoever sends what was there.
			c.mu.Unlock()
			return nil
		case c.sending:
			// Somebody else is at it: output is left to who sends.
		default:
			c.sending = true
			if c.sendAtOnce() {
				c.endSending()
				c.mu.Unlock()
				return nil
			}
			// Of its own: nobody may be there any more to receive.
			ended := make(chan error, 1)
			done = ended
			c.goOnSending(func(err error) { ended <- err })
		}
		c.mu.Unlock()
		select {
		case err := <-done:
			return err
		case <-time.After(pause):
		}
		if err := c.readExpired(); err != nil {
			return err
		}
	}
}

// readExpired returns the error of a Read whose deadline has passed, else nil.
func (c *Conn) readExpired() error {
	if at := c.readDeadline.Load(); at != 0 && at <= sinceBegin(time.Now()) {
		return TransportError(c.options.Provider, "read", os.ErrDeadlineExceeded)
	}
	return nil
}

var begin = time.Now()

// sinceBegin returns zero for the zero time only.
func sinceBegin(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	if since := t.Sub(begin); since != 0 {
		return int64(since)
	}
	return 1
}
