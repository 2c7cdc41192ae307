// Package faultinjection makes allocations of native code fail, for tests: with
// the build tag polytls_faults the linker redirects malloc and its kin in
// everything that is linked into the program, the libraries and our own C
// alike, to functions that count and refuse. Allocations count while a call
// through a provider's table of functions is on the thread's stack; what the
// Go runtime and libc allocate for themselves never fails.
//
// Without the tag the package is empty, and nothing is redirected.
package faultinjection
