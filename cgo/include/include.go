// Package include holds the C that the cgo providers share: the step contract
// of the engine (polytls_native.h), the certificate verification
// (polytls_verify.h) and the shim for the libssl family (polytls_libssl.h).
//
// It is a Go package, imported for its files alone, because `go mod vendor`
// drops a folder without Go files, and because embedding the headers makes
// them part of the build key of every package that imports it: an edited
// header rebuilds the providers.
package include

import "embed"

// Headers are the C headers of this folder. Nothing reads them at run time.
//
//go:embed *.h
var Headers embed.FS
