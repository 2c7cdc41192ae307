package uptime

import (
	"sync/atomic"
	"testing"
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
