//go:build cgo && polytls_pkgconfig

package boringssl

// The flags come from the file that scripts/build-native.sh --prefix installs.

// #cgo pkg-config: polytls-boringssl
import "C"
