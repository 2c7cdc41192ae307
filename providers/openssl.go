//go:build !polytls_no_openssl

package providers

import (
	"github.com/polytls/polytls/openssl"
	"github.com/polytls/polytls/tlsapi"
)

var openSSL = []tlsapi.Provider{openssl.Provider}
