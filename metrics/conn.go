package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polytls/polytls/internal/handshakelog"
	"github.com/polytls/polytls/tlsapi"
)

// The phases of a connection.
const (
	phaseNew    uint32 = iota // no handshake has ended
	phaseOpen                 // the handshake has succeeded
	phaseFailed               // the handshake has failed
	phaseBroken               // a later failure has been counted
)

// conn counts what a connection does. Handshakes are observed where they are
// called, and Read and Write run them first, as the connection itself would:
// hooks of the configuration would have to be replaced in every configuration
// that a server may choose, and providers recognize configurations.
type conn struct {
	tlsapi.Conn
	series  *series
	traffic *stripe
	log     *slog.Logger

	// phase changes under mu.
	phase atomic.Uint32

	mu      sync.Mutex
	started time.Time // of the handshake
	closed  bool
	// open is set while the connection counts as open.
	open    bool
	cleanup runtime.Cleanup
}

// Handshake implements tlsapi.Conn.
func (c *conn) Handshake() error { return c.HandshakeContext(context.Background()) }

// errHook is what a handshake has come to whose hook did not return.
var errHook = &tlsapi.Error{Op: "handshake", Kind: tlsapi.KindInternal, Err: errors.New("a hook panicked")}

// HandshakeContext implements tlsapi.Conn.
func (c *conn) HandshakeContext(ctx context.Context) error {
	if c.phase.Load() != phaseNew || !c.begin() {
		return c.Conn.HandshakeContext(ctx)
	}
	err := error(errHook)
	defer func() { c.settle(err) }()
	err = c.Conn.HandshakeContext(ctx)
	return err
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	c.handshakeFirst()
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.traffic.read.Add(uint64(n))
	}
	if err != nil && err != io.EOF {
		c.failed(err)
	}
	return n, err
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	c.handshakeFirst()
	n, err := c.Conn.Write(p)
	if n > 0 {
		c.traffic.written.Add(uint64(n))
	}
	if err != nil {
		c.failed(err)
	}
	return n, err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.open {
		c.open = false
		c.cleanup.Stop()
		c.series.open.Add(-1)
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// Format prints what the connection itself prints, which has no secrets.
func (c *conn) Format(f fmt.State, verb rune) { fmt.Fprintf(f, fmt.FormatString(f, verb), c.Conn) }

// handshakeFirst leaves the error of a handshake to the Read or Write that
// follows: it is the same for all of them.
func (c *conn) handshakeFirst() {
	if c.phase.Load() == phaseNew {
		_ = c.HandshakeContext(context.Background())
	}
}

// begin reports whether a handshake may come, the first or one beside it.
func (c *conn) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.phase.Load() != phaseNew {
		return false
	}
	if c.started.IsZero() {
		c.started = time.Now()
		c.series.handshaking.Add(1)
	}
	return true
}

// settle counts what the handshake has come to, once.
func (c *conn) settle(err error) {
	h, settled := c.outcome(err)
	if !settled {
		return
	}
	s := c.series
	if err != nil {
		s.failures.add(tlsapi.KindOf(err))
		s.durations[durationFailed].observe(h.Duration)
		s.countAlert(err)
		c.countBlinded()
		handshakelog.Failed(c.log, h, err)
		return
	}
	info := c.summary()
	s.countComplete(&info, h.Duration)
	if handshakelog.LogsComplete(c.log) {
		info = c.Conn.Info()
		handshakelog.Complete(c.log, h, &info)
	}
}

// summary is Info, without its description of the peer where that would cost the
// parsing of certificates.
func (c *conn) summary() tlsapi.ConnectionInfo {
	if s, ok := c.Conn.(interface{ Summary() tlsapi.ConnectionInfo }); ok {
		return s.Summary()
	}
	return c.Conn.Info()
}

func (c *conn) outcome(err error) (h handshakelog.Handshake, settled bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase.Load() != phaseNew {
		return h, false
	}
	h = handshakelog.Handshake{
		Provider: c.series.provider,
		Role:     string(c.series.role),
		Remote:   c.Conn.RemoteAddr(),
		Duration: time.Since(c.started),
	}
	c.series.handshaking.Add(-1)
	if err != nil {
		c.phase.Store(phaseFailed)
		return h, true
	}
	c.phase.Store(phaseOpen)
	if !c.closed {
		c.open = true
		c.series.open.Add(1)
		// A connection that nobody closes is not open for ever.
		c.cleanup = runtime.AddCleanup(c, forget, c.series)
	}
	return h, true
}

func forget(s *series) {
	s.open.Add(-1)
	s.forgotten.Add(1)
}

// failed counts the first failure after the handshake. Deadlines, and calls
// after Close or CloseWrite, are the program's own.
func (c *conn) failed(err error) {
	if c.phase.Load() != phaseOpen {
		return
	}
	kind := tlsapi.KindOf(err)
	switch kind {
	case tlsapi.KindTimeout, tlsapi.KindClosed, tlsapi.KindCanceled:
		return
	}
	if c.phase.CompareAndSwap(phaseOpen, phaseBroken) {
		c.series.broken.add(kind)
		c.series.countAlert(err)
		c.countBlinded()
	}
}

func (c *conn) countBlinded() {
	if c.summary().BlindingPending {
		c.series.blinded.Add(1)
	}
}
