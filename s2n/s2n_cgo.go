//go:build cgo

package s2n

/*
#cgo CFLAGS: -I${SRCDIR}/../cgo/include -Wall -Wextra -Werror
#include "polytls_native.h"

const struct polytls_library *polytls_s2n_library(void);
*/
import "C"

import (
	"unsafe"

	// The headers are part of this package's build key.
	_ "github.com/polytls/polytls/cgo/include"
)

// library returns the provider's table of C functions, which lives as long as
// the process.
func library() unsafe.Pointer { return unsafe.Pointer(C.polytls_s2n_library()) }
