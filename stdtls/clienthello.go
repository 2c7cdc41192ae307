package stdtls

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

// helloRecorder collects the first ClientHello from the bytes of a connection.
type helloRecorder struct {
	records []byte
	done    bool
	shares  []uint16
	groups  []uint16
}

const (
	// maxHello bounds what is kept; crypto/tls refuses handshake messages
	// above 64 KiB as well.
	maxHello = 80 << 10

	recordHandshake      = 22
	messageClientHello   = 1
	extensionGroups      = 10
	extensionKeyShare    = 51
	helloFixed           = 2 + 32 // version, random
	handshakeHeader      = 4
	recordHeader         = 5
	extensionHeaderBytes = 4
)

// add takes the next bytes of the direction that carries the ClientHello.
func (h *helloRecorder) add(b []byte) {
	if h.done {
		return
	}
	h.records = append(h.records, b...)
	message, complete := firstMessage(h.records)
	if !complete && len(h.records) < maxHello {
		return
	}
	h.done, h.records = true, nil
	if complete {
		h.groups, h.shares = parseClientHello(message)
	}
}

func (h *helloRecorder) keyShares() []uint16 { return h.shares }

// firstMessage puts the first handshake message together from records. It is
// complete, with nil, too when the bytes are no handshake at all.
func firstMessage(records []byte) (message []byte, complete bool) {
	for len(records) >= recordHeader {
		if records[0] != recordHandshake {
			return nil, true
		}
		n := int(records[3])<<8 | int(records[4])
		if len(records) < recordHeader+n {
			return nil, false
		}
		message = append(message, records[recordHeader:recordHeader+n]...)
		records = records[recordHeader+n:]
		if len(message) >= handshakeHeader {
			size := int(message[1])<<16 | int(message[2])<<8 | int(message[3])
			if len(message) >= handshakeHeader+size {
				return message[:handshakeHeader+size], true
			}
		}
	}
	return nil, false
}

// parseClientHello returns the contents of supported_groups and the groups of
// key_share (RFC 8446 section 4.1.2); nil for what is absent or malformed.
func parseClientHello(message []byte) (groups, shares []uint16) {
	r := reader(message)
	kind, ok := r.take(handshakeHeader)
	if !ok || kind[0] != messageClientHello {
		return nil, nil
	}
	if _, ok = r.take(helloFixed); !ok {
		return nil, nil
	}
	for _, lengthBytes := range []int{1, 2, 1} { // session id, suites, compression
		if _, ok = r.vector(lengthBytes); !ok {
			return nil, nil
		}
	}
	extensions, ok := r.vector(2)
	if !ok {
		return nil, nil
	}
	for len(extensions) >= extensionHeaderBytes {
		id := uint16(extensions[0])<<8 | uint16(extensions[1])
		extensions = extensions[2:]
		body, ok := extensions.vector(2)
		if !ok {
			return nil, nil
		}
		list, ok := body.vector(2)
		if !ok {
			continue
		}
		switch id {
		case extensionGroups:
			for len(list) >= 2 {
				groups = append(groups, uint16(list[0])<<8|uint16(list[1]))
				list = list[2:]
			}
		case extensionKeyShare:
			for len(list) >= 2 {
				group := uint16(list[0])<<8 | uint16(list[1])
				list = list[2:]
				if _, ok := list.vector(2); !ok {
					return nil, nil
				}
				shares = append(shares, group)
			}
		}
	}
	return groups, shares
}

// reader consumes TLS vectors from the front of a byte string.
type reader []byte

func (r *reader) take(n int) (reader, bool) {
	if len(*r) < n {
		return nil, false
	}
	out := (*r)[:n]
	*r = (*r)[n:]
	return out, true
}

func (r *reader) vector(lengthBytes int) (reader, bool) {
	length, ok := r.take(lengthBytes)
	if !ok {
		return nil, false
	}
	n := 0
	for _, b := range length {
		n = n<<8 | int(b)
	}
	return r.take(n)
}

// offer is what crypto/tls puts into a first ClientHello.
type offer struct {
	groups, shares []tlsapi.CurveID
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
	o := offer{curveIDs(sink.hello.groups), curveIDs(sink.hello.shares)}
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

// secondShare reports whether the offer holds a post-quantum and a classical
// share.
func (o offer) secondShare() bool {
	return slices.ContainsFunc(o.shares, tlsapi.PostQuantum) &&
		slices.ContainsFunc(o.shares, func(id tlsapi.CurveID) bool { return !tlsapi.PostQuantum(id) })
}

func curveIDs(ids []uint16) []tlsapi.CurveID {
	var out []tlsapi.CurveID
	for _, id := range ids {
		out = append(out, tlsapi.CurveID(id))
	}
	return out
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
