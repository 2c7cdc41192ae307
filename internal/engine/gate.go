package engine

import (
	"context"
	"runtime"
)

// gate lets a limited number in at a time.
type gate chan struct{}

// handshakeSteps limits the steps of handshakes that run at once to the
// processors. A step with asymmetric cryptography takes so long that the
// scheduler gives its processor to another thread, which then begins another
// step: without a limit, a thousand handshakes make hundreds of threads, which
// take turns at the same work and at the libraries' locks.
var handshakeSteps = make(gate, max(2, runtime.GOMAXPROCS(0)))

// enter waits for a place, but not longer than for ctx. leave gives it back.
func (g gate) enter(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	default:
	}
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g gate) leave() { <-g }
