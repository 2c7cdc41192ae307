package engine

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// streamEngine has completed its handshake and has data that was received.
type streamEngine struct {
	slowEngine
	data  *bytes.Reader
	steps int
}

func (*streamEngine) Handshake() Result { return Result{Status: OK, Fault: NoFault} }

func (e *streamEngine) Input() []byte { return make([]byte, e.data.Len()) }

func (e *streamEngine) Read(p []byte) Result {
	e.steps++
	n, err := e.data.Read(p)
	if err == io.EOF {
		return Result{Status: Closed, Fault: NoFault}
	}
	// The end is there already, behind the data.
	return Result{Status: OK, N: n, Flags: FlagPending, Fault: NoFault}
}

func streamOf(t *testing.T, size int) (*Conn, *streamEngine) {
	one, two := net.Pipe()
	t.Cleanup(func() { two.Close() })
	e := &streamEngine{data: bytes.NewReader(bytes.Repeat([]byte{0xa5}, size))}
	c := New(one, e, Options{Client: true})
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.Handshake())
	return c, e
}

// A buffer is there only while there is data in it, and it is wiped.
func TestPlaintextIsHeldWhileThereIsSome(t *testing.T) {
	c, e := streamOf(t, 3000)
	p := make([]byte, 1000)
	var buffer *[plaintextSize]byte
	for i := range 3 {
		n, err := c.Read(p)
		require.NoError(t, err)
		require.Equal(t, len(p), n)
		if i == 0 {
			buffer = c.plain.buffer
			require.NotNil(t, buffer)
		}
	}
	assert.Nil(t, c.plain.buffer)
	assert.Equal(t, make([]byte, 3000), buffer[:3000], "it was not wiped")
	assert.Equal(t, 1, e.steps)
	_, err := c.Read(p)
	assert.Equal(t, io.EOF, err)
	assert.Nil(t, c.plain.buffer)
}

func TestCloseWipesPlaintext(t *testing.T) {
	c, _ := streamOf(t, 3000)
	_, err := c.Read(make([]byte, 1000))
	require.NoError(t, err)
	buffer := c.plain.buffer
	require.NotNil(t, buffer)
	require.NoError(t, c.Close())
	assert.Nil(t, c.plain.buffer)
	assert.Equal(t, make([]byte, 3000), buffer[:3000])
}

// Large Reads are not copied.
func TestLargeReadsNeedNoBuffer(t *testing.T) {
	c, e := streamOf(t, 3*smallRead)
	p := make([]byte, smallRead+1)
	_, err := c.Read(p)
	require.NoError(t, err)
	assert.Nil(t, c.plain.buffer)
	assert.Equal(t, 1, e.steps)
}
