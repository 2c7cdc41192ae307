package engine

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/polytls/polytls/tlsapi"
)

var verifyKinds = map[VerifyCode]tlsapi.Kind{
	VerifyHostname:      tlsapi.KindHostname,
	VerifyUntrusted:     tlsapi.KindUntrusted,
	VerifyExpired:       tlsapi.KindExpired,
	VerifyNotYetValid:   tlsapi.KindNotYetValid,
	VerifySelfSigned:    tlsapi.KindSelfSigned,
	VerifyKeyUsage:      tlsapi.KindKeyUsage,
	VerifyWeakKey:       tlsapi.KindWeakKey,
	VerifyWeakSignature: tlsapi.KindWeakSignature,
	VerifyRevoked:       tlsapi.KindRevoked,

	VerifyRevocationUnknown: tlsapi.KindRevocationUnknown,
}

var failureKinds = map[Failure]tlsapi.Kind{
	FailInternal:      tlsapi.KindInternal,
	FailConfig:        tlsapi.KindConfig,
	FailUnsupported:   tlsapi.KindUnsupported,
	FailProtocol:      tlsapi.KindProtocol,
	FailPeerAlert:     tlsapi.KindPeerAlert,
	FailNoCertificate: tlsapi.KindNoCertificate,
	FailBadRecord:     tlsapi.KindBadRecord,
	FailNoPSK:         tlsapi.KindNoPSK,
	FailBadPSK:        tlsapi.KindBadPSK,
}

// Alerts of RFC 8446 section 6, and of RFC 7301.
const (
	alertCloseNotify           = 0
	alertBadCertificate        = 42
	alertIllegalParameter      = 47
	alertUserCanceled          = 90
	alertNoRenegotiation       = 100
	alertNoApplicationProtocol = 120
)

// ResultError turns a failed result into the error that the caller sees.
func ResultError(provider, op string, res Result, text string) *tlsapi.Error {
	kind, ok := failureKinds[res.Failure]
	if !ok {
		kind = tlsapi.KindInternal
	}
	e := &tlsapi.Error{Provider: provider, Op: op, Kind: kind, Code: res.Code, Text: text}
	if res.Failure == FailProtocol && res.AlertSent == alertNoApplicationProtocol {
		e.Kind = tlsapi.KindNoALPN
	}
	switch {
	case res.Failure == FailPeerAlert && res.AlertReceived >= 0:
		e.Alert, e.HasAlert = tls.AlertError(res.AlertReceived), true
	case res.Failure != FailPeerAlert && res.AlertSent >= 0:
		e.Alert, e.HasAlert = tls.AlertError(res.AlertSent), true
	}
	return e
}

// noAlert is the result of a step that left no alert.
var noAlert = Result{Status: Failed, Fault: NoFault}

// workError turns the error of an engine's work into what the caller sees; res
// is the step that came to its end by it.
func workError(provider string, res Result, err error) error {
	e := &tlsapi.Error{Kind: tlsapi.KindRejected, Err: err}
	var own *tlsapi.Error
	if errors.As(err, &own) {
		*e = *own
	}
	e.Provider, e.Op = provider, "handshake"
	e.HasAlert = res.AlertSent >= 0
	if e.HasAlert {
		e.Alert = tls.AlertError(res.AlertSent)
	}
	return e
}

// verdictAlert is the alert for a connection that is refused after its
// verification: the one that the hook's error names, if any.
func verdictAlert(err error) uint8 {
	var e *tlsapi.Error
	if !errors.As(err, &e) {
		return alertBadCertificate
	}
	switch e.Kind {
	case tlsapi.KindNoALPN:
		return alertNoApplicationProtocol
	case tlsapi.KindProtocol:
		return alertIllegalParameter
	}
	return HookAlert(e.Err, alertBadCertificate)
}

// HookAlert is the alert for the error of a hook: the tls.AlertError that it is,
// or wraps, and otherwise the one given. Alerts that end no handshake with an
// error do not count, and neither does that of another connection.
func HookAlert(err error, otherwise uint8) uint8 {
	var own tls.AlertError
	if !errors.As(err, &own) || errors.As(err, new(*tlsapi.Error)) {
		return otherwise
	}
	switch own {
	case alertCloseNotify, alertUserCanceled, alertNoRenegotiation:
		return otherwise
	}
	return uint8(own)
}

// VerificationError turns a failed verification into the error that the caller
// sees. chain is what the peer sent, host the name that was to match.
func VerificationError(provider string, res Result, v Verification, text string, chain []*x509.Certificate, host string) *tlsapi.Error {
	kind, ok := verifyKinds[v.Code]
	if !ok {
		kind = tlsapi.KindInvalidCertificate
	}
	e := &tlsapi.Error{Provider: provider, Op: "handshake", Kind: kind, Code: uint64(v.LibraryCode), Text: text}
	if res.AlertSent >= 0 {
		e.Alert, e.HasAlert = tls.AlertError(res.AlertSent), true
	}
	// The certificate at fault; the leaf where the depth lies outside of what
	// was sent, as with a trust anchor.
	var cert, leaf *x509.Certificate
	if len(chain) > 0 {
		leaf, cert = chain[0], chain[0]
		if v.Depth > 0 && v.Depth < len(chain) {
			cert = chain[v.Depth]
		}
	}
	if leaf == nil && kind != tlsapi.KindKeyUsage {
		// A certificate that crypto/x509 cannot parse. Libraries that do not
		// parse all of it find something else amiss, or look for its issuer in
		// vain. (The key usage may be looked at before there is a chain.)
		e.Kind = tlsapi.KindInvalidCertificate
		return e
	}
	switch kind {
	case tlsapi.KindHostname:
		e.Err = x509.HostnameError{Certificate: leaf, Host: host}
	case tlsapi.KindUntrusted, tlsapi.KindSelfSigned:
		e.Err = x509.UnknownAuthorityError{Cert: cert}
	case tlsapi.KindExpired, tlsapi.KindNotYetValid:
		e.Err = x509.CertificateInvalidError{Cert: cert, Reason: x509.Expired, Detail: text}
		e.Text = ""
	case tlsapi.KindKeyUsage:
		e.Err = x509.CertificateInvalidError{Cert: cert, Reason: x509.IncompatibleUsage}
	}
	return e
}

// TransportError turns an error of the transport into the error that the caller
// sees. The end of the stream is io.ErrUnexpectedEOF: only a close_notify ends
// a TLS connection.
func TransportError(provider, op string, err error) *tlsapi.Error {
	e := &tlsapi.Error{Provider: provider, Op: op, Kind: tlsapi.KindTransport, Err: err}
	var timeout net.Error
	switch {
	case errors.Is(err, io.EOF):
		// Also where a transport has wrapped it: errors.Is must not take a
		// cut connection for a clean end.
		e.Err = io.ErrUnexpectedEOF
	case errors.Is(err, net.ErrClosed) || err == io.ErrClosedPipe:
		// The transport was closed under the connection.
	case errors.As(err, &timeout) && timeout.Timeout():
		e.Kind = tlsapi.KindTimeout
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			// Transports of others have timeout errors of their own.
			e.Err = fmt.Errorf("%w: %w", os.ErrDeadlineExceeded, err)
		}
	}
	return e
}

// ContextError is the error of a handshake whose context has ended.
func ContextError(provider string, err error) *tlsapi.Error {
	kind := tlsapi.KindCanceled
	if errors.Is(err, context.DeadlineExceeded) {
		kind = tlsapi.KindTimeout
	}
	return &tlsapi.Error{Provider: provider, Op: "handshake", Kind: kind, Err: err}
}

// ClosedError is the error of the use of a connection after Close.
func ClosedError(provider, op string) *tlsapi.Error {
	return &tlsapi.Error{Provider: provider, Op: op, Kind: tlsapi.KindClosed, Err: net.ErrClosed}
}
