package engine

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lendingEngine gives each of its outputs once, nil for none, and counts what ends
// the loan of the last one: the memory may be another connection's then.
type lendingEngine struct {
	slowEngine
	outputs [][]byte
	readErr Result
	freed   atomic.Bool
	ended   atomic.Int32
}

func (*lendingEngine) Handshake() Result { return Result{Status: OK, Fault: NoFault} }

func (e *lendingEngine) HasOutput() bool { return len(e.outputs) > 0 && e.outputs[0] != nil }

func (e *lendingEngine) TakeOutput() []byte {
	e.ended.Add(1)
	if len(e.outputs) == 0 {
		return nil
	}
	out := e.outputs[0]
	e.outputs = e.outputs[1:]
	return out
}

func (e *lendingEngine) Read([]byte) Result { return e.readErr }

func (e *lendingEngine) Free() { e.freed.Store(true) }

// slowTransport says that a Write has begun and lets it wait. Its Close wakes none:
// that takes its time everywhere.
type slowTransport struct {
	net.Conn
	begun   chan []byte
	release chan struct{}
}

func (t *slowTransport) Write(p []byte) (int, error) {
	t.begun <- p
	<-t.release
	return len(p), nil
}

func (t *slowTransport) SetDeadline(time.Time) error { return nil }

func lending(t *testing.T, options Options) (*Conn, *lendingEngine, *slowTransport) {
	one, two := net.Pipe()
	t.Cleanup(func() { two.Close() })
	transport := &slowTransport{one, make(chan []byte), make(chan struct{})}
	e := &lendingEngine{}
	c := New(transport, e, options)
	require.NoError(t, c.Handshake())
	return c, e, transport
}

// What others have left to a Write goes out behind its own data, too. The memory it
// is sent from stays until it has.
func TestEngineOutlivesWhatIsSentBehindAWrite(t *testing.T) {
	c, e, transport := lending(t, Options{Client: true})
	e.outputs = [][]byte{[]byte("data"), []byte("rest")}
	written := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte("data"))
		written <- err
	}()
	require.Equal(t, "data", string(<-transport.begun))
	transport.release <- struct{}{}
	require.Equal(t, "rest", string(<-transport.begun))
	require.NoError(t, <-written)
	c.mu.Lock()
	c.closeNotifySent = true // by a CloseWrite
	c.mu.Unlock()
	require.NoError(t, c.Close())
	assert.False(t, e.freed.Load(), "the engine's output is being sent")
	transport.release <- struct{}{}
	eventually(t, "the engine is freed", e.freed.Load)
}

// A failure without an alert that is blinded leaves the memory alone that a Write
// is sending from.
func TestBlindingLeavesWhatIsBeingSent(t *testing.T) {
	c, e, transport := lending(t, Options{Client: true, MaxBlindingDelay: time.Millisecond})
	e.outputs = [][]byte{[]byte("data")}
	e.readErr = Result{Status: Failed, Fault: Fault{Failure: FailProtocol, AlertSent: -1, AlertReceived: -1}}
	written := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte("data"))
		written <- err
	}()
	require.Equal(t, "data", string(<-transport.begun))
	before := e.ended.Load()
	_, err := c.Read(make([]byte, 10))
	require.Error(t, err)
	assert.Equal(t, before, e.ended.Load(), "the loan was ended")
	transport.release <- struct{}{}
	<-written
	require.NoError(t, c.Close())
}
