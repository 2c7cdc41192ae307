// Package uptime limits how long something may take by the time in which the program
// runs. A machine that is busy or was suspended lets a timer of the clock pass before
// what it waits for has had a chance.
package uptime

import (
	"sync"
	"sync/atomic"
	"time"
)

// tick is how often the running timers are looked at, and what counts at most of
// the time between two looks.
const tick = 20 * time.Millisecond

// clock looks at all running timers together. A timer of the runtime for each
// would wake another thread each time that it is the first to end: connections that
// start one and stop it at once would pay more for it than for what it watches.
var clock struct {
	mu sync.Mutex
	// first is the oldest of the running timers, which form a ring; nil for none.
	first *Timer
	// ticking says that the next look has been asked for. It comes even if the last
	// timer is stopped before: the next Start then need not ask.
	ticking bool
	next    *time.Timer
	// ran is how long the program has run while there were timers; seen is when it
	// was found out last.
	ran  time.Duration
	seen time.Time
}

// Timer calls a function when the program has run for a limit. The zero value has
// none.
type Timer struct {
	// All of it is guarded by the clock's mu. before and after are nil unless the
	// timer runs.
	before, after *Timer
	// alone is that of one which was started in a bubble of testing/synctest, where
	// time has no monotonic clock reading. The clock would belong to the bubble
	// otherwise, and stand still when that has ended.
	alone *time.Timer
	limit time.Duration
	// end is when it ends, by clock.ran; zero before the first look.
	end time.Duration
	f   func()
}

// Start calls f, in a goroutine of its own, when the program has run for the limit,
// and up to two ticks later; not after Stop. A Timer is started once.
func (t *Timer) Start(limit time.Duration, f func()) {
	clock.mu.Lock()
	defer clock.mu.Unlock()
	if now := time.Now(); now == now.Round(0) {
		t.alone = time.AfterFunc(limit, f)
		return
	}
	t.limit, t.f = limit, f
	t.insert()
	if clock.ticking {
		return
	}
	clock.ticking, clock.seen = true, time.Now()
	if clock.next == nil {
		clock.next = time.AfterFunc(tick, look)
	} else {
		clock.next.Reset(tick)
	}
}

// Stop may be called at any time after Start.
func (t *Timer) Stop() {
	clock.mu.Lock()
	defer clock.mu.Unlock()
	if t.after != nil {
		t.remove()
	}
	if t.alone != nil {
		t.alone.Stop()
	}
}

// insert and remove are called with the clock's mu held.
func (t *Timer) insert() {
	if clock.first == nil {
		clock.first, t.before, t.after = t, t, t
		return
	}
	t.before, t.after = clock.first.before, clock.first
	t.before.after, t.after.before = t, t
}

func (t *Timer) remove() {
	switch {
	case t.after == t:
		clock.first = nil
	case clock.first == t:
		clock.first = t.after
	}
	t.before.after, t.after.before = t.after, t.before
	t.before, t.after, t.f = nil, nil, nil
}

// look ends what is to end.
func look() {
	clock.mu.Lock()
	defer clock.mu.Unlock()
	now := time.Now()
	clock.ran += min(now.Sub(clock.seen), tick)
	clock.seen = now
	if clock.first == nil {
		clock.ticking = false
		return
	}
	for t, last := clock.first, clock.first.before; ; {
		next, end := t.after, t == last
		if t.end == 0 {
			// What had passed of this tick before Start does not count.
			t.end = clock.ran + t.limit
		}
		if clock.ran >= t.end {
			go t.f()
			t.remove()
		}
		if end {
			break
		}
		t = next
	}
	clock.next.Reset(tick)
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
