//go:build cgo

package native

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fill lets count buffers be used at once.
func (p *bufferPool) fill(t *testing.T, count int) {
	used := make([]buffer, count)
	for i := range used {
		used[i] = p.get()
		require.NotNil(t, used[i].p)
	}
	for _, b := range used {
		require.True(t, p.put(b.p))
	}
}

func (p *bufferPool) kept() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.free)
}

// Buffers that a peak of use has left behind do not stay.
func TestUnusedBuffersGoBack(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // or another test's garbage decides when
	pool := bufferPool{size: 64, most: 8}
	defer func() { free(pool.get().p) }() // the one on top
	pool.fill(t, 9)
	require.Equal(t, 8, pool.kept(), "one more is on top")
	pool.collected()
	require.Equal(t, 8, pool.kept(), "all of them have been in use since the collection before")
	pool.fill(t, 4)
	pool.collected()
	require.Equal(t, 3, pool.kept(), "the ones that were in use, but for the one on top")
	for end := time.Now().Add(time.Minute); pool.kept() > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		runtime.GC()
	}
	assert.Zero(t, pool.kept(), "collections are noticed")
	assert.NotZero(t, pool.top.Load())
	pool.fill(t, 3)
	for end := time.Now().Add(time.Minute); pool.kept() > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		runtime.GC()
	}
	assert.Zero(t, pool.kept(), "also after it was empty")
}
