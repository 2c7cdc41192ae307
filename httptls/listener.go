package httptls

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polytls/polytls/internal/handshakelog"
	"github.com/polytls/polytls/tlsapi"
)

const (
	defaultHandshakeTimeout     = 10 * time.Second
	defaultMaxPendingHandshakes = 1024
)

// Listener accepts TLS connections. Unlike those of tls.Listen its connections
// have their handshakes behind them: handshakes run beside Accept, any number
// of slow ones up to MaxPendingHandshakes delays nobody, and those that fail
// never reach the program (see ServerConfig.HandshakeFailed, and Log).
//
// The fields may be set before the first call of Accept. All methods may be
// called by many goroutines at once.
type Listener struct {
	// MaxPendingHandshakes bounds the connections that are in their handshake
	// or wait for Accept. With that many, further clients wait in the system's
	// queue. Zero means 1024.
	MaxPendingHandshakes int
	// HandshakeTimeout ends handshakes that take longer. Zero means 10 s, or
	// the configuration's HandshakeTimeout when that is set; the
	// configuration's counts besides this one. Negative means no limit but
	// the configuration's.
	HandshakeTimeout time.Duration
	// Log receives a line at slog.LevelWarn for every failed handshake, which
	// nobody else hears of: provider, client's address, kind, alert, duration
	// and the error's text, cut to 512 printable bytes as the client may have
	// chosen parts of it. Nil means none. To log successful ones as well, wrap
	// the provider with a metrics.Meter.
	Log *slog.Logger

	inner    net.Listener
	provider tlsapi.Provider
	config   *tlsapi.ServerConfig

	start     sync.Once
	slots     chan struct{}
	ready     chan tlsapi.Conn
	failures  chan error
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	closing   sync.Once
	closed    error
	answering atomic.Bool // plain HTTP is answered as net/http does
}

// Listen listens on a local address as net.Listen does and accepts TLS
// connections.
func Listen(network, laddr string, provider tlsapi.Provider, config *tlsapi.ServerConfig) (*Listener, error) {
	inner, err := net.Listen(network, laddr)
	if err != nil {
		return nil, err
	}
	l, err := NewListener(inner, provider, config)
	if err != nil {
		return nil, errors.Join(err, inner.Close())
	}
	return l, nil
}

// NewListener accepts TLS connections over those of inner, which it closes with
// itself. A provider that is not available and a configuration that it refuses
// are errors here, before the first client comes; inner is untouched then.
func NewListener(inner net.Listener, provider tlsapi.Provider, config *tlsapi.ServerConfig) (*Listener, error) {
	if provider == nil {
		return nil, errNoProvider()
	}
	if err := provider.Available(); err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	unused, err := provider.Server(near, config)
	if err != nil {
		return nil, err
	}
	unused.Close()
	l := &Listener{
		inner:    inner,
		provider: provider,
		config:   config,
		ready:    make(chan tlsapi.Conn),
		failures: make(chan error),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l, nil
}

// Accept returns the next connection whose handshake is done; it is a
// tlsapi.Conn. Errors are those of the listener below, and net.ErrClosed after
// Close.
func (l *Listener) Accept() (net.Conn, error) {
	l.start.Do(func() {
		n := l.MaxPendingHandshakes
		if n <= 0 {
			n = defaultMaxPendingHandshakes
		}
		l.slots = make(chan struct{}, n)
		go l.acceptTransports()
	})
	if l.ctx.Err() == nil {
		select {
		case conn := <-l.ready:
			return conn, nil
		case err := <-l.failures:
			return nil, err
		case <-l.ctx.Done():
		}
	}
	return nil, &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: net.ErrClosed}
}

// Close stops listening. Handshakes under way and connections that were not
// accepted yet end; accepted ones go on.
func (l *Listener) Close() error {
	l.closing.Do(func() {
		l.cancel()
		l.closed = l.inner.Close()
	})
	return l.closed
}

// Addr is the address of the listener below.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

func (l *Listener) acceptTransports() {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.ctx.Done():
			return
		}
		transport, err := l.inner.Accept()
		if err == nil {
			go l.handshake(transport)
			continue
		}
		<-l.slots
		// Accept's caller decides whether to go on: nothing is tried again
		// before it has the error.
		select {
		case l.failures <- err:
		case <-l.ctx.Done():
			return
		}
		if errors.Is(err, net.ErrClosed) {
			l.Close()
			return
		}
	}
}

// handshake owns transport and a slot.
func (l *Listener) handshake(transport net.Conn) {
	defer func() { <-l.slots }()
	began := time.Now()
	conn, err := l.provider.Server(transport, l.config)
	if err != nil {
		l.report(transport, began, err)
		transport.Close()
		return
	}
	ctx, cancel := l.handshakeContext()
	err = conn.HandshakeContext(ctx)
	cancel()
	if err != nil {
		if l.ctx.Err() == nil {
			l.report(transport, began, err)
			if l.answering.Load() {
				answerPlainHTTP(transport, err)
			}
		}
		conn.Close()
		return
	}
	select {
	case l.ready <- conn:
	case <-l.ctx.Done():
		conn.Close()
	}
}

func (l *Listener) handshakeContext() (context.Context, context.CancelFunc) {
	switch d := l.HandshakeTimeout; {
	case d > 0:
		return context.WithTimeout(l.ctx, d)
	case d == 0 && l.config.HandshakeTimeout == 0:
		return context.WithTimeout(l.ctx, defaultHandshakeTimeout)
	}
	return context.WithCancel(l.ctx)
}

func (l *Listener) report(transport net.Conn, began time.Time, err error) {
	handshakelog.Failed(l.Log, handshakelog.Handshake{
		Provider: l.provider.Name(), Role: "server", Remote: transport.RemoteAddr(), Duration: time.Since(began),
	}, err)
}

// answerPlainHTTP tells a client that forgot the s of https, in the words of
// net/http.
func answerPlainHTTP(transport net.Conn, err error) {
	var header tls.RecordHeaderError
	if !errors.As(err, &header) {
		return
	}
	switch string(header.RecordHeader[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		_ = transport.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(transport, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
	}
}
