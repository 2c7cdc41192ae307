package tlstest_test

import (
	"testing"

	"github.com/polytls/polytls/stdtls"
	"github.com/polytls/polytls/tlstest"
)

func TestStd(t *testing.T) { tlstest.Run(t, stdtls.Provider) }
