//go:build polytls_no_boringssl

package providers

import "github.com/polytls/polytls/tlsapi"

var boringSSL []tlsapi.Provider
