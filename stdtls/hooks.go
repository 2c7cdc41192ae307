package stdtls

import (
	"context"
	"errors"
)

// waitForHook returns what a hook returns, or an error as soon as the handshake
// is to end: the hook then goes on by itself, as nothing can stop it. A panic of
// the hook is the handshake's.
func waitForHook[T any](handshake context.Context, hook func() (T, error)) (T, error) {
	type result struct {
		value    T
		err      error
		panicked any
	}
	// What stays when the hook ends its goroutine.
	r := result{err: errors.New("the hook has ended its goroutine")}
	done := make(chan result, 1)
	go func() {
		defer func() {
			r.panicked = recover()
			done <- r
		}()
		r.value, r.err = hook()
	}()
	select {
	case got := <-done:
		if got.panicked != nil {
			panic(got.panicked)
		}
		return got.value, got.err
	case <-handshake.Done():
		var none T
		return none, context.Cause(handshake)
	}
}
