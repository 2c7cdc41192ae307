package openssl_test

import (
	"testing"

	"github.com/polytls/polytls/openssl"
	"github.com/polytls/polytls/tlstest"
)

func TestConformance(t *testing.T) {
	if err := openssl.Provider.Available(); err != nil {
		t.Skipf("nothing to test: %v", err)
	}
	tlstest.Run(t, openssl.Provider)
}
