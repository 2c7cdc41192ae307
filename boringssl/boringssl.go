// Package boringssl is the provider over BoringSSL, which `make native` builds
// with a prefix on every symbol.
package boringssl

import (
	"github.com/polytls/polytls/internal/native"
	"github.com/polytls/polytls/tlsapi"
)

// Provider is the BoringSSL provider, named "boringssl".
var Provider tlsapi.Provider = native.New(&native.Provider{
	ProviderName: "boringssl",
	LibraryName:  "BoringSSL",
	Matrix:       matrix,
}, library())

func matrix(able native.Abilities) native.Matrix {
	m := native.LibsslMatrix()
	m.Set(tlsapi.Native, m[tlsapi.ClientSessionCache].Note+"; tickets of TLS 1.3 that come after CloseWrite are dropped",
		tlsapi.ClientSessionCache)
	m.Set(tlsapi.Native, "the library waits for the hook", tlsapi.ClientGetCertificate)
	if able.Has(native.AbilityTimestamps) {
		m.Set(tlsapi.Native, "", tlsapi.ClientCertificate, tlsapi.ServerCertificates)
	}
	m.Set(tlsapi.Native, "", tlsapi.ClientExternalSigner, tlsapi.ServerExternalSigner)
	m.Set(tlsapi.Emulated, "TLS 1.2 suites exactly; the TLS 1.3 suites are all three, in one of the library's two orders, which the processor decides, or TLS_AES_128_GCM_SHA256 and TLS_AES_256_GCM_SHA384, or the latter alone: another choice of them is refused; a server follows the client's order among them",
		tlsapi.ClientCipherSuites, tlsapi.ServerCipherSuites)
	m.Set(tlsapi.Native, "the library has neither X448 nor SecP256r1MLKEM768 nor SecP384r1MLKEM1024",
		tlsapi.ClientCurves, tlsapi.ServerCurves)
	preset := native.PresetNote + "; the TLS 1.3 suites in its own order, which the processor decides"
	m.Set(tlsapi.Emulated, preset, tlsapi.ClientPolicyPreset, tlsapi.ServerPolicyPreset)
	m.Set(tlsapi.Native, "refused without Curves and SecurityPolicy: the library's default groups are classical",
		tlsapi.ClientSecondKeyShareOn)
	if !able.Has(native.AbilityKeyShares) {
		m.Set(tlsapi.Emulated, "the library at hand chooses the shares itself; what it sends is accepted, the other value refused",
			tlsapi.ClientSecondKeyShareOn, tlsapi.ClientSecondKeyShareOff)
	}
	if !able.Has(native.AbilityMLKEM) {
		m.Set(tlsapi.Native, "the library at hand has neither X448 nor a post-quantum group: X25519MLKEM768, SecP256r1MLKEM768, SecP384r1MLKEM1024 and MLKEM1024 are refused",
			tlsapi.ClientCurves, tlsapi.ServerCurves)
		m.Set(tlsapi.Emulated, preset+"; "+native.PresetWithoutMLKEM, tlsapi.ClientPolicyPreset, tlsapi.ServerPolicyPreset)
		m.Set(tlsapi.Unsupported, "the library at hand has no post-quantum group, so it sends one share",
			tlsapi.ClientSecondKeyShareOn)
	}
	if able.Has(native.AbilityVerdict) {
		const asked = "called by the library's verification, before this end's next flight"
		m.Set(tlsapi.Native, asked, tlsapi.ClientVerifyConnection)
		m.Set(tlsapi.Native, asked+"; without a certificate of the client it is called after the handshake, and a rejection closes the connection without an alert",
			tlsapi.ServerVerifyConnection)
	}
	m.Set(tlsapi.Unsupported, "the library has imported PSKs (RFC 9258) only", tlsapi.ClientPSKExternal, tlsapi.ServerPSKExternal)
	if !able.Has(native.AbilityImportedPSKs) {
		m.Set(tlsapi.Unsupported, "the library at hand has no PSKs of TLS 1.3", tlsapi.ClientPSKImported, tlsapi.ServerPSKImported)
	}
	return m
}
