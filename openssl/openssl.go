// Package openssl is the provider over OpenSSL: the 3.5 LTS that `make native`
// builds, or the system's shared library (`make native OPENSSL=system`).
package openssl

import (
	"github.com/polytls/polytls/internal/native"
	"github.com/polytls/polytls/tlsapi"
)

// Provider is the OpenSSL provider, named "openssl".
var Provider tlsapi.Provider = native.New(&native.Provider{
	ProviderName: "openssl",
	LibraryName:  "OpenSSL",
	Matrix:       matrix,
}, library())

func matrix(able native.Abilities) native.Matrix {
	m := native.LibsslMatrix()
	if !able.Has(native.AbilityMLKEM) {
		m.Set(tlsapi.Native, "the library at hand has no post-quantum group: X25519MLKEM768, SecP256r1MLKEM768, SecP384r1MLKEM1024 and MLKEM1024 are refused",
			tlsapi.ClientCurves, tlsapi.ServerCurves)
		m.Set(tlsapi.Emulated, native.PresetNote+"; "+native.PresetWithoutMLKEM, tlsapi.ClientPolicyPreset, tlsapi.ServerPolicyPreset)
	}
	if !able.Has(native.AbilityMLKEM | native.AbilityKeyShares) {
		m.Set(tlsapi.Unsupported, "the library at hand has no post-quantum group and sends one share, that of the first group",
			tlsapi.ClientSecondKeyShareOn)
	}
	m.Set(tlsapi.Native, m[tlsapi.ClientGetCertificate].Note+"; SupportedSignatureAlgorithms of the hook's certificate are refused: the library has settled the scheme by then",
		tlsapi.ClientGetCertificate)
	m.Set(tlsapi.Emulated, "a TLS 1.3 client sends the alert of a failed verification in the clear, which some servers cannot read (crypto/tls: bad record MAC)",
		tlsapi.ClientAlerts)
	m.Set(tlsapi.Native, "with TLS 1.2, OpenSSL 3.0 takes at most about 900 bytes of label and context",
		tlsapi.ClientExporter, tlsapi.ServerExporter)
	m.Set(tlsapi.Native, "one PSK: the library's client can offer no more", tlsapi.ClientPSKExternal)
	m.Set(tlsapi.Unsupported, "the library has external PSKs (RFC 8446) only: no importer of RFC 9258",
		tlsapi.ClientPSKImported, tlsapi.ServerPSKImported)
	return m
}
