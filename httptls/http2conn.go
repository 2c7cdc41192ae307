package httptls

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// http2Conn is a connection that has negotiated h2, without the methods that
// make http.Server take it for HTTP/1.1. As http.Server would fall back to
// HTTP/1.1 where the client's preface is missing, such a client is cut off here:
// the negotiated protocol counts.
type http2Conn struct {
	net.Conn
	seen     int // bytes of the preface; one goroutine reads
	arrivals *http2Arrivals
	stage    http2Stage // guarded by arrivals.mu
	left     chan struct{}
	served   atomic.Bool // stage is http2Left
}

var errNoPreface = errors.New("httptls: the client negotiated h2 but does not speak HTTP/2")

func (c *http2Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.seen == len(http2Preface) || n == 0 {
		return n, err
	}
	first := min(n, len(http2Preface)-c.seen)
	if string(p[:first]) != http2Preface[c.seen:c.seen+first] {
		return 0, &net.OpError{Op: "read", Net: "tcp", Addr: c.RemoteAddr(), Err: errNoPreface}
	}
	c.seen += first
	if c.seen == len(http2Preface) && !c.arrivals.begin(c) {
		// Unread data would become a reset, which could overtake what the
		// client is told.
		_, _ = io.Copy(io.Discard, c.Conn)
		return 0, io.EOF
	}
	return n, err
}

// Write hears from the HTTP/2 server for the first time, with its SETTINGS, when
// that has the connection among those which Shutdown ends.
func (c *http2Conn) Write(p []byte) (int, error) {
	c.arrivals.leave(c)
	return c.Conn.Write(p)
}

func (c *http2Conn) Close() error {
	c.arrivals.leave(c)
	return c.Conn.Close()
}

// http2Arrivals has the connections that http.Server has and that its HTTP/2
// server does not know yet. Its Shutdown tells the HTTP/2 server once to end its
// connections; one that came to it after that would be served, and waited for,
// for as long as the client likes.
type http2Arrivals struct {
	mu      sync.Mutex
	conns   map[*http2Conn]struct{}
	refused bool
}

type http2Stage int

const (
	http2Waits  http2Stage = iota // for the client's preface
	http2Begins                   // the HTTP/2 server is about to have it
	http2Refused
	http2Left
)

// add returns conn for http.Server.
func (a *http2Arrivals) add(conn net.Conn) *http2Conn {
	c := &http2Conn{Conn: conn, arrivals: a, left: make(chan struct{})}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conns == nil {
		a.conns = map[*http2Conn]struct{}{}
	}
	a.conns[c] = struct{}{}
	if a.refused {
		c.refuse()
	}
	return c
}

// begin reports whether c, whose preface has come, is to be served.
func (a *http2Arrivals) begin(c *http2Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.stage == http2Waits {
		c.stage = http2Begins
	}
	return c.stage != http2Refused
}

func (a *http2Arrivals) leave(c *http2Conn) {
	if c.served.Load() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.stage == http2Left {
		return
	}
	c.stage = http2Left
	c.served.Store(true)
	close(c.left)
	delete(a.conns, c)
}

// refuse ends the connections that wait for the preface, now and from now on,
// and waits until the HTTP/2 server has those whose preface has come, or ctx ends.
func (a *http2Arrivals) refuse(ctx context.Context) {
	var begun []*http2Conn
	a.mu.Lock()
	a.refused = true
	for c := range a.conns {
		if c.stage == http2Begins {
			begun = append(begun, c)
		} else {
			c.refuse()
		}
	}
	a.mu.Unlock()
	for _, c := range begun {
		select {
		case <-c.left:
		case <-ctx.Done():
			return
		}
	}
}

// refuse lets the client know that nothing it sends is processed. It is called
// with arrivals.mu held; http.Server closes the connection when its Read ends.
func (c *http2Conn) refuse() {
	if c.stage == http2Refused {
		return
	}
	c.stage = http2Refused
	_ = c.SetDeadline(time.Now().Add(time.Second))
	go func() { _, _ = c.Conn.Write(goAway(http2NoError)) }()
}

// revealed returns the tlsapi.Conn of what http.Server has.
func revealed(c net.Conn) net.Conn {
	if h, ok := c.(*http2Conn); ok {
		return h.Conn
	}
	return c
}

// suiteForHTTP2 reports whether HTTP/2 may use the cipher suite: RFC 9113
// section 9.2.2 leaves the ephemeral AEAD suites of TLS 1.2.
func suiteForHTTP2(state *tls.ConnectionState) bool {
	if state.Version >= tls.VersionTLS13 {
		return true
	}
	switch state.CipherSuite {
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		0x009e, // TLS_DHE_RSA_WITH_AES_128_GCM_SHA256
		0x009f, // TLS_DHE_RSA_WITH_AES_256_GCM_SHA384
		0xccaa, // TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256
		0xccac, // TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256
		0xd001, // TLS_ECDHE_PSK_WITH_AES_128_GCM_SHA256
		0xd002: // TLS_ECDHE_PSK_WITH_AES_256_GCM_SHA384
		return true
	}
	return false
}

// rejectInsecure ends a connection with INADEQUATE_SECURITY.
func rejectInsecure(conn tlsapi.Conn) {
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write(goAway(http2InadequateSecurity))
	conn.Close()
}

const (
	http2NoError            = 0x0
	http2InadequateSecurity = 0xc
)

// goAway is empty SETTINGS, with which a server has to begin, and GOAWAY before
// the first stream.
func goAway(code byte) []byte {
	return []byte{
		0, 0, 0, 4, 0, 0, 0, 0, 0,
		0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, code,
	}
}
