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
	Cells:        native.LibsslSupport().Cells(),
}, library())
