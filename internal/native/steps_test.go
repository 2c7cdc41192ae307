package native

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
)

// As many as may run at once do, and everybody comes to his turn.
func TestStepGate(t *testing.T) {
	g := newStepGate(3)
	var inside, most, all atomic.Int64
	full := make(chan struct{})
	var callers sync.WaitGroup
	for range 50 {
		callers.Go(func() {
			for range 200 {
				g.enter()
				n := inside.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				if n == 3 && all.Load() == 0 {
					// Nobody else is let in before somebody has left.
					all.Store(1)
					close(full)
				}
				<-full
				runtime.Gosched()
				inside.Add(-1)
				g.leave()
			}
		})
	}
	callers.Wait()
	assert.EqualValues(t, 3, most.Load())
	assert.Zero(t, g.inside.Load())
	assert.Empty(t, g.turn)
}
