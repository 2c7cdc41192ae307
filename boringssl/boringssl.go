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
	Cells:        matrix().Cells(),
}, library())

func matrix() native.Matrix {
	m := native.LibsslMatrix()
	m.SetSessions()
	m.Set(tlsapi.Emulated, "TLS 1.2 suites exactly; the TLS 1.3 suites are always all three, in one of the library's two orders, which the processor decides: another choice of them is refused; a server follows the client's order among them",
		tlsapi.ClientCipherSuites, tlsapi.ServerCipherSuites)
	m.Set(tlsapi.Native, "the library has neither X448 nor SecP256r1MLKEM768 nor SecP384r1MLKEM1024",
		tlsapi.ClientCurves, tlsapi.ServerCurves)
	m.Set(tlsapi.Native, "refused without Curves: the library's default groups are classical; the library of 2023 chooses the shares itself",
		tlsapi.ClientSecondKeyShareOn)
	m.Set(tlsapi.Unsupported, "the library has imported PSKs (RFC 9258) only", tlsapi.ClientPSKExternal, tlsapi.ServerPSKExternal)
	return m
}
