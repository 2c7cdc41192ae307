package engine

import (
	"bytes"
	"crypto/sha256"

	"golang.org/x/crypto/cryptobyte"

	"github.com/polytls/polytls/tlsapi"
)

const (
	recordHeaderSize    = 5
	recordTypeAlert     = 21
	recordTypeHandshake = 22

	handshakeTypeClientHello = 1
	handshakeTypeServerHello = 2

	extensionGroups   = 10
	extensionKeyShare = 51

	// maxHello bounds what is kept of a hello message in order to read it.
	maxHello = 64 << 10
)

// helloRetryRandom marks a ServerHello as HelloRetryRequest (RFC 8446 section
// 4.1.3).
var helloRetryRandom = sha256.Sum256([]byte("HelloRetryRequest"))

// hellos is what the hello messages tell of a handshake under way.
type hellos struct {
	client, server helloReader
	keyShares      []tlsapi.CurveID
	retry          bool
}

func (h *hellos) read(b []byte, fromClient bool) {
	if fromClient {
		if message := h.client.add(b); message != nil {
			h.keyShares = keyShares(message)
		}
	} else if message := h.server.add(b); message != nil {
		h.retry = isHelloRetry(message)
	}
}

// helloReader finds the first handshake message of one direction in its records.
// Its zero value is ready; done is set when the message is complete or cannot be
// one.
type helloReader struct {
	// raw is what has come of a record, and message of a message, that is not
	// complete.
	raw     []byte
	message []byte
	done    bool
}

// add takes the next bytes of the direction, which stay the caller's. It returns
// the message when they complete it, valid as long as they are.
func (r *helloReader) add(b []byte) (message []byte) {
	if r.done {
		return nil
	}
	if len(r.raw) > 0 {
		r.raw = append(r.raw, b...)
		b = r.raw
	}
	for len(b) >= recordHeaderSize {
		n := int(b[3])<<8 | int(b[4])
		if b[0] != recordTypeHandshake || len(r.message) > maxHello {
			r.finish()
			return nil
		}
		if len(b) < recordHeaderSize+n {
			break
		}
		part := b[recordHeaderSize : recordHeaderSize+n]
		b = b[recordHeaderSize+n:]
		if len(r.message) > 0 {
			r.message = append(r.message, part...)
			part = r.message
		}
		if len(part) >= 4 {
			length := int(part[1])<<16 | int(part[2])<<8 | int(part[3])
			if len(part) >= 4+length {
				r.finish()
				return part[: 4+length : 4+length]
			}
		}
		if len(r.message) == 0 {
			r.message = bytes.Clone(part)
		}
	}
	if len(b) > maxHello {
		r.finish()
		return nil
	}
	if len(b) == 0 {
		r.raw = nil
	} else if len(r.raw) != len(b) || &r.raw[0] != &b[0] {
		r.raw = bytes.Clone(b)
	}
	return nil
}

func (r *helloReader) finish() { *r = helloReader{done: true} }

// Offer is what a ClientHello offers for the key exchange.
type Offer struct {
	// Groups are those of supported_groups, KeyShares those that have a share,
	// both in order.
	Groups, KeyShares []tlsapi.CurveID
}

// ReadOffer reads the ClientHello at the start of what a client has sent; ok is
// false when there is none.
func ReadOffer(wire []byte) (offer Offer, ok bool) {
	var r helloReader
	return parseOffer(r.add(wire))
}

// keyShares returns the groups that have a share in a ClientHello message, in
// order; nil when the message is none or has no shares.
func keyShares(message []byte) []tlsapi.CurveID {
	offer, _ := parseOffer(message)
	return offer.KeyShares
}

func parseOffer(message []byte) (offer Offer, ok bool) {
	s := cryptobyte.String(message)
	var kind uint8
	var body, session, suites, compressions, extensions cryptobyte.String
	if !s.ReadUint8(&kind) || kind != handshakeTypeClientHello || !s.ReadUint24LengthPrefixed(&body) ||
		!body.Skip(2+32) || !body.ReadUint8LengthPrefixed(&session) || !body.ReadUint16LengthPrefixed(&suites) ||
		!body.ReadUint8LengthPrefixed(&compressions) || !body.ReadUint16LengthPrefixed(&extensions) {
		return Offer{}, false
	}
	for !extensions.Empty() {
		var id uint16
		var data cryptobyte.String
		ok := extensions.ReadUint16(&id) && extensions.ReadUint16LengthPrefixed(&data)
		switch {
		case !ok:
		case id == extensionGroups:
			offer.Groups, ok = readGroups(data, false)
		case id == extensionKeyShare:
			offer.KeyShares, ok = readGroups(data, true)
		}
		if !ok {
			return Offer{}, false
		}
	}
	return offer, true
}

// readGroups reads the body of an extension that lists groups, each with a key
// behind it or not.
func readGroups(data cryptobyte.String, withKeys bool) (groups []tlsapi.CurveID, ok bool) {
	var list cryptobyte.String
	if !data.ReadUint16LengthPrefixed(&list) {
		return nil, false
	}
	for !list.Empty() {
		var group uint16
		var key cryptobyte.String
		if !list.ReadUint16(&group) || withKeys && !list.ReadUint16LengthPrefixed(&key) {
			return nil, false
		}
		groups = append(groups, tlsapi.CurveID(group))
	}
	return groups, true
}

// isHelloRetry reports whether a message is a HelloRetryRequest.
func isHelloRetry(message []byte) bool {
	return len(message) >= 4+2+32 && message[0] == handshakeTypeServerHello &&
		[32]byte(message[6:38]) == helloRetryRandom
}
