// Package uptime limits how long something may take by the time in which the program
// runs. A machine that is busy or was suspended lets a timer of the clock pass before
// what it waits for has had a chance.
package uptime

import (
	"sync"
	"time"
)

// tick is what a limit is counted in: of a time without a run no more counts.
const tick = 20 * time.Millisecond

// AfterFunc calls f, in a goroutine of its own, when the program has run for the
// limit; not after stop.
func AfterFunc(limit time.Duration, f func()) (stop func()) {
	var mu sync.Mutex
	var timer *time.Timer
	left := limit
	look := func() {
		mu.Lock()
		defer mu.Unlock()
		if timer == nil {
			return
		}
		if left -= tick; left > 0 {
			timer.Reset(min(left, tick))
			return
		}
		timer = nil
		go f()
	}
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(min(left, tick), look)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		if timer != nil {
			timer.Stop()
			timer = nil
		}
	}
}

// Receive returns what comes from the channel, and whether that was within the
// limit. A channel that is closed gives the zero value.
func Receive[T any](from <-chan T, limit time.Duration) (got T, ok bool) {
	over := make(chan struct{})
	stop := AfterFunc(limit, func() { close(over) })
	defer stop()
	select {
	case got = <-from:
		return got, true
	case <-over:
	}
	select {
	case got = <-from:
		return got, true
	default:
		return got, false
	}
}
