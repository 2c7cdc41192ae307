//go:build cgo

package native

/*
#include <stdlib.h>
#include "buffers.h"
#include "polytls_native.h"
*/
import "C"

import (
	"sync"
	"unsafe"
)

// buffer is malloc memory for ciphertext, or nothing.
type buffer struct {
	p   *C.uint8_t
	cap C.size_t
}

// bufferPool keeps a few buffers of one size that nobody uses, the last one used
// on top. All connections share them, as none holds one while it waits.
type bufferPool struct {
	size C.size_t
	most int

	mu   sync.Mutex
	free []*C.uint8_t
}

var (
	// recordBuffers hold one TLS record of the largest size.
	recordBuffers = bufferPool{size: C.POLYTLS_MAX_RECORD, most: 64}
	// batchBuffers hold what one call of the transport moves. Little of one is
	// touched where the messages are small.
	batchBuffers = bufferPool{size: outputLimit, most: 64}
)

// get returns a buffer, or nothing when memory ran out.
func (p *bufferPool) get() buffer {
	p.mu.Lock()
	if last := len(p.free) - 1; last >= 0 {
		b := p.free[last]
		p.free = p.free[:last]
		p.mu.Unlock()
		return buffer{b, p.size}
	}
	p.mu.Unlock()
	b := (*C.uint8_t)(C.polytls_buffer_new(p.size))
	if b == nil {
		return buffer{}
	}
	return buffer{b, p.size}
}

// giveBack takes a buffer of any size, or nothing.
func giveBack(b buffer) {
	if b.p == nil {
		return
	}
	for _, p := range [...]*bufferPool{&batchBuffers, &recordBuffers} {
		if b.cap != p.size {
			continue
		}
		p.mu.Lock()
		kept := len(p.free) < p.most
		if kept {
			p.free = append(p.free, b.p)
		}
		p.mu.Unlock()
		if kept {
			return
		}
	}
	C.free(unsafe.Pointer(b.p))
}
