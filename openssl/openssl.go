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
	Cells:        matrix().Cells(),
}, library())

func matrix() native.Matrix {
	m := native.LibsslMatrix()
	m.SetSessions()
	m.Set(tlsapi.Native, "SecP256r1MLKEM768, SecP384r1MLKEM1024 and X25519MLKEM768 are refused where the library is older than 3.5",
		tlsapi.ClientCurves, tlsapi.ServerCurves)
	m.Set(tlsapi.Native, "refused where the library is older than 3.5, which has no X25519MLKEM768 and sends one share",
		tlsapi.ClientSecondKeyShareOn)
	m.Set(tlsapi.Emulated, "a TLS 1.3 client sends the alert of a failed verification in the clear, which some servers cannot read (crypto/tls: bad record MAC)",
		tlsapi.ClientAlerts)
	m.Set(tlsapi.Native, "with TLS 1.2, OpenSSL 3.0 takes at most about 900 bytes of label and context",
		tlsapi.ClientExporter, tlsapi.ServerExporter)
	m.Set(tlsapi.Native, "one PSK: the library's client can offer no more", tlsapi.ClientPSKExternal)
	m.Set(tlsapi.Native, "", tlsapi.ServerPSKExternal, tlsapi.ClientRequirePSK, tlsapi.ServerRequirePSK)
	return m
}
