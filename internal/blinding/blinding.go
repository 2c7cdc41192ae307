// Package blinding keeps the transports of failed connections open for a random
// time, so that a peer learns neither from the time nor from an alert at which
// step its bytes were refused. All providers share it: the number of transports
// that wait is bounded for the whole process.
package blinding

import (
	"container/list"
	"crypto/rand"
	"math/big"
	"net"
	"sync"
	"time"
)

const (
	// DefaultLimit is how many transports may wait at once.
	DefaultLimit = 4096
	// alertLimit is how long the alert may wait for a transport that does not
	// take it. An alert is a few bytes: one that takes no more now will not
	// soon.
	alertLimit = time.Second
)

// Max returns the longest delay that a configured value means, zero for none,
// where zero stands for the provider's default.
func Max(configured, byDefault time.Duration) time.Duration {
	if configured == 0 {
		configured = byDefault
	}
	return max(configured, 0)
}

// Hold is a transport that waits for its close. It keeps nothing else of the
// connection but the alert's bytes.
type Hold struct {
	transport net.Conn

	// The registry's lock guards the rest.
	alert    []byte
	finished bool
	timer    *time.Timer
	place    *list.Element
}

var registry = struct {
	mu sync.Mutex
	// waiting holds *Hold, the oldest first.
	waiting list.List
	limit   int
}{limit: DefaultLimit}

// New returns a hold on a transport that its connection uses no more. The alert
// may be empty; the hold owns it from now on. The delay begins with Start.
func New(transport net.Conn, alert []byte) *Hold {
	return &Hold{transport: transport, alert: alert}
}

// Start lets the hold end after a random delay between a third of longest and
// all of it: the alert goes out and the transport is closed.
func (h *Hold) Start(longest time.Duration) {
	delay := randomDelay(longest)
	registry.mu.Lock()
	defer registry.mu.Unlock()
	// A timer that has not fired needs no goroutine.
	h.timer = time.AfterFunc(delay, h.finish)
	h.place = registry.waiting.PushBack(h)
	evict()
}

// DropAlert forgets the alert: part of a record is out, and nothing can follow
// it.
func (h *Hold) DropAlert() {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	h.alert = nil
}

// Pending reports whether the transport still waits.
func (h *Hold) Pending() bool {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	return !h.finished
}

// finish sends the alert and closes the transport. It runs in the timer's
// goroutine.
func (h *Hold) finish() {
	registry.mu.Lock()
	if h.finished {
		registry.mu.Unlock()
		return
	}
	h.finished = true
	alert := h.alert
	h.alert = nil
	if h.place != nil {
		registry.waiting.Remove(h.place)
		h.place = nil
	}
	registry.mu.Unlock()
	if len(alert) > 0 {
		_ = h.transport.SetWriteDeadline(time.Now().Add(alertLimit))
		// For transports that ignore deadlines.
		limit := time.AfterFunc(alertLimit, func() { _ = h.transport.Close() })
		_, _ = h.transport.Write(alert)
		limit.Stop()
	}
	_ = h.transport.Close()
}

// evict ends the oldest holds beyond the limit, without their alerts: these
// could wait for peers that read nothing. It is called with the lock held.
func evict() {
	for registry.waiting.Len() > registry.limit {
		h := registry.waiting.Remove(registry.waiting.Front()).(*Hold)
		h.place = nil
		h.alert = nil
		// In the timer's goroutine: closing may take its time. If the timer
		// has fired already, the second call does nothing.
		h.timer.Reset(0)
	}
}

// SetLimit sets how many transports may wait, and returns the former limit.
// Zero is DefaultLimit, and with a negative limit none waits.
func SetLimit(n int) int {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	former := registry.limit
	if former == 0 {
		former = -1
	}
	switch {
	case n == 0:
		registry.limit = DefaultLimit
	case n < 0:
		registry.limit = 0
	default:
		registry.limit = n
	}
	evict()
	return former
}

// Waiting returns how many transports wait.
func Waiting() int {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	return registry.waiting.Len()
}

// randomDelay is uniform in [longest/3, longest].
func randomDelay(longest time.Duration) time.Duration {
	least := longest / 3
	if longest%3 != 0 {
		least++
	}
	// rand.Reader never fails, and so rand.Int does not with a positive bound.
	n, err := rand.Int(rand.Reader, big.NewInt(int64(longest-least)+1))
	if err != nil {
		return longest
	}
	return least + time.Duration(n.Int64())
}
