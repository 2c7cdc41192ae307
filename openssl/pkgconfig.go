//go:build cgo && polytls_pkgconfig

package openssl

// The flags come from the file that scripts/build-native.sh --prefix installs.

// #cgo pkg-config: polytls-openssl
import "C"
