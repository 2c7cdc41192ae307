//go:build !race && !asan

package providers_test

// instrumented says that memory is not what it would be.
const instrumented = false
