package engine

import (
	"sync"
	"time"
)

// pace gives out turns that are one interval apart, to a limited number that waits.
type pace struct {
	interval time.Duration
	waiting  int

	mu   sync.Mutex
	last time.Time
}

// turn returns how long the caller's turn is away: an interval at least, and one
// more for each that is before it. False says that too many are.
func (p *pace) turn() (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	// No turn is further away, unless it was given out by the clock of a bubble of
	// testing/synctest.
	if p.last.Before(now) || p.last.Sub(now) > time.Duration(p.waiting)*p.interval {
		p.last = now
	}
	wait := p.last.Sub(now) + p.interval
	if wait > time.Duration(p.waiting)*p.interval {
		return 0, false
	}
	p.last = p.last.Add(p.interval)
	return wait, true
}

// floods is the pace of all connections whose peers send records in a row that
// bring no data, more than crypto/tls takes. A step of theirs takes some 100
// microseconds (POLYTLS_FLOOD_STEP_TIME), so all together have a part of one
// processor. runtime.Gosched would not do: while one goroutine is always ready to
// run, the scheduler looks at sockets every 10 ms only, and every other connection
// waits so long for every message.
//
// That a connection waits costs its memory, which a peer that has closed its end
// long ago does not need to spend. So few may wait.
var floods = &pace{interval: time.Millisecond, waiting: 64}

// standBack waits for the turn of a connection whose peer floods it, or ends it
// where too many wait. Its errors are those of the Read; it is called with readMu
// held.
func (c *Conn) standBack() error {
	wait, ok := floods.turn()
	if !ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.closed {
			c.engine.EndFlood()
		}
		return nil
	}
	for ; wait > 0; wait -= readSendPause {
		time.Sleep(min(wait, readSendPause))
		if err := c.readExpired(); err != nil {
			return err
		}
		if c.isClosed() {
			return ClosedError(c.options.Provider, "read")
		}
	}
	return nil
}
