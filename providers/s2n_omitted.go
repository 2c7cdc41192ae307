//go:build polytls_no_s2n

package providers

import "github.com/polytls/polytls/tlsapi"

var s2nTLS []tlsapi.Provider
