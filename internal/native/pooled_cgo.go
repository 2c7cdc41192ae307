//go:build cgo && polytls_faults

package native

import "unsafe"

// Pooled returns the addresses of the buffers that wait for their next use: a
// test that looks for memory that was lost finds them.
func Pooled() []uintptr {
	var list []uintptr
	for _, p := range []*bufferPool{&recordBuffers, &batchBuffers} {
		if top := p.top.Load(); top != 0 {
			list = append(list, top)
		}
		p.mu.Lock()
		for _, b := range p.free {
			list = append(list, uintptr(unsafe.Pointer(b)))
		}
		p.mu.Unlock()
	}
	return list
}
