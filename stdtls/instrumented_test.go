//go:build race || asan

package stdtls

// instrumented says that memory is not what it would be.
const instrumented = true
