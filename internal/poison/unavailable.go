//go:build !cgo

// Package poison leaves errors behind in the native libraries' error queues, as
// other C code of a process may. It is for tests.
package poison

// Queue leaves errors in the queue of the calling thread; false when the library
// of that provider is not in the binary.
func Queue(string) bool { return false }
