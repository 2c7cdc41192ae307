//go:build cgo && polytls_faults

package faultinjection

/*
#cgo CFLAGS: -I${SRCDIR}/../../cgo/include -Wall -Wextra -Wno-unused-parameter -Werror
#cgo LDFLAGS: -Wl,--wrap=malloc -Wl,--wrap=calloc -Wl,--wrap=realloc -Wl,--wrap=free
#cgo LDFLAGS: -Wl,--wrap=strdup -Wl,--wrap=strndup -Wl,--wrap=posix_memalign -Wl,--wrap=polytls_buffer_new
#cgo LDFLAGS: -Wl,--wrap=polytls_openssl_library -Wl,--wrap=polytls_boringssl_library -Wl,--wrap=polytls_s2n_library
#include "faults.h"
*/
import "C"

import (
	"slices"

	// The headers are part of this package's build key.
	_ "github.com/polytls/polytls/cgo/include"
)

// Scope says which calls through a table count.
type Scope int

const (
	// Everything but init and version, which run once in a process.
	Everything Scope = C.POLYTLS_FAULTS_ALL
	// AllButNewContexts leaves out the call that makes an empty context.
	AllButNewContexts Scope = C.POLYTLS_FAULTS_NOT_CTX_NEW
	// NewContexts is that call alone.
	NewContexts Scope = C.POLYTLS_FAULTS_CTX_NEW
)

// Limit sets what counts from now on.
func Limit(s Scope) { C.polytls_faults_scope(C.enum_polytls_faults_scope(s)) }

// Start counts allocations from zero and lets the one with the number failAt,
// counted from one, fail; none with 0. From here on it also keeps what is
// allocated and not freed again, for Living, with the stacks that trace says.
func Start(failAt int, trace Trace) {
	if len(trace.sizes) == 0 || len(trace.sizes) > C.POLYTLS_FAULTS_SIZES {
		how := C.enum_polytls_faults_trace(C.POLYTLS_FAULTS_NO_STACKS)
		if trace.stacks {
			how = C.POLYTLS_FAULTS_STACKS
		}
		C.polytls_faults_start(C.uint64_t(failAt), how, nil, 0)
		return
	}
	C.polytls_faults_start(C.uint64_t(failAt), C.POLYTLS_FAULTS_STACKS_OF_SIZES, &trace.sizes[0], C.size_t(len(trace.sizes)))
}

// Trace says of which blocks the stacks are kept: most of the time of a connection
// goes into them. The zero value is none.
type Trace struct {
	stacks bool
	sizes  []C.size_t
}

// Stacks keeps those of all blocks.
func Stacks() Trace { return Trace{stacks: true} }

// StacksLike keeps those of blocks of the same sizes as the blocks.
func StacksLike(blocks []Block) Trace {
	t := Stacks()
	for _, b := range blocks {
		if size := C.size_t(b.Size); !slices.Contains(t.sizes, size) {
			t.sizes = append(t.sizes, size)
		}
	}
	return t
}

// Stop ends the counting, and with it the failing. What was allocated before is
// still followed until the next Start.
func Stop() { C.polytls_faults_stop() }

// Count returns the number of allocations since Start.
func Count() int { return int(C.polytls_faults_count()) }

// Block is memory that was allocated between Start and Stop and has not been
// freed since.
type Block struct {
	// Number is that of the allocation.
	Number  int
	Address uintptr
	Size    int
	// Stack are addresses of native code, the innermost first; empty without
	// tracing.
	Stack []uintptr
}

// Living returns blocks that have not been freed, up to 1000.
func Living() []Block {
	found := make([]C.struct_polytls_faults_block, 1000)
	found = found[:C.polytls_faults_living(&found[0], C.size_t(len(found)))]
	var list []Block
	for i := range found {
		list = append(list, Block{Number: int(found[i].number), Address: uintptr(found[i].address), Size: int(found[i].size), Stack: stack(&found[i])})
	}
	return list
}

func stack(b *C.struct_polytls_faults_block) []uintptr {
	var list []uintptr
	for _, p := range b.stack[:b.frames] {
		list = append(list, uintptr(p))
	}
	return list
}

// FailedStack returns the addresses of the native code whose allocation was the
// one that failed; empty when none has.
func FailedStack() []uintptr {
	var b C.struct_polytls_faults_block
	C.polytls_faults_failed(&b)
	return stack(&b)
}

// Crash ends the process as a library does that finds itself broken: for the
// test of what reports it.
func Crash() { C.polytls_faults_crash() }
