package native

import (
	"bytes"
	stdcontext "context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/polytls/polytls/internal/engine"
	"github.com/polytls/polytls/tlsapi"
)

const (
	recordHeader     = 5
	recordAlert      = 21
	recordHandshake  = 22
	maxPlaintext     = 1 << 14
	handshakeHeader  = 4
	clientHello      = 1
	alertLevelFatal  = 2
	alertCloseNotify = 0

	alertUnexpectedMessage = 10
	alertRecordOverflow    = 22
	alertHandshakeFailure  = 40
	alertDecodeError       = 50
	alertInternalError     = 80

	// maxHello is the longest ClientHello, as with crypto/tls; maxHelloWire
	// bounds the records that it comes in, which may be of any size.
	maxHello     = 64 << 10
	maxHelloWire = 2 * maxHello
)

// helloCollector keeps what a client sends until its first message, the
// ClientHello, is complete. It looks at every record once.
type helloCollector struct {
	wire []byte
	next int // where the record begins that has not been looked at
	head []byte
	got  int // bytes of the message
}

// space returns room for what comes next; received says how much came.
func (h *helloCollector) space() []byte {
	const least = 1024
	if cap(h.wire)-len(h.wire) < least {
		grown := make([]byte, len(h.wire), max(4096, 2*cap(h.wire)))
		copy(grown, h.wire)
		h.wire = grown
	}
	return h.wire[len(h.wire):cap(h.wire)]
}

func (h *helloCollector) received(n int) { h.wire = h.wire[:len(h.wire)+n] }

// collect reports whether the message is complete. It fails with an alert, that
// of the client or the one to send to it.
func (h *helloCollector) collect() (complete bool, failure *helloFailure) {
	for len(h.wire)-h.next >= recordHeader {
		kind, n := h.wire[h.next], int(h.wire[h.next+3])<<8|int(h.wire[h.next+4])
		switch {
		case kind != recordHandshake && kind != recordAlert:
			return false, refuseHello(alertUnexpectedMessage, "a record of type %d comes before the ClientHello", kind)
		case n > maxPlaintext:
			return false, refuseHello(alertRecordOverflow, "a record of %d bytes", n)
		}
		body := h.wire[h.next+recordHeader:]
		if len(body) < n {
			break
		}
		body = body[:n]
		if kind == recordAlert {
			if n == 2 && (body[0] == alertLevelFatal || body[1] == alertCloseNotify) {
				return false, &helloFailure{alert: body[1], peer: true}
			}
			return false, refuseHello(alertUnexpectedMessage, "an alert comes before the ClientHello")
		}
		if n == 0 {
			return false, refuseHello(alertUnexpectedMessage, "an empty handshake record")
		}
		h.next += recordHeader + n
		h.got += n
		if missing := handshakeHeader - len(h.head); missing > 0 {
			h.head = append(h.head, body[:min(missing, n)]...)
			if len(h.head) < handshakeHeader {
				continue
			}
		}
		size := int(h.head[1])<<16 | int(h.head[2])<<8 | int(h.head[3])
		switch {
		case h.head[0] != clientHello:
			return false, refuseHello(alertUnexpectedMessage, "the first message is of type %d instead of a ClientHello", h.head[0])
		case size > maxHello:
			return false, refuseHello(alertDecodeError, "a ClientHello of %d bytes; the most is %d", size, maxHello)
		case h.got >= handshakeHeader+size:
			return true, nil
		}
	}
	if len(h.wire) > maxHelloWire {
		return false, refuseHello(alertDecodeError, "more than %d bytes without a complete ClientHello", maxHelloWire)
	}
	return false, nil
}

// helloFailure is what a server does instead of answering a ClientHello.
type helloFailure struct {
	alert byte
	// peer says that the alert is the client's.
	peer bool
	err  *tlsapi.Error
}

func refuseHello(alert byte, format string, args ...any) *helloFailure {
	e := tlsapi.ConfigError("", format, args...)
	e.Op, e.Kind = "handshake", tlsapi.KindProtocol
	return &helloFailure{alert: alert, err: e}
}

// result is that of a failed step.
func (f *helloFailure) result() engine.Result {
	r := engine.Result{Status: engine.Failed, Fault: engine.NoFault}
	if f.peer {
		r.Failure, r.AlertReceived = engine.FailPeerAlert, int16(f.alert)
	} else {
		r.Failure, r.AlertSent = engine.FailProtocol, int16(f.alert)
	}
	return r
}

// text is the failure's for an error that has the rest.
func (f *helloFailure) text() string {
	if f.err == nil || f.err.Err == nil {
		return ""
	}
	return f.err.Err.Error()
}

// alertRecord returns a fatal alert in the clear.
func alertRecord(alert byte) []byte {
	return []byte{recordAlert, 3, 3, 0, 2, alertLevelFatal, alert}
}

// withClientHello calls use with the content of the ClientHello that wire holds,
// and returns its error; with what crypto/tls finds wrong with the ClientHello
// use is not called.
//
// crypto/tls is the one that parses: it is strict, so that it and a library
// cannot understand one ClientHello differently, it gives the same content as
// provider std, and only it can make a ClientHelloInfo whose Context works.
// Nothing of its handshake is used.
func withClientHello(ctx stdcontext.Context, wire []byte, transport net.Conn, use func(*tls.ClientHelloInfo) error) error {
	replay := &replayConn{in: bytes.NewReader(wire)}
	called := false
	var useErr error
	err := tls.Server(replay, &tls.Config{
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			hello.Conn = transport
			called = true
			useErr = use(hello)
			return nil, errHelloRead
		},
	}).HandshakeContext(ctx)
	if called {
		return useErr
	}
	alert := byte(alertDecodeError)
	if len(replay.out) == len(alertRecord(0)) && replay.out[0] == recordAlert {
		alert = replay.out[len(replay.out)-1]
	}
	return &alertingError{alert: alert, err: &tlsapi.Error{Kind: tlsapi.KindProtocol, Err: err}}
}

var errHelloRead = errors.New("native: only the ClientHello is wanted")

// alertingError is an error with the alert that goes to the client.
type alertingError struct {
	alert byte
	err   error
}

func (e *alertingError) Error() string { return e.err.Error() }
func (e *alertingError) Unwrap() error { return e.err }

// replayConn is a net.Conn that holds what a client has sent and keeps what is
// written.
type replayConn struct {
	in  *bytes.Reader
	out []byte
}

func (c *replayConn) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (c *replayConn) Write(p []byte) (int, error) {
	c.out = append(c.out, p...)
	return len(p), nil
}

func (c *replayConn) Close() error                     { return nil }
func (c *replayConn) LocalAddr() net.Addr              { return nil }
func (c *replayConn) RemoteAddr() net.Addr             { return nil }
func (c *replayConn) SetDeadline(time.Time) error      { return nil }
func (c *replayConn) SetReadDeadline(time.Time) error  { return nil }
func (c *replayConn) SetWriteDeadline(time.Time) error { return nil }
