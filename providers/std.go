package providers

import (
	"github.com/polytls/polytls/stdtls"
	"github.com/polytls/polytls/tlsapi"
)

var standard = []tlsapi.Provider{stdtls.Provider}
