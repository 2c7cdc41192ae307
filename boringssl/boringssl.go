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
	Cells:        support().Cells(),
}, library())

func support() native.Support {
	s := native.LibsslSupport()
	s.Move(tlsapi.Emulated, "TLS 1.2 suites exactly; the TLS 1.3 suites are always all three, in the library's order: another choice of them is refused",
		tlsapi.ClientCipherSuites, tlsapi.ServerCipherSuites)
	return s
}
