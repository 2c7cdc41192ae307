package engine

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slowEngine needs a while for the one step of its handshake, and counts who
// else does. The steps before full is closed wait for it.
type slowEngine struct {
	Engine
	running, most *atomic.Int32
	full          chan struct{} // closed by the step that takes the last place
	filling       *sync.Once
}

func (e slowEngine) Handshake() Result {
	now := e.running.Add(1)
	for most := e.most.Load(); now > most && !e.most.CompareAndSwap(most, now); most = e.most.Load() {
	}
	if int(now) >= cap(handshakeSteps) {
		e.filling.Do(func() { close(e.full) })
	}
	select {
	case <-e.full:
	case <-time.After(time.Minute):
		e.filling.Do(func() { close(e.full) }) // the test fails
	}
	time.Sleep(time.Millisecond) // for a step that is one too many
	e.running.Add(-1)
	return Result{Status: OK, Fault: NoFault}
}

func (slowEngine) ErrorText() string      { return "" }
func (slowEngine) TakeKeyLog() []byte     { return nil }
func (slowEngine) TakeOutput() []byte     { return nil }
func (slowEngine) HasOutput() bool        { return false }
func (slowEngine) CloseNotify() Result    { return Result{} }
func (slowEngine) Facts() Facts           { return Facts{} }
func (slowEngine) Free()                  {}
func (slowEngine) InputReceived(int)      {}
func (slowEngine) InputSpace(bool) []byte { return make([]byte, 1) }
func (slowEngine) Read([]byte) Result     { return Result{Status: WantInput} }
func (slowEngine) Write(p []byte) Result  { return Result{N: len(p)} }

// As many steps of handshakes run at once as there are places, and no more.
func TestHandshakeStepsAreLimited(t *testing.T) {
	var running, most atomic.Int32
	full, filling := make(chan struct{}), new(sync.Once)
	var wg sync.WaitGroup
	for range 20 * cap(handshakeSteps) {
		one, two := net.Pipe()
		c := New(one, slowEngine{running: &running, most: &most, full: full, filling: filling}, Options{Client: true})
		wg.Go(func() {
			assert.NoError(t, c.Handshake())
			assert.NoError(t, c.Close())
			two.Close()
		})
	}
	wg.Wait()
	assert.EqualValues(t, cap(handshakeSteps), most.Load())
	assert.Empty(t, handshakeSteps, "every place was given back")
}

// A handshake that waits for a place ends with its context.
func TestHandshakeWaitsForAPlaceUntilItsContextEnds(t *testing.T) {
	for range cap(handshakeSteps) {
		require.NoError(t, handshakeSteps.enter(t.Context()))
		defer handshakeSteps.leave()
	}
	one, _ := net.Pipe()
	var running, most atomic.Int32
	c := New(one, slowEngine{running: &running, most: &most}, Options{Client: true})
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.HandshakeContext(ctx), context.DeadlineExceeded)
	assert.Zero(t, most.Load())
}
