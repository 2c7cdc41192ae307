//go:build cgo && polytls_pkgconfig

package s2n

// The flags come from the file that scripts/build-native.sh --prefix installs.

// #cgo pkg-config: polytls-s2n
import "C"
