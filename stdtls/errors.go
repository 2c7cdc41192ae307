package stdtls

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"

	"github.com/polytls/polytls/tlsapi"
)

// The values of tlsapi.Error.Op.
const (
	opHandshake = "handshake"
	opRead      = "read"
	opWrite     = "write"
	opClose     = "close"
	opDeadline  = "deadline"
	opExport    = "export"
)

// The alerts that decide over a kind (RFC 8446 section 6).
const (
	alertCloseNotify           tls.AlertError = 0
	alertBadRecordMAC          tls.AlertError = 20
	alertRecordOverflow        tls.AlertError = 22
	alertHandshakeFailure      tls.AlertError = 40
	alertBadCertificate        tls.AlertError = 42
	alertInternalError         tls.AlertError = 80
	alertCertificateRequired   tls.AlertError = 116
	alertNoApplicationProtocol tls.AlertError = 120
)

// rejected is the error of a hook, with the alert that crypto/tls sends for it.
func rejected(alert tls.AlertError, err error) *tlsapi.Error {
	return &tlsapi.Error{Provider: providerName, Op: opHandshake, Kind: tlsapi.KindRejected, Alert: alert, HasAlert: true, Err: err}
}

// closed is the error of a method that was called after Close, or ended by it.
func closed(op string) *tlsapi.Error {
	return &tlsapi.Error{Provider: providerName, Op: op, Kind: tlsapi.KindClosed, Err: net.ErrClosed}
}

// ended is the error of a handshake that its context or timer has ended.
func ended(cause error) *tlsapi.Error {
	kind := tlsapi.KindCanceled
	if errors.Is(cause, context.DeadlineExceeded) {
		kind = tlsapi.KindTimeout
	}
	return &tlsapi.Error{Provider: providerName, Op: opHandshake, Kind: kind, Err: cause}
}

// classify makes an error of the contract from one that crypto/tls returned.
// It is not for io.EOF of a Read, which passes as it is.
func classify(op string, err error) *tlsapi.Error {
	e := &tlsapi.Error{Provider: providerName, Op: op, Err: err}

	// First of all, because the transport may be a TLS connection itself.
	var below *transportError
	if errors.As(err, &below) {
		e.Kind, e.Err = tlsapi.KindTransport, below.err
		if below.Timeout() {
			e.Kind = tlsapi.KindTimeout
			if !errors.Is(e.Err, os.ErrDeadlineExceeded) {
				e.Err = fmt.Errorf("%w: %w", os.ErrDeadlineExceeded, below.err)
			}
		}
		return e
	}

	// A hook's, verifier's or key log's: crypto/tls passes them on.
	var own *tlsapi.Error
	if errors.As(err, &own) {
		*e = *own
		e.Provider, e.Op = providerName, op
		return e
	}

	var header tls.RecordHeaderError
	if errors.As(err, &header) {
		e.Kind = tlsapi.KindBadRecord
		if op == opHandshake && !looksLikeTLS(header.RecordHeader) {
			e.Kind = tlsapi.KindNotTLS
		}
		if t, ok := header.Conn.(*transport); ok {
			header.Conn = t.Conn
			e.Err = header
		}
		return e
	}

	var alert *net.OpError
	if errors.As(err, &alert) {
		if number, ok := alertNumber(alert.Err); ok {
			e.Alert, e.HasAlert = number, true
			if alert.Op == "remote error" {
				e.Kind = tlsapi.KindPeerAlert
			} else {
				e.Kind = kindOfLocalAlert(number)
			}
			return e
		}
	}

	if errors.Is(err, io.EOF) {
		// crypto/tls reports a close_notify in the middle of a handshake like
		// the end of the data.
		e.Kind, e.Alert, e.HasAlert = tlsapi.KindPeerAlert, alertCloseNotify, true
		e.Err = io.ErrUnexpectedEOF
		return e
	}

	e.Kind = kindOfText(err.Error())
	if e.Kind == tlsapi.KindNoCertificate {
		// The alert is encrypted in TLS 1.3, so the transport cannot have
		// seen it; the connection corrects it for TLS 1.2.
		e.Alert, e.HasAlert = alertCertificateRequired, true
	}
	return e
}

// kindOfText is for the errors that crypto/tls makes of text alone. The tests
// provoke each of them, so that a change of wording is noticed.
func kindOfText(text string) tlsapi.Kind {
	for _, t := range []struct {
		part string
		kind tlsapi.Kind
	}{
		{"tls: client didn't provide a certificate", tlsapi.KindNoCertificate},
		{"tls: failed to parse certificate from server", tlsapi.KindInvalidCertificate},
		{"tls: failed to parse client certificate", tlsapi.KindInvalidCertificate},
		{"certificate containing RSA key larger than", tlsapi.KindInvalidCertificate},
		{"certificate contains an unsupported", tlsapi.KindInvalidCertificate},
		{"tls: client requested unsupported application protocols", tlsapi.KindNoALPN},
		{"tls: failed to write to key log", tlsapi.KindInternal},
		// Data in the middle of a handshake message.
		{"attempted to read record with pending application data", tlsapi.KindProtocol},
		{"tls: internal error", tlsapi.KindInternal},
	} {
		if strings.Contains(text, t.part) {
			return t.kind
		}
	}
	return tlsapi.KindProtocol
}

func kindOfLocalAlert(number tls.AlertError) tlsapi.Kind {
	switch number {
	case alertBadRecordMAC, alertRecordOverflow:
		return tlsapi.KindBadRecord
	case alertInternalError:
		return tlsapi.KindInternal
	}
	return tlsapi.KindProtocol
}

// alertNumber gets the number out of crypto/tls's alert type, which is not
// exported: an unsigned integer of 8 bits.
func alertNumber(err error) (tls.AlertError, bool) {
	v := reflect.ValueOf(err)
	if v.Kind() != reflect.Uint8 {
		return 0, false
	}
	return tls.AlertError(v.Uint()), true
}

// looksLikeTLS tells a malformed record of a TLS peer from bytes of another
// protocol.
func looksLikeTLS(header [5]byte) bool {
	const changeCipherSpec, applicationData, majorVersion = 20, 23, 3
	return header[0] >= changeCipherSpec && header[0] <= applicationData && header[1] == majorVersion
}
