//go:build cgo && linux

// Package nativememory counts what the C libraries of the process have allocated,
// for tests of leaks.
package nativememory

/*
#include <malloc.h>
#include <stddef.h>

// The bytes that malloc has given out and not got back, in all arenas, or 0 where
// the C library does not tell.
static size_t allocated(void) {
#if defined(__GLIBC__) && defined(__GLIBC_PREREQ)
#if __GLIBC_PREREQ(2, 33)
  struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
#endif
#endif
  return 0;
}
*/
import "C"

// Exact is a line of a process's environment with which Allocated is exact:
// without it, memory that a thread keeps for its next allocations counts as
// given out.
const Exact = "GLIBC_TUNABLES=glibc.malloc.tcache_count=0"

// Allocated returns the bytes that are allocated; false where nobody counts them.
func Allocated() (uint64, bool) {
	n := uint64(C.allocated())
	return n, n != 0
}
