//go:build cgo

package s2n

/*
#cgo CFLAGS: -I${SRCDIR}/../cgo/include -Wall -Wextra -Werror
#include "policy_table.h"
*/
import "C"

import (
	"crypto/tls"
	"sync"
	"unsafe"

	"github.com/polytls/polytls/tlsapi"
)

// policyTable is what the compiled-in library says of its policies; empty when
// there is none.
var policyTable = sync.OnceValue(func() []policy {
	table := make([]policy, 0, int(C.polytls_s2n_policy_count()))
	for i := range C.polytls_s2n_policy_count() {
		row := C.polytls_s2n_policy_at(i)
		table = append(table, policy{
			name:         C.GoString(row.name),
			minVersion:   uint16(row.min_version),
			maxVersion:   uint16(row.max_version),
			cipherSuites: numbers[uint16](row.suites, row.suites_len),
			curves:       numbers[tlsapi.CurveID](row.groups, row.groups_len),
			schemes:      numbers[tls.SignatureScheme](row.schemes, row.schemes_len),
			certSchemes:  numbers[tls.SignatureScheme](row.cert_schemes, row.cert_schemes_len),
			testOnly:     row.test_only != 0,
		})
	}
	return table
})

// numbers copies a list of constants.
func numbers[T ~uint16](first *C.uint16_t, count C.size_t) []T {
	var list []T
	for _, n := range unsafe.Slice(first, int(count)) {
		list = append(list, T(n))
	}
	return list
}
