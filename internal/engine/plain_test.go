//go:build !race && !asan

package engine_test

// instrumented says that memory is not what it would be.
const instrumented = false
