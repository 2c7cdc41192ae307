// Package uptime limits how long something may take by the time in which the program
// runs. A machine that is busy or was suspended lets a timer of the clock pass before
// what it waits for has had a chance.
package uptime

import (
	"sync"
	"sync/atomic"
	"time"
)

// tick is what a limit is counted in: of a time without a run no more counts.
const tick = 20 * time.Millisecond

// Timer calls a function when the program has run for a limit. The zero value has
// none.
type Timer struct {
	mu    sync.Mutex
	timer *time.Timer
	left  time.Duration
	f     func()
}

// Start calls f, in a goroutine of its own, when the program has run for the limit;
// not after Stop. A Timer is started once.
func (t *Timer) Start(limit time.Duration, f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left, t.f = limit, f
	t.timer = time.AfterFunc(min(limit, tick), t.look)
}

// Stop may be called at any time after Start.
func (t *Timer) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
}

func (t *Timer) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer == nil {
		return
	}
	if t.left -= tick; t.left > 0 {
		t.timer.Reset(min(t.left, tick))
		return
	}
	t.timer = nil
	go t.f()
}

// Receive returns what comes from the channel, and whether that was within the
// limit. A channel that is closed gives the zero value.
func Receive[T any](from <-chan T, limit time.Duration) (got T, ok bool) {
	over := make(chan struct{})
	var timer Timer
	timer.Start(limit, func() { close(over) })
	defer timer.Stop()
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

// Eventually asks again and again whether a condition is true, and returns whether
// it was within the limit.
func Eventually(limit time.Duration, condition func() bool) bool {
	var over atomic.Bool
	var timer Timer
	timer.Start(limit, func() { over.Store(true) })
	defer timer.Stop()
	for !over.Load() {
		if condition() {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return condition()
}
