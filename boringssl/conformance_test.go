package boringssl_test

import (
	"testing"

	"github.com/polytls/polytls/boringssl"
	"github.com/polytls/polytls/tlstest"
)

func TestConformance(t *testing.T) {
	if err := boringssl.Provider.Available(); err != nil {
		t.Skipf("nothing to test: %v", err)
	}
	tlstest.Run(t, boringssl.Provider)
}
