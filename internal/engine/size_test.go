package engine

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
)

// A connection is in a size class of Go's allocator, and the next one has 128
// bytes more: an idle connection holds little besides.
func TestConnectionsStaySmall(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) != 8 {
		t.Skip("the figure is that of 64-bit systems")
	}
	assert.LessOrEqual(t, unsafe.Sizeof(Conn{}), uintptr(768))
}
