package engine

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

// PaceFloods sets the pace of floods for a test.
func PaceFloods(t *testing.T, interval time.Duration, waiting int) {
	before := floods
	floods = &pace{interval: interval, waiting: waiting}
	t.Cleanup(func() { floods = before })
}

// floodEngine has received a number of steps without data, and data behind them.
type floodEngine struct {
	textEngine
	left  int
	steps atomic.Int64
	ended bool
}

func (e *floodEngine) EndFlood() { e.ended = true }

func (e *floodEngine) Read(p []byte) Result {
	e.steps.Add(1)
	switch {
	case e.ended:
		return Result{Status: Failed, Fault: Fault{Failure: FailProtocol, AlertSent: -1, AlertReceived: -1}}
	case e.left > 0:
		e.left--
		return Result{Status: WantInput, Flags: FlagPending | FlagFlood, Fault: NoFault}
	}
	return Result{Status: OK, N: copy(p, "data"), Flags: FlagPending, Fault: NoFault}
}

// flooded is a connection that has received so many steps without data.
func flooded(t *testing.T, steps int) (*Conn, *floodEngine) {
	one, two := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, two) }()
	e := &floodEngine{left: steps}
	c := New(one, e, Options{Client: true})
	require.NoError(t, c.Handshake())
	t.Cleanup(func() { c.Close(); two.Close() })
	return c, e
}

// Connections whose peers send without end and without data take turns, one step
// of all of them at a time. Others do not wait.
func TestFloodsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const steps, connections = 50, 4
		PaceFloods(t, time.Millisecond, connections)
		begin := time.Now()
		var all sync.WaitGroup
		var engines []*floodEngine
		for range connections {
			c, e := flooded(t, steps)
			engines = append(engines, e)
			all.Go(func() {
				n, err := c.Read(make([]byte, 10))
				assert.NoError(t, err)
				assert.Equal(t, 4, n)
			})
		}
		for i := range connections * (steps - 1) {
			time.Sleep(time.Millisecond)
			synctest.Wait()
			taken := 0
			for _, e := range engines {
				taken += int(e.steps.Load())
				assert.InDelta(t, 1+i/connections, e.steps.Load(), 1, "somebody's steps")
			}
			require.Equal(t, connections+i+1, taken, "all steps")

			at := time.Now()
			c, _ := flooded(t, 0)
			_, err := c.Read(make([]byte, 10))
			require.NoError(t, err)
			require.Zero(t, time.Since(at), "how long a good connection has waited")
		}
		all.Wait()
		assert.Equal(t, connections*steps*time.Millisecond, time.Since(begin))
	})
}

// Who waits for his turn obeys the deadline and Close, and goes on behind a
// deadline.
func TestReadEndsBeforeItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		PaceFloods(t, time.Hour, 1)
		c, _ := flooded(t, 1)
		begin := time.Now()
		require.NoError(t, c.SetReadDeadline(begin.Add(100*time.Millisecond)))
		_, err := c.Read(make([]byte, 10))
		assert.ErrorIs(t, err, tlsapi.KindTimeout)
		assert.InDelta(t, 100*time.Millisecond, time.Since(begin), float64(readSendPause))
		require.NoError(t, c.SetReadDeadline(time.Time{}))
		n, err := c.Read(make([]byte, 10))
		require.NoError(t, err)
		assert.Equal(t, 4, n)

		PaceFloods(t, time.Hour, 1)
		c, e := flooded(t, 1)
		ended := make(chan error)
		go func() {
			_, err := c.Read(make([]byte, 10))
			ended <- err
		}()
		synctest.Wait()
		begin = time.Now()
		require.NoError(t, c.Close())
		assert.ErrorIs(t, <-ended, net.ErrClosed)
		assert.LessOrEqual(t, time.Since(begin), readSendPause)
		synctest.Wait()
		assert.True(t, e.freed)
	})
}

// Where too many wait for their turn, the next one fails.
func TestTooManyFloods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		PaceFloods(t, time.Millisecond, 3)
		var all sync.WaitGroup
		for range 3 {
			c, _ := flooded(t, 1)
			all.Go(func() {
				_, err := c.Read(make([]byte, 10))
				assert.NoError(t, err)
			})
		}
		synctest.Wait()
		c, e := flooded(t, 1)
		begin := time.Now()
		_, err := c.Read(make([]byte, 10))
		assert.ErrorIs(t, err, tlsapi.KindProtocol)
		assert.Zero(t, time.Since(begin))
		assert.EqualValues(t, 2, e.steps.Load())
		all.Wait()

		// There is room again.
		c, _ = flooded(t, 1)
		_, err = c.Read(make([]byte, 10))
		assert.NoError(t, err)
	})
}

// Turns of a bubble of testing/synctest, whose time is another, are in nobody's way
// outside of it, and the other way round.
func TestTurnsOfAnotherClock(t *testing.T) {
	p := &pace{interval: time.Millisecond, waiting: 1}
	requireTurn := func(t *testing.T) {
		_, ok := p.turn()
		require.True(t, ok)
	}
	requireTurn(t)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(50 * 365 * 24 * time.Hour)
		requireTurn(t)
	})
	requireTurn(t)
}
