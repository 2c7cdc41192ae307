package s2n_test

import (
	"testing"

	"github.com/polytls/polytls/s2n"
	"github.com/polytls/polytls/tlstest"
)

func TestConformance(t *testing.T) {
	if err := s2n.Provider.Available(); err != nil {
		t.Skipf("nothing to test: %v", err)
	}
	tlstest.Run(t, s2n.Provider)
}
