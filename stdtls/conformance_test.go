package stdtls_test

import (
	"testing"

	"github.com/polytls/polytls/stdtls"
	"github.com/polytls/polytls/tlstest"
)

func TestConformance(t *testing.T) { tlstest.Run(t, stdtls.Provider) }
