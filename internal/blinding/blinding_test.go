package blinding

import (
	"errors"
	"net"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/uptime"
)

// transport is a net.Conn that records what is done to it.
type transport struct {
	net.Conn
	mu      sync.Mutex
	written []byte
	// writtenAt is when the first of it was.
	writtenAt         time.Time
	writtenAfterClose bool
	closes            int
	closed            chan struct{}
	block             chan struct{}
}

func newTransport() *transport { return &transport{closed: make(chan struct{})} }

func (t *transport) Write(p []byte) (int, error) {
	if t.block != nil {
		<-t.block
		return 0, errors.New("closed")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.writtenAt.IsZero() {
		t.writtenAt = time.Now()
	}
	t.writtenAfterClose = t.writtenAfterClose || t.closes > 0
	t.written = append(t.written, p...)
	return len(p), nil
}

func (t *transport) SetWriteDeadline(time.Time) error { return nil }

func (t *transport) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closes++; t.closes == 1 {
		close(t.closed)
		if t.block != nil {
			close(t.block)
		}
	}
	return nil
}

func (t *transport) content() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.written)
}

func (t *transport) isClosed() bool {
	select {
	case <-t.closed:
		return true
	default:
		return false
	}
}

func (t *transport) requireClosed(tt *testing.T) {
	tt.Helper()
	_, ok := uptime.Receive(t.closed, 10*time.Second)
	require.True(tt, ok, "the transport is still open")
}

func TestMax(t *testing.T) {
	assert.Equal(t, time.Minute, Max(0, time.Minute))
	assert.Equal(t, time.Second, Max(time.Second, time.Minute))
	assert.Zero(t, Max(-1, time.Minute))
	assert.Zero(t, Max(0, 0))
}

func TestDelayIsRandomWithinBounds(t *testing.T) {
	for _, longest := range []time.Duration{1, 2, 3, 10, time.Second, 30 * time.Second} {
		seen := make(map[time.Duration]bool)
		for range 500 {
			d := randomDelay(longest)
			require.LessOrEqual(t, d, longest)
			require.GreaterOrEqual(t, 3*d, longest)
			seen[d] = true
		}
		if longest >= time.Second {
			assert.Greater(t, len(seen), 490, "%v", longest)
		}
	}
}

func TestAlertGoesOutWithTheClose(t *testing.T) {
	wire, before := newTransport(), Waiting()
	// However late this test's goroutine runs: the delay begins after begin.
	begin := time.Now()
	h := New(wire, []byte("alert"))
	h.Start(90 * time.Millisecond)
	wire.requireClosed(t)
	assert.GreaterOrEqual(t, wire.writtenAt.Sub(begin), 30*time.Millisecond, "the alert waits as long as the close")
	assert.Equal(t, "alert", wire.content())
	assert.False(t, wire.writtenAfterClose)
	assert.False(t, h.Pending())
	assert.Equal(t, before, Waiting())
}

func TestPendingUntilTheDelayEnds(t *testing.T) {
	wire, before := newTransport(), Waiting()
	h := New(wire, []byte("alert"))
	h.Start(time.Hour)
	assert.True(t, h.Pending())
	assert.Equal(t, before+1, Waiting())
	assert.False(t, wire.isClosed())
	assert.Empty(t, wire.content())
	h.timer.Reset(0)
	wire.requireClosed(t)
	assert.False(t, h.Pending())
	assert.Equal(t, before, Waiting())
}

func TestDroppedAlertIsNotSent(t *testing.T) {
	wire := newTransport()
	h := New(wire, []byte("alert"))
	h.DropAlert()
	h.Start(3)
	wire.requireClosed(t)
	assert.Empty(t, wire.content())
}

// An alert that the transport does not take holds the close up for a second, no
// more.
func TestAlertThatIsNotTaken(t *testing.T) {
	wire := newTransport()
	wire.block = make(chan struct{})
	New(wire, []byte("alert")).Start(3)
	wire.requireClosed(t)
}

// A thousand transports wait without a goroutine or a thread, and the oldest go
// first when there is no room.
func TestManyWait(t *testing.T) {
	const many, room = 1000, 10
	former := SetLimit(0)
	t.Cleanup(func() {
		SetLimit(-1)
		SetLimit(former)
	})
	before, goroutines, threads := Waiting(), runtime.NumGoroutine(), pprof.Lookup("threadcreate").Count()
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	used := memory.HeapAlloc
	wires := make([]*transport, many)
	for i := range wires {
		wires[i] = newTransport()
		New(wires[i], []byte("alert")).Start(time.Hour)
	}
	runtime.GC()
	runtime.ReadMemStats(&memory)
	assert.Less(t, int64(memory.HeapAlloc)-int64(used), int64(many*2048), "bytes for %d transports", many)
	assert.Equal(t, before+many, Waiting())
	// The runtime itself makes some, as many threads as processors to collect
	// garbage.
	assert.Less(t, runtime.NumGoroutine()-goroutines, many/20)
	assert.Less(t, pprof.Lookup("threadcreate").Count()-threads, many/20)

	assert.Equal(t, DefaultLimit, SetLimit(room))
	for _, wire := range wires[:many-room] {
		wire.requireClosed(t)
		assert.Empty(t, wire.content(), "no alert for those that had to go")
	}
	assert.Equal(t, room, Waiting())
	for _, wire := range wires[many-room:] {
		assert.False(t, wire.isClosed())
	}
	next := newTransport()
	New(next, nil).Start(time.Hour)
	wires[many-room].requireClosed(t)
	assert.False(t, wires[many-room+1].isClosed())
	assert.False(t, next.isClosed())
	assert.Equal(t, room, SetLimit(-1))
	next.requireClosed(t)
	assert.Zero(t, Waiting())
	assert.Equal(t, -1, SetLimit(room), "the limit that lets none wait")
}
