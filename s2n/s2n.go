// Package s2n is the provider over s2n-tls, which `make native` builds on a
// libcrypto of its own with renamed symbols.
//
// The s2n-tls that the build gets may be old: LibraryVersion says which one it
// is, docs/ARCHITECTURE.md what that means.
package s2n

import (
	"github.com/polytls/polytls/internal/native"
	"github.com/polytls/polytls/tlsapi"
)

// Provider is the s2n-tls provider, named "s2n".
var Provider tlsapi.Provider = native.New(&native.Provider{
	ProviderName: "s2n",
	LibraryName:  "s2n-tls",
	Cells:        support().Cells(),
	NoCANames:    true,
	Policy:       selectPolicy,
}, library())

func support() native.Support {
	const policies = "honoured when one of the library's security policies matches exactly; refused otherwise"
	s := native.LibsslSupport()
	s.Move(tlsapi.Emulated, policies,
		tlsapi.ClientVersions, tlsapi.ServerVersions, tlsapi.ClientCipherSuites, tlsapi.ServerCipherSuites,
		tlsapi.ClientCurves, tlsapi.ServerCurves, tlsapi.ClientSignatureSchemes, tlsapi.ServerSignatureSchemes)
	s.Move(tlsapi.Native, "", tlsapi.ClientPolicyNamed, tlsapi.ServerPolicyNamed)
	s.Move(tlsapi.Unsupported, "the library stops reading once it has sent a close_notify",
		tlsapi.ClientCloseWrite, tlsapi.ServerCloseWrite)
	s.Move(tlsapi.Unsupported, "this version of the library has no exporter",
		tlsapi.ClientExporter, tlsapi.ServerExporter)
	return s
}
