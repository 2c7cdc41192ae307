// Package s2n is the provider over s2n-tls, which `make native` builds on a
// libcrypto of its own with renamed symbols.
//
// The s2n-tls that the build gets may be old: LibraryVersion says which one it
// is, docs/ARCHITECTURE.md what that means.
package s2n

import (
	"time"

	"github.com/polytls/polytls/internal/native"
	"github.com/polytls/polytls/tlsapi"
)

// Provider is the s2n-tls provider, named "s2n".
var Provider tlsapi.Provider = native.New(&native.Provider{
	ProviderName: "s2n",
	LibraryName:  "s2n-tls",
	Matrix:       matrix,
	NoCANames:    true,
	// See server.session-tickets.
	NoClientTickets: true,
	Policy:          selectPolicy,
	// The library's own delay is 10 to 30 s.
	MaxBlindingDelay: 30 * time.Second,
}, library())

func matrix(able native.Abilities) native.Matrix {
	m := native.LibsslMatrix()
	m.Set(tlsapi.Emulated, exactNote, tlsapi.ClientCipherSuites, tlsapi.ServerCipherSuites,
		tlsapi.ClientCurves, tlsapi.ServerCurves)
	m.Set(tlsapi.Emulated, exactNote+"; "+oldNote, tlsapi.ClientVersions, tlsapi.ServerVersions)
	m.Set(tlsapi.Emulated, exactNote+"; "+schemeNote, tlsapi.ClientSignatureSchemes, tlsapi.ServerSignatureSchemes)
	m.Set(tlsapi.Emulated, presetNote(policyTable()), tlsapi.ClientPolicyPreset, tlsapi.ServerPolicyPreset)
	m.Set(tlsapi.Native, "refused are policies with TLS below 1.2 or broken suites, and those made for tests",
		tlsapi.ClientPolicyNamed, tlsapi.ServerPolicyNamed)
	m.Set(tlsapi.Emulated, shareNote, tlsapi.ClientSecondKeyShareOff)
	if hasPostQuantum(policyTable()) {
		m.Set(tlsapi.Emulated, shareNote, tlsapi.ClientSecondKeyShareOn)
	} else {
		m.Set(tlsapi.Unsupported, "this version of the library has no post-quantum group that is a standard, so it sends one share",
			tlsapi.ClientSecondKeyShareOn)
	}
	m.Set(tlsapi.Native, "RSA keys and ECDSA keys on P-256 and P-384; P-521 and Ed25519 keys are refused, and certificates with SignedCertificateTimestamps or SupportedSignatureAlgorithms",
		tlsapi.ClientCertificate, tlsapi.ServerCertificates)
	m.Set(tlsapi.Unsupported, "the library has one certificate for a client, which it is given before the handshake", tlsapi.ClientGetCertificate)
	m.Set(tlsapi.Native, "the library ignores bytes behind a certificate in the server's list", tlsapi.ClientRootCAs)
	m.Set(tlsapi.Native, "the CertificateRequest does not name the CAs", tlsapi.ServerClientCAs)
	m.Set(tlsapi.Native, "protocols whose name has one byte only or a NUL byte in it are refused", tlsapi.ClientALPN, tlsapi.ServerALPN)
	m.Set(tlsapi.Emulated, "decided from the ClientHello before the library answers", tlsapi.ServerALPNStrict)
	if !able.Has(native.AbilityHalfClose) {
		m.Set(tlsapi.Unsupported, "the library at hand stops reading once it has sent a close_notify",
			tlsapi.ClientCloseWrite, tlsapi.ServerCloseWrite)
	}
	if !able.Has(native.AbilityExporter) {
		m.Set(tlsapi.Unsupported, "the library at hand has no exporter",
			tlsapi.ClientExporter, tlsapi.ServerExporter)
	}
	m.Set(tlsapi.Emulated, "the library sends none: an alert goes out in its place as long as this end writes plaintext, none in TLS 1.3 after that",
		tlsapi.ClientAlerts, tlsapi.ServerAlerts)
	m.Set(tlsapi.Emulated, "a timer of the state machine around the library: the library's own delay would block a thread; 30 s by default, as the library's own",
		tlsapi.ClientBlinding, tlsapi.ServerBlinding)
	m.Set(tlsapi.Native, "TLS 1.3 with psk_dhe_ke, all of one hash (PSKs of two hashes are refused): after a HelloRetryRequest the library loses count of two kinds; "+
		"servers that choose the cipher suite before the PSK find one of SHA-384 only with a policy that has no other suites, such as rfc9151; no sessions beside PSKs",
		tlsapi.ClientPSKExternal)
	m.Set(tlsapi.Native, "TLS 1.3 with psk_dhe_ke; no session tickets beside PSKs", tlsapi.ServerPSKExternal)
	m.Set(tlsapi.Unsupported, "the library has external PSKs only (RFC 8446), no imported ones (RFC 9258)",
		tlsapi.ClientPSKImported, tlsapi.ServerPSKImported)
	m.Set(tlsapi.Unsupported, "the library has no PSK cipher suites of TLS 1.2", tlsapi.ClientPSKTLS12, tlsapi.ServerPSKTLS12)
	m.Set(tlsapi.Emulated, "sessions of TLS 1.3, and of TLS 1.2 where that is MaxVersion: the library cannot resume them otherwise; "+
		"without a session a ClientHello offers a PSK of random bytes, beside which alone the library asks for tickets of TLS 1.3; none beside PSKs",
		tlsapi.ClientSessionCache)
	m.Set(tlsapi.Native, "none with client authentication, which the library does not check again, nor beside PSKs", tlsapi.ServerSessionTickets)
	m.Set(tlsapi.Native, "48 keys at most", tlsapi.ServerSessionTicketKeys)
	m.Set(tlsapi.Native, "the library checks each signature against the certificate; policies with RSA key exchange are refused with an RSA signer",
		tlsapi.ServerExternalSigner)
	m.Set(tlsapi.Native, "the library checks each signature against the certificate", tlsapi.ClientExternalSigner)
	return m
}
