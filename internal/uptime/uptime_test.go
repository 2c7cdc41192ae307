package uptime

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestReceive(t *testing.T) {
	full := make(chan int, 1)
	full <- 1
	got, ok := Receive(full, time.Hour)
	assert.Equal(t, 1, got)
	assert.True(t, ok)

	begin := time.Now()
	_, ok = Receive(full, 50*time.Millisecond)
	assert.False(t, ok)
	assert.GreaterOrEqual(t, time.Since(begin), 50*time.Millisecond)

	close(full)
	_, ok = Receive(full, time.Hour)
	assert.True(t, ok)
}

func TestStop(t *testing.T) {
	called := make(chan struct{})
	var timer Timer
	timer.Start(3*tick, func() { close(called) })
	timer.Stop()
	timer.Stop()
	_, ok := Receive(called, 5*tick)
	assert.False(t, ok)

	new(Timer).Start(0, func() { close(called) })
	<-called
}

// Timers run beside each other: each ends at its own time and not before, also one
// that begins in the middle of a tick, and the others go on when one is stopped.
func TestManyTimers(t *testing.T) {
	type end struct{ wanted, took time.Duration }
	ends := make(chan end)
	timers := make([]Timer, 30)
	for i := range timers {
		limit := time.Duration(i%10) * tick
		begin := time.Now()
		timers[i].Start(limit, func() { ends <- end{limit, time.Since(begin)} })
		if i%3 == 0 {
			time.Sleep(tick / 3)
		}
	}
	stopped := new(Timer)
	stopped.Start(tick, func() { t.Error("a timer has ended that was stopped") })
	stopped.Stop()
	for range timers {
		e, ok := Receive(ends, time.Minute)
		if !assert.True(t, ok, "a timer has not ended") {
			break
		}
		assert.GreaterOrEqual(t, e.took, e.wanted)
	}
	for i := range timers {
		timers[i].Stop() // they are gone already
	}
}

// Whoever starts and stops a timer asks the runtime for none while there is one.
func TestTimersShareOne(t *testing.T) {
	var last Timer
	last.Start(time.Hour, func() {})
	defer last.Stop()
	clock.mu.Lock()
	next := clock.next
	clock.mu.Unlock()
	for range 100 {
		var timer Timer
		timer.Start(time.Hour, func() {})
		clock.mu.Lock()
		assert.True(t, clock.ticking)
		assert.Same(t, next, clock.next)
		clock.mu.Unlock()
		timer.Stop()
	}
	clock.mu.Lock()
	assert.Same(t, &last, clock.first, "what was stopped is not held")
	assert.Same(t, &last, last.after)
	clock.mu.Unlock()
}

func TestEventually(t *testing.T) {
	asked := 0
	assert.True(t, Eventually(time.Hour, func() bool { asked++; return asked == 3 }))
	assert.Equal(t, 3, asked)

	begin := time.Now()
	assert.False(t, Eventually(3*tick, func() bool { return false }))
	assert.GreaterOrEqual(t, time.Since(begin), 3*tick)

	var over atomic.Bool
	time.AfterFunc(2*tick, func() { over.Store(true) })
	assert.True(t, Eventually(time.Hour, over.Load))
}

// Who tests with testing/synctest has timers that obey the bubble's clock, and
// leaves the timers of all others as they were.
func TestBubble(t *testing.T) {
	// The clock stands still when it has nothing to do for a while.
	time.Sleep(3 * tick)
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		_, ok := Receive(make(chan int), time.Hour)
		assert.False(t, ok)
		assert.InDelta(t, time.Hour, time.Since(begin), float64(2*tick))
		var stopped Timer
		stopped.Start(time.Hour, func() { t.Error("a timer has ended that was stopped") })
		stopped.Stop()
		time.Sleep(2 * time.Hour)
		new(Timer).Start(time.Hour, func() {})
	})
	ended := make(chan struct{})
	new(Timer).Start(tick, func() { close(ended) })
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("a timer outside of the bubble does not end")
	}
}
