package stdtls

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/polytls/polytls/tlsapi"
)

const (
	recordHeader    = 5
	handshakeHeader = 4
	recordHandshake = 22
	clientHello     = 1

	extensionGroups   = 10
	extensionKeyShare = 51

	// maxHello bounds what is kept; crypto/tls refuses a ClientHello above
	// 64 KiB as well.
	maxHello = 80 << 10
)

// offer is what a ClientHello offers for the key exchange.
type offer struct {
	// groups are those of supported_groups, shares those of key_share.
	groups, shares []tlsapi.CurveID
}

// secondShare reports whether there is a post-quantum and a classical share.
func (o offer) secondShare() bool {
	return slices.ContainsFunc(o.shares, tlsapi.PostQuantum) &&
		slices.ContainsFunc(o.shares, func(id tlsapi.CurveID) bool { return !tlsapi.PostQuantum(id) })
}

// helloRecorder reads the first ClientHello from the bytes of a connection. Its
// zero value is ready.
type helloRecorder struct {
	// records are the bytes behind the last complete record, message the content of
	// the complete ones: none is looked at twice, whatever pieces it comes in.
	records []byte
	message []byte
	size    int
	done    bool
	offer   offer
}

// add takes the next bytes of the direction that carries the ClientHello.
func (h *helloRecorder) add(b []byte) {
	if h.done {
		return
	}
	h.records = append(h.records, b...)
	h.size += len(b)
	message, done := h.firstMessage()
	if !done && h.size < maxHello {
		return
	}
	h.done, h.records, h.message = true, nil, nil
	h.offer = parseClientHello(message)
}

// firstMessage puts the first handshake message together from records. It is
// done, without one, too when the bytes are no handshake.
func (h *helloRecorder) firstMessage() (message []byte, done bool) {
	for len(h.records) >= recordHeader {
		if h.records[0] != recordHandshake {
			return nil, true
		}
		n := recordHeader + (int(h.records[3])<<8 | int(h.records[4]))
		if len(h.records) < n {
			return nil, false
		}
		h.message = append(h.message, h.records[recordHeader:n]...)
		h.records = h.records[n:]
		if len(h.message) >= handshakeHeader {
			end := handshakeHeader + (int(h.message[1])<<16 | int(h.message[2])<<8 | int(h.message[3]))
			if len(h.message) >= end {
				return h.message[:end], true
			}
		}
	}
	return nil, false
}

// parseClientHello reads a ClientHello (RFC 8446 section 4.1.2); what is absent
// or malformed is left out.
func parseClientHello(message []byte) offer {
	s := cryptobyte.String(message)
	var kind uint8
	var body, session, suites, compressions, extensions cryptobyte.String
	if !s.ReadUint8(&kind) || kind != clientHello || !s.ReadUint24LengthPrefixed(&body) ||
		!body.Skip(2+32) || !body.ReadUint8LengthPrefixed(&session) || !body.ReadUint16LengthPrefixed(&suites) ||
		!body.ReadUint8LengthPrefixed(&compressions) || !body.ReadUint16LengthPrefixed(&extensions) {
		return offer{}
	}
	var o offer
	for !extensions.Empty() {
		var id uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&id) || !extensions.ReadUint16LengthPrefixed(&data) {
			return offer{}
		}
		switch id {
		case extensionGroups:
			o.groups = readGroups(data, false)
		case extensionKeyShare:
			o.shares = readGroups(data, true)
		}
	}
	return o
}

// readGroups reads a list of groups, each with a key behind it or not.
func readGroups(data cryptobyte.String, withKeys bool) []tlsapi.CurveID {
	var list cryptobyte.String
	if !data.ReadUint16LengthPrefixed(&list) {
		return nil
	}
	var groups []tlsapi.CurveID
	for !list.Empty() {
		var group uint16
		var key cryptobyte.String
		if !list.ReadUint16(&group) || withKeys && !list.ReadUint16LengthPrefixed(&key) {
			return nil
		}
		groups = append(groups, tlsapi.CurveID(group))
	}
	return groups
}

// offered returns what crypto/tls really offers with a list of curves (nil: its
// default). It is found out by making a ClientHello and reading it, because it
// depends on the Go version and on GODEBUG.
func offered(curves []tlsapi.CurveID, maxVersion uint16) offer {
	key := string([]byte{byte(maxVersion)})
	for _, c := range curves {
		key += string([]byte{byte(c >> 8), byte(c)})
	}
	offers.Lock()
	defer offers.Unlock()
	if known, ok := offers.known[key]; ok {
		return known
	}
	sink := &helloSink{}
	_ = tls.Client(sink, &tls.Config{
		InsecureSkipVerify: true, // There is no peer: only the ClientHello is made.
		MinVersion:         tls.VersionTLS12,
		MaxVersion:         maxVersion,
		CurvePreferences:   curves,
	}).Handshake()
	o := sink.hello.offer
	// A program may make up lists at will.
	if offers.known == nil || len(offers.known) >= maxOffers {
		offers.known = make(map[string]offer)
	}
	offers.known[key] = o
	return o
}

const maxOffers = 256

var offers struct {
	sync.Mutex
	known map[string]offer
}

// helloSink is a net.Conn that records the ClientHello and then ends.
type helloSink struct{ hello helloRecorder }

var errHelloSink = errors.New("stdtls: only a ClientHello is wanted")

func (s *helloSink) Write(b []byte) (int, error)      { s.hello.add(b); return len(b), nil }
func (s *helloSink) Read([]byte) (int, error)         { return 0, io.EOF }
func (s *helloSink) Close() error                     { return nil }
func (s *helloSink) LocalAddr() net.Addr              { return nil }
func (s *helloSink) RemoteAddr() net.Addr             { return nil }
func (s *helloSink) SetDeadline(time.Time) error      { return errHelloSink }
func (s *helloSink) SetReadDeadline(time.Time) error  { return errHelloSink }
func (s *helloSink) SetWriteDeadline(time.Time) error { return errHelloSink }
