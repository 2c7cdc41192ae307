package engine

import (
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

	extensionKeyShare = 51

	// maxHello bounds what is kept of a hello message in order to read it.
	maxHello = 64 << 10
)

// helloRetryRandom marks a ServerHello as HelloRetryRequest (RFC 8446 section
// 4.1.3).
var helloRetryRandom = sha256.Sum256([]byte("HelloRetryRequest"))

// helloReader collects the first handshake message of one direction out of its
// records. Its zero value is ready; done is set when the message is complete or
// cannot be one.
type helloReader struct {
	raw     []byte
	message []byte
	done    bool
}

// add takes the next bytes of the direction. It does not keep them.
func (r *helloReader) add(b []byte) {
	if r.done {
		return
	}
	r.raw = append(r.raw, b...)
	for len(r.raw) >= recordHeaderSize {
		n := int(r.raw[3])<<8 | int(r.raw[4])
		if r.raw[0] != recordTypeHandshake || len(r.message) > maxHello {
			r.finish(false)
			return
		}
		if len(r.raw) < recordHeaderSize+n {
			break
		}
		r.message = append(r.message, r.raw[recordHeaderSize:recordHeaderSize+n]...)
		r.raw = r.raw[recordHeaderSize+n:]
		if len(r.message) >= 4 {
			length := int(r.message[1])<<16 | int(r.message[2])<<8 | int(r.message[3])
			if len(r.message) >= 4+length {
				r.message = r.message[:4+length]
				r.finish(true)
				return
			}
		}
	}
	if len(r.raw) > maxHello {
		r.finish(false)
	}
}

func (r *helloReader) finish(complete bool) {
	r.done, r.raw = true, nil
	if !complete {
		r.message = nil
	}
}

// keyShares returns the groups that have a share in a ClientHello message, in
// order; nil when the message is none or has no shares.
func keyShares(message []byte) []tlsapi.CurveID {
	s := cryptobyte.String(message)
	var kind uint8
	var body, session, suites, compressions, extensions cryptobyte.String
	if !s.ReadUint8(&kind) || kind != handshakeTypeClientHello || !s.ReadUint24LengthPrefixed(&body) ||
		!body.Skip(2+32) || !body.ReadUint8LengthPrefixed(&session) || !body.ReadUint16LengthPrefixed(&suites) ||
		!body.ReadUint8LengthPrefixed(&compressions) || !body.ReadUint16LengthPrefixed(&extensions) {
		return nil
	}
	for !extensions.Empty() {
		var id uint16
		var data, shares cryptobyte.String
		if !extensions.ReadUint16(&id) || !extensions.ReadUint16LengthPrefixed(&data) {
			return nil
		}
		if id != extensionKeyShare {
			continue
		}
		var groups []tlsapi.CurveID
		if !data.ReadUint16LengthPrefixed(&shares) {
			return nil
		}
		for !shares.Empty() {
			var group uint16
			var share cryptobyte.String
			if !shares.ReadUint16(&group) || !shares.ReadUint16LengthPrefixed(&share) {
				return nil
			}
			groups = append(groups, tlsapi.CurveID(group))
		}
		return groups
	}
	return nil
}

// isHelloRetry reports whether a message is a HelloRetryRequest.
func isHelloRetry(message []byte) bool {
	return len(message) >= 4+2+32 && message[0] == handshakeTypeServerHello &&
		[32]byte(message[6:38]) == helloRetryRandom
}
