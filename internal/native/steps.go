package native

import (
	"runtime"
	"sync/atomic"
)

// steps limits the calls of the libraries that run at once to a few more than
// there are processors. The scheduler gives the processor of a thread that is long
// in C to another thread, and a thread is long there when the system has stopped
// it: on a busy machine each connection in use could make one more thread, which
// stays. Nothing in C waits for anything, so a call comes to its turn, and locks
// may be held meanwhile.
var steps = newStepGate(max(2, runtime.GOMAXPROCS(0)) + spareSteps)

// spareSteps are places beside those for handshakes, of which as many run at once
// as there are processors (internal/engine/gate.go).
const spareSteps = 2

// stepGate lets a limited number in at a time, in the order in which they come.
type stepGate struct {
	limit int64
	// inside counts who is in and who waits.
	inside atomic.Int64
	turn   chan struct{}
}

func newStepGate(limit int) *stepGate {
	// Room for as many turns as there can be goroutines: who leaves never waits.
	return &stepGate{limit: int64(limit), turn: make(chan struct{}, 1<<30)}
}

// enter waits for a place. leave gives it to who waits longest.
func (g *stepGate) enter() {
	if g.inside.Add(1) > g.limit {
		<-g.turn
	}
}

func (g *stepGate) leave() {
	if g.inside.Add(-1) >= g.limit {
		g.turn <- struct{}{}
	}
}
