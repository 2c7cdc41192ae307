package httptls

import (
	"crypto/tls"
	"errors"
	"net"
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
	seen int // bytes of the preface; one goroutine reads
}

var errNoPreface = errors.New("httptls: the client negotiated h2 but does not speak HTTP/2")

func (c *http2Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.seen < len(http2Preface) && n > 0 {
		first := min(n, len(http2Preface)-c.seen)
		if string(p[:first]) != http2Preface[c.seen:c.seen+first] {
			return 0, &net.OpError{Op: "read", Net: "tcp", Addr: c.RemoteAddr(), Err: errNoPreface}
		}
		c.seen += first
	}
	return n, err
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
		0xccac, // TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256
		0xd001, // TLS_ECDHE_PSK_WITH_AES_128_GCM_SHA256
		0xd002: // TLS_ECDHE_PSK_WITH_AES_256_GCM_SHA384
		return true
	}
	return false
}

// rejectInsecure ends a connection with empty SETTINGS and GOAWAY with
// INADEQUATE_SECURITY.
func rejectInsecure(conn tlsapi.Conn) {
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write([]byte{
		0, 0, 0, 4, 0, 0, 0, 0, 0,
		0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xc,
	})
	conn.Close()
}
