package tlsapi

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
)

// Kind is the category of an [Error]: what a caller branches on. A Kind is an
// error itself, so that errors.Is(err, tlsapi.KindExpired) works.
type Kind uint8

const (
	// KindInternal is a fault of the provider or of its library, such as a
	// failed allocation.
	KindInternal Kind = iota + 1
	// KindConfig is a configuration that is wrong: malformed, contradictory
	// or incomplete.
	KindConfig
	// KindUnsupported is a configuration that the provider cannot honour.
	// Errors of this kind match errors.ErrUnsupported.
	KindUnsupported
	// KindUnavailable is a provider that is not compiled into the program or
	// whose library does not match its headers.
	KindUnavailable
	// KindProtocol is a peer that broke the TLS protocol or had no parameters
	// in common with this end.
	KindProtocol
	// KindPeerAlert is a fatal alert sent by the peer; [Error.Alert] has it.
	KindPeerAlert
	// KindBadRecord is a record that did not decrypt or was malformed.
	KindBadRecord
	// KindNotTLS is a peer whose first bytes are not TLS. The error wraps a
	// tls.RecordHeaderError.
	KindNotTLS
	// KindNoCertificate is a peer that sent no certificate although one is
	// required.
	KindNoCertificate
	// KindNoALPN is a peer that shares no application protocol with this end,
	// where one is required.
	KindNoALPN
	// KindNoPSK is a handshake without a pre-shared key where one is required:
	// the peer has none of them, or prefers certificates.
	KindNoPSK
	// KindBadPSK is a pre-shared key that both ends know by its identity but
	// with different secrets.
	KindBadPSK
	// KindTransport is a failure of the underlying connection. The error
	// wraps the transport's own.
	KindTransport
	// KindTimeout is a passed deadline or handshake timeout. The error wraps
	// os.ErrDeadlineExceeded or context.DeadlineExceeded.
	KindTimeout
	// KindCanceled is a handshake ended by its context.
	KindCanceled
	// KindClosed is the use of a connection after Close. The error wraps
	// net.ErrClosed.
	KindClosed
	// KindRejected is a connection refused by a hook of the configuration.
	// The error wraps the hook's own.
	KindRejected

	// KindHostname is a certificate that holds none of the accepted names.
	// The error wraps an x509.HostnameError.
	KindHostname
	// KindUntrusted is a certificate without a path to a trust anchor. The
	// error wraps an x509.UnknownAuthorityError.
	KindUntrusted
	// KindSelfSigned is a self-signed certificate that is no trust anchor.
	// The error wraps an x509.UnknownAuthorityError.
	KindSelfSigned
	// KindExpired is a certificate whose validity has ended. The error wraps
	// an x509.CertificateInvalidError with reason x509.Expired.
	KindExpired
	// KindNotYetValid is a certificate whose validity has not begun. The
	// error wraps an x509.CertificateInvalidError with reason x509.Expired.
	KindNotYetValid
	// KindKeyUsage is a certificate whose key usage or extended key usage
	// does not allow this use. The error wraps an
	// x509.CertificateInvalidError with reason x509.IncompatibleUsage.
	KindKeyUsage
	// KindWeakKey is a certificate with a key that is too short: RSA under
	// 2048 bits.
	KindWeakKey
	// KindWeakSignature is a certificate signed with SHA-1 or MD5.
	KindWeakSignature
	// KindRevoked is a revoked certificate.
	KindRevoked
	// KindRevocationUnknown is a certificate for which RevocationLists holds
	// no current list of its issuer.
	KindRevocationUnknown
	// KindInvalidCertificate is a certificate that is invalid for any other
	// reason: a bad signature, an issuer that may not issue, a violated name
	// constraint, malformed contents.
	KindInvalidCertificate
)

var kindText = map[Kind]string{
	KindInternal:           "internal error",
	KindConfig:             "invalid configuration",
	KindUnsupported:        "unsupported",
	KindUnavailable:        "provider not available",
	KindProtocol:           "protocol error",
	KindPeerAlert:          "alert from the peer",
	KindBadRecord:          "bad record",
	KindNotTLS:             "the peer does not speak TLS",
	KindNoCertificate:      "the peer sent no certificate",
	KindNoALPN:             "no application protocol in common",
	KindNoPSK:              "no pre-shared key in common",
	KindBadPSK:             "the pre-shared key is not the peer's",
	KindTransport:          "transport error",
	KindTimeout:            "timeout",
	KindCanceled:           "canceled",
	KindClosed:             "connection closed",
	KindRejected:           "rejected",
	KindHostname:           "certificate is not valid for the name",
	KindUntrusted:          "certificate signed by unknown authority",
	KindSelfSigned:         "certificate is self-signed",
	KindExpired:            "certificate has expired",
	KindNotYetValid:        "certificate is not yet valid",
	KindKeyUsage:           "certificate does not allow this use",
	KindWeakKey:            "certificate has a weak key",
	KindWeakSignature:      "certificate has a weak signature",
	KindRevoked:            "certificate is revoked",
	KindRevocationUnknown:  "no current revocation list for the certificate",
	KindInvalidCertificate: "certificate is invalid",
}

// Error returns the category in words.
func (k Kind) Error() string {
	if s, ok := kindText[k]; ok {
		return s
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

var kindNames = map[Kind]string{
	KindInternal:           "internal",
	KindConfig:             "config",
	KindUnsupported:        "unsupported",
	KindUnavailable:        "unavailable",
	KindProtocol:           "protocol",
	KindPeerAlert:          "peer_alert",
	KindBadRecord:          "bad_record",
	KindNotTLS:             "not_tls",
	KindNoCertificate:      "no_certificate",
	KindNoALPN:             "no_alpn",
	KindNoPSK:              "no_psk",
	KindBadPSK:             "bad_psk",
	KindTransport:          "transport",
	KindTimeout:            "timeout",
	KindCanceled:           "canceled",
	KindClosed:             "closed",
	KindRejected:           "rejected",
	KindHostname:           "hostname",
	KindUntrusted:          "untrusted",
	KindSelfSigned:         "self_signed",
	KindExpired:            "expired",
	KindNotYetValid:        "not_yet_valid",
	KindKeyUsage:           "key_usage",
	KindWeakKey:            "weak_key",
	KindWeakSignature:      "weak_signature",
	KindRevoked:            "revoked",
	KindRevocationUnknown:  "revocation_unknown",
	KindInvalidCertificate: "invalid_certificate",
}

// Name returns the category as one word for logs and metrics, such as
// "peer_alert"; "other" for the zero value and for values that are no category.
// The names do not change.
func (k Kind) Name() string {
	if s, ok := kindNames[k]; ok {
		return s
	}
	return "other"
}

// KindOf returns the category of an error of a provider: of the first [Error] or
// Kind in err's tree, or zero when there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	var k Kind
	if errors.As(err, &k) {
		return k
	}
	return 0
}

// Is makes KindUnsupported match errors.ErrUnsupported.
func (k Kind) Is(target error) bool {
	return k == KindUnsupported && target == errors.ErrUnsupported
}

// Verification reports whether k is an outcome of the certificate
// verification.
func (k Kind) Verification() bool {
	return k >= KindHostname && k <= KindInvalidCertificate
}

// Error is the error of every provider. It holds no secret. Errors of one
// cause have the same Kind with every provider; texts differ.
type Error struct {
	// Provider is the provider's name, such as "openssl"; empty when no
	// provider was involved.
	Provider string
	// Op is what was done: "config", "handshake", "read", "write", "close".
	Op string
	// Kind is the category.
	Kind Kind
	// Option names the option, as in the documentation of the configuration
	// ("Curves", "PSKs"), for KindConfig and KindUnsupported.
	Option string
	// Alert is the TLS alert that was sent (any kind but KindPeerAlert) or
	// received (KindPeerAlert). It counts only when HasAlert is true.
	Alert    tls.AlertError
	HasAlert bool
	// Code is the native library's error code and Text its text; 0 and empty
	// when the library gave none.
	Code uint64
	Text string
	// Err is the wrapped error, or nil: an x509 error, a net error, a hook's.
	Err error
}

// Error returns a text of the form
// "openssl: handshake: certificate has expired: …".
func (e *Error) Error() string {
	var parts []string
	add := func(s string) {
		if s != "" {
			parts = append(parts, s)
		}
	}
	add(e.Provider)
	add(e.Op)
	if e.Option != "" {
		add("option " + e.Option)
	}
	add(e.Kind.Error())
	if e.HasAlert && e.Kind == KindPeerAlert {
		add(strings.TrimPrefix(e.Alert.Error(), "tls: "))
	}
	if e.Err != nil {
		add(e.Err.Error())
	}
	add(e.Text)
	return strings.Join(parts, ": ")
}

// Unwrap gives errors.Is and errors.As the kind, the alert and the wrapped
// error.
func (e *Error) Unwrap() []error {
	errs := []error{e.Kind}
	if e.HasAlert {
		errs = append(errs, e.Alert)
	}
	if e.Err != nil {
		errs = append(errs, e.Err)
	}
	return errs
}

// Timeout reports whether the error is a passed deadline, as net.Error.
func (e *Error) Timeout() bool {
	if e.Kind == KindTimeout {
		return true
	}
	var t interface{ Timeout() bool }
	return e.Err != nil && errors.As(e.Err, &t) && t.Timeout()
}

// Temporary is part of net.Error; it reports the same as Timeout, as the
// net package's errors do.
func (e *Error) Temporary() bool { return e.Timeout() }

// ConfigError returns an error of KindConfig that names the option.
func ConfigError(option, format string, args ...any) *Error {
	return &Error{Op: "config", Kind: KindConfig, Option: option, Err: fmt.Errorf(format, args...)}
}

// UnsupportedError returns an error of KindUnsupported: provider cannot honour
// option, for the reason given.
func UnsupportedError(provider, option, format string, args ...any) *Error {
	return &Error{Provider: provider, Op: "config", Kind: KindUnsupported, Option: option, Err: fmt.Errorf(format, args...)}
}
