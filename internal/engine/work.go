package engine

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

// work does what the engine waits for, outside of all locks. Close and the end
// of the context do not wait for it: it goes on in a goroutine of its own then,
// and what it comes to is dropped. The first error is the work's, for the
// engine's next step; the second ends the handshake.
func (c *Conn) work(ctx *limitedContext) (workErr, err error) {
	c.mu.Lock()
	if c.closed || c.aborted {
		c.mu.Unlock()
		return nil, TransportError(c.options.Provider, "handshake", net.ErrClosed)
	}
	do := c.engine.Work()
	givenUp := make(chan struct{})
	c.workGivenUp = givenUp
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.workGivenUp = nil
		c.mu.Unlock()
	}()

	working, cancel := context.WithCancel(ctx)
	defer cancel()
	// Buffered, so that the goroutine ends when nobody waits any more.
	done := make(chan outcome, 1)
	adopted := make(chan *Options)
	adopt := func(o *Options) {
		select {
		case adopted <- o:
		case <-working.Done():
		}
	}
	go func() {
		o := outcome{err: errEndedGoroutine}
		defer func() {
			if r := recover(); r != nil {
				o.panicked = r
			}
			done <- o
		}()
		o.err = do(working, adopt)
	}()
	for {
		select {
		case o := <-adopted:
			c.replaceOptions(o)
			ctx.setTimeout(o.HandshakeTimeout)
		case o := <-done:
			if o.panicked != nil {
				// Where the caller expects it, and can recover from it.
				panic(o.panicked)
			}
			return o.err, nil
		case <-givenUp:
			// Closed, or the context of another caller has ended; the callers
			// with a context of their own say so themselves.
			return nil, TransportError(c.options.Provider, "handshake", net.ErrClosed)
		case <-ctx.Done():
			return nil, ContextError(c.options.Provider, ctx.cause())
		}
	}
}

// giveUpWork ends the handshake's wait for work; it is called with mu held.
func (c *Conn) giveUpWork() {
	if c.workGivenUp != nil {
		close(c.workGivenUp)
		c.workGivenUp = nil
	}
}

// outcome is what a goroutine with work came to.
type outcome struct {
	err      error
	panicked any
}

var errEndedGoroutine = &tlsapi.Error{Kind: tlsapi.KindInternal, Err: errors.New("a hook has ended its goroutine")}

// replaceOptions takes over what a server's choice of another configuration can
// change. Until the handshake is complete only its goroutine looks at these.
func (c *Conn) replaceOptions(o *Options) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.options.MaxBlindingDelay = o.MaxBlindingDelay
	c.options.HandshakeTimeout = o.HandshakeTimeout
	c.options.KeyLogWriter = o.KeyLogWriter
	c.options.VerifyConnection = o.VerifyConnection
	c.options.HandshakeComplete = o.HandshakeComplete
	c.options.HandshakeFailed = o.HandshakeFailed
}

// limitedContext is the context of a handshake with a timeout that can change.
type limitedContext struct {
	context.Context
	parent context.Context
	cancel context.CancelFunc
	begin  time.Time
	// until is when the timeout is over, zero without one.
	until time.Time
	timer *time.Timer
}

// limit puts HandshakeTimeout on a context. The caller calls end.
func (c *Conn) limit(ctx context.Context) *limitedContext {
	l := &limitedContext{Context: ctx, parent: ctx}
	if c.options.HandshakeTimeout > 0 || c.options.Replaceable {
		l.begin = time.Now()
		l.Context, l.cancel = context.WithCancel(ctx)
		l.setTimeout(c.options.HandshakeTimeout)
	}
	return l
}

// setTimeout replaces the timeout; it counts from the handshake's beginning.
func (l *limitedContext) setTimeout(timeout time.Duration) {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.until = time.Time{}
	if timeout > 0 {
		l.until = l.begin.Add(timeout)
		l.timer = time.AfterFunc(time.Until(l.until), l.cancel)
	}
}

// overdue ends the context when its time is up: on a busy machine the timer may
// be later than what follows a slow hook.
func (l *limitedContext) overdue() bool {
	if l.until.IsZero() || time.Now().Before(l.until) {
		return false
	}
	l.cancel()
	return true
}

func (l *limitedContext) end() {
	if l.timer != nil {
		l.timer.Stop()
	}
	if l.cancel != nil {
		l.cancel()
	}
}

// cause is why the context has ended.
func (l *limitedContext) cause() error {
	if err := l.parent.Err(); err != nil {
		return err
	}
	return context.DeadlineExceeded
}
