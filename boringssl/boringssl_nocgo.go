//go:build !cgo

package boringssl

import "unsafe"

// library is nothing without cgo; the provider then reports that it is not
// built in.
func library() unsafe.Pointer { return nil }
