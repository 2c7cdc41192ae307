//go:build cgo

package native

/*
#include <stdlib.h>
#include "buffers.h"
#include "polytls_native.h"
*/
import "C"

import (
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"
)

// buffer is malloc memory for ciphertext, or nothing.
type buffer struct {
	p   *C.uint8_t
	cap C.size_t
}

// bufferPool keeps a few buffers of one size that nobody uses, the last one used
// on top. All connections share them, as none holds one while it waits. What
// nobody has needed from one garbage collection to the next goes back to the
// system, but for the one on top.
type bufferPool struct {
	size C.size_t
	most int

	// top is the address of the one on top, had without the lock. It is a number:
	// the collector has no business with C memory, and exchanging a pointer takes
	// calls of the runtime.
	top atomic.Uintptr

	mu   sync.Mutex
	free []*C.uint8_t
	// unused is how many of free nobody has taken since the last collection: the
	// first ones. watching says that the next one will be noticed.
	unused   int
	watching bool
}

var (
	// recordBuffers hold one TLS record of the largest size.
	recordBuffers = bufferPool{size: C.POLYTLS_MAX_RECORD, most: 64}
	// batchBuffers hold what one call of the transport moves. Little of one is
	// touched where the messages are small.
	batchBuffers = bufferPool{size: batchSize, most: 64}
)

// get returns a buffer, or nothing when memory ran out.
func (p *bufferPool) get() buffer {
	if top := p.top.Swap(0); top != 0 {
		return buffer{*(**C.uint8_t)(unsafe.Pointer(&top)), p.size}
	}
	p.mu.Lock()
	if last := len(p.free) - 1; last >= 0 {
		b := p.free[last]
		p.free = p.free[:last]
		p.unused = min(p.unused, last)
		p.mu.Unlock()
		return buffer{b, p.size}
	}
	p.mu.Unlock()
	steps.enter()
	b := (*C.uint8_t)(C.polytls_buffer_new(p.size))
	steps.leave()
	if b == nil {
		return buffer{}
	}
	return buffer{b, p.size}
}

// put takes a buffer back; false when there are enough.
func (p *bufferPool) put(b *C.uint8_t) bool {
	if p.top.CompareAndSwap(0, uintptr(unsafe.Pointer(b))) {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) == p.most {
		return false
	}
	p.free = append(p.free, b)
	if !p.watching {
		p.watching = true
		p.watch()
	}
	return true
}

// collection is what the garbage collector finds with its next collection. It has
// a size of its own: the smallest objects share their memory.
type collection struct{ _ [4]uintptr }

// watch calls collected after the next collection.
func (p *bufferPool) watch() { runtime.AddCleanup(&collection{}, (*bufferPool).collected, p) }

// collected frees what nobody has taken since the last collection.
func (p *bufferPool) collected() {
	p.mu.Lock()
	unused := append([]*C.uint8_t(nil), p.free[:p.unused]...)
	p.free = append(p.free[:0], p.free[p.unused:]...)
	p.unused = len(p.free)
	p.watching = len(p.free) > 0
	if p.watching {
		p.watch()
	}
	p.mu.Unlock()
	for _, b := range unused {
		free(b)
	}
}

// giveBack takes a buffer of any size, or nothing.
func giveBack(b buffer) {
	switch {
	case b.p == nil:
		return
	case b.cap == batchBuffers.size && batchBuffers.put(b.p):
		return
	case b.cap == recordBuffers.size && recordBuffers.put(b.p):
		return
	}
	free(b.p)
}

// free gives memory back, in its turn: the C library may give it back to the
// system, which takes long.
func free(p *C.uint8_t) {
	steps.enter()
	C.free(unsafe.Pointer(p))
	steps.leave()
}
