package tlstest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// Types of TLS records (RFC 8446 section 5.1).
const (
	RecordChangeCipherSpec = 20
	RecordAlert            = 21
	RecordHandshake        = 22
	RecordApplicationData  = 23
)

// messageClientHello is a type of handshake messages (RFC 8446 section 4).
const messageClientHello = 1

// Numbers of TLS extensions, from the IANA registry.
const (
	extensionServerName        = 0
	extensionSupportedGroups   = 10
	extensionSignatureSchemes  = 13
	extensionALPN              = 16
	extensionSessionTicket     = 35
	extensionPreSharedKey      = 41
	extensionSupportedVersions = 43
	extensionKeyShare          = 51
)

// Record is one TLS record as it stands on the wire.
type Record struct {
	Type    uint8
	Version uint16
	Payload []byte
}

// ParseRecords splits what one end has written into records. When the bytes end
// within a record it returns the whole ones and io.ErrUnexpectedEOF.
func ParseRecords(wire []byte) ([]Record, error) {
	var records []Record
	s := cryptobyte.String(wire)
	for !s.Empty() {
		var r Record
		var payload cryptobyte.String
		if !s.ReadUint8(&r.Type) || !s.ReadUint16(&r.Version) || !s.ReadUint16LengthPrefixed(&payload) {
			return records, io.ErrUnexpectedEOF
		}
		r.Payload = payload
		records = append(records, r)
	}
	return records, nil
}

// ClientHello is what a client offered, in the order of the wire.
type ClientHello struct {
	Random            []byte
	LegacyVersion     uint16
	CipherSuites      []uint16
	Extensions        []uint16
	ServerName        string
	SupportedVersions []uint16
	Groups            []tls.CurveID
	KeyShares         []tls.CurveID
	ALPN              []string
	SignatureSchemes  []tls.SignatureScheme
}

// Has reports whether the ClientHello has an extension.
func (h *ClientHello) Has(extension uint16) bool { return slices.Contains(h.Extensions, extension) }

// ParseClientHello parses the first ClientHello of what a client has written.
func ParseClientHello(wire []byte) (*ClientHello, error) {
	hellos, err := ParseClientHellos(wire)
	if len(hellos) == 0 {
		if err == nil {
			err = errors.New("tlstest: there is no ClientHello")
		}
		return nil, err
	}
	return hellos[0], nil
}

// ParseClientHellos parses every ClientHello of what a client has written: two
// when the server has sent a HelloRetryRequest.
func ParseClientHellos(wire []byte) ([]*ClientHello, error) {
	// Messages behind the hellos are encrypted or of no interest: a record
	// that ends early matters only within a hello.
	records, _ := ParseRecords(wire)
	var messages []byte
	for _, r := range records {
		if r.Type == RecordHandshake {
			messages = append(messages, r.Payload...)
		}
	}
	var hellos []*ClientHello
	s := cryptobyte.String(messages)
	for !s.Empty() {
		var kind uint8
		var body cryptobyte.String
		if !s.ReadUint8(&kind) || kind != messageClientHello {
			break
		}
		if !s.ReadUint24LengthPrefixed(&body) {
			return hellos, fmt.Errorf("tlstest: the ClientHello is incomplete: %w", io.ErrUnexpectedEOF)
		}
		h := new(ClientHello)
		if !h.parse(body) {
			return hellos, errors.New("tlstest: the ClientHello is malformed")
		}
		hellos = append(hellos, h)
	}
	return hellos, nil
}

func (h *ClientHello) parse(s cryptobyte.String) bool {
	var sessionID, suites, compression, extensions cryptobyte.String
	if !s.ReadUint16(&h.LegacyVersion) || !s.ReadBytes(&h.Random, 32) ||
		!s.ReadUint8LengthPrefixed(&sessionID) || !s.ReadUint16LengthPrefixed(&suites) ||
		!s.ReadUint8LengthPrefixed(&compression) || !readUint16s(suites, &h.CipherSuites) {
		return false
	}
	if s.Empty() {
		return true
	}
	if !s.ReadUint16LengthPrefixed(&extensions) || !s.Empty() {
		return false
	}
	for !extensions.Empty() {
		var id uint16
		var body cryptobyte.String
		if !extensions.ReadUint16(&id) || !extensions.ReadUint16LengthPrefixed(&body) {
			return false
		}
		if h.Has(id) {
			return false
		}
		h.Extensions = append(h.Extensions, id)
		if !h.parseExtension(id, body) {
			return false
		}
	}
	return true
}

func (h *ClientHello) parseExtension(id uint16, body cryptobyte.String) bool {
	var list cryptobyte.String
	switch id {
	case extensionServerName:
		var kind uint8
		var name cryptobyte.String
		if !body.ReadUint16LengthPrefixed(&list) || !list.ReadUint8(&kind) || kind != 0 ||
			!list.ReadUint16LengthPrefixed(&name) || !list.Empty() {
			return false
		}
		h.ServerName = string(name)
		return body.Empty()
	case extensionSupportedGroups:
		return body.ReadUint16LengthPrefixed(&list) && readUint16s(list, &h.Groups) && body.Empty()
	case extensionSignatureSchemes:
		return body.ReadUint16LengthPrefixed(&list) && readUint16s(list, &h.SignatureSchemes) && body.Empty()
	case extensionSupportedVersions:
		return body.ReadUint8LengthPrefixed(&list) && readUint16s(list, &h.SupportedVersions) && body.Empty()
	case extensionALPN:
		if !body.ReadUint16LengthPrefixed(&list) || !body.Empty() {
			return false
		}
		for !list.Empty() {
			var protocol cryptobyte.String
			if !list.ReadUint8LengthPrefixed(&protocol) {
				return false
			}
			h.ALPN = append(h.ALPN, string(protocol))
		}
	case extensionKeyShare:
		if !body.ReadUint16LengthPrefixed(&list) || !body.Empty() {
			return false
		}
		for !list.Empty() {
			var group uint16
			var key cryptobyte.String
			if !list.ReadUint16(&group) || !list.ReadUint16LengthPrefixed(&key) {
				return false
			}
			h.KeyShares = append(h.KeyShares, tls.CurveID(group))
		}
	}
	return true
}

// Suites returns the cipher suites without the signalling values (RFC 5746,
// RFC 7507) in two parts: those of TLS 1.3 and those below.
func (h *ClientHello) Suites() (tls13, tls12 []uint16) {
	for _, id := range h.CipherSuites {
		switch {
		case id == 0x00ff || id == 0x5600:
		case id>>8 == 0x13:
			tls13 = append(tls13, id)
		default:
			tls12 = append(tls12, id)
		}
	}
	return tls13, tls12
}

func readUint16s[T ~uint16](s cryptobyte.String, out *[]T) bool {
	for !s.Empty() {
		var v uint16
		if !s.ReadUint16(&v) {
			return false
		}
		*out = append(*out, T(v))
	}
	return true
}
