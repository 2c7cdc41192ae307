package engine

import (
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/uptime"
)

// textEngine encrypts nothing; its close_notify is a full stop.
type textEngine struct {
	slowEngine
	output []byte
	// reads are the next results of Read.
	reads []Result
	freed bool
}

func (e *textEngine) Free() { e.freed = true }

func (*textEngine) Handshake() Result { return Result{Status: OK, Fault: NoFault} }

func (e *textEngine) Write(p []byte) Result {
	e.output = append(e.output, p...)
	return Result{N: len(p)}
}

func (e *textEngine) CloseNotify() Result {
	e.output = append(e.output, '.')
	return Result{}
}

func (*textEngine) Input() []byte { return nil }

func (e *textEngine) HasOutput() bool { return len(e.output) > 0 }

func (e *textEngine) TakeOutput() []byte {
	out := e.output
	e.output = nil
	return out
}

func (e *textEngine) Read([]byte) Result {
	if len(e.reads) == 0 {
		return Result{Status: WantInput}
	}
	res := e.reads[0]
	e.reads = e.reads[1:]
	return res
}

// scriptedTransport tells of every Write and answers what it is told.
type scriptedTransport struct {
	net.Conn
	writes  chan string
	answers chan answer
	closed  chan struct{}
}

// answer is how much less than all a Write takes, and why.
type answer struct {
	left int
	err  error
}

func (t *scriptedTransport) Write(p []byte) (int, error) {
	select {
	case t.writes <- string(p):
	case <-t.closed:
		return 0, net.ErrClosed
	}
	select {
	case a := <-t.answers:
		return len(p) - a.left, a.err
	case <-t.closed:
		return 0, net.ErrClosed
	}
}

func (t *scriptedTransport) Close() error {
	close(t.closed)
	return t.Conn.Close()
}

// expect returns when the transport was asked to write text.
func (t *scriptedTransport) expect(tt *testing.T, text string) {
	tt.Helper()
	over := make(chan struct{})
	var limit uptime.Timer
	limit.Start(time.Minute, func() { close(over) })
	defer limit.Stop()
	select {
	case got := <-t.writes:
		require.Equal(tt, text, got)
	case <-t.closed:
		require.Fail(tt, "the transport was closed instead of getting "+text)
	case <-over:
		require.Fail(tt, "nothing was sent instead of "+text)
	}
}

// take is expect with an answer: all of it is taken.
func (t *scriptedTransport) take(tt *testing.T, text string) {
	tt.Helper()
	t.expect(tt, text)
	t.answers <- answer{}
}

// expectClose closes the connection, which sends the texts.
func (t *scriptedTransport) expectClose(tt *testing.T, c *Conn, texts ...string) {
	tt.Helper()
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	for _, text := range texts {
		t.take(tt, text)
	}
	require.NoError(tt, <-closed)
}

// scripted returns a client after the handshake.
func scripted(t *testing.T, options Options) (*Conn, *textEngine, *scriptedTransport) {
	one, two := net.Pipe()
	t.Cleanup(func() { two.Close() })
	transport := &scriptedTransport{one, make(chan string), make(chan answer), make(chan struct{})}
	e := &textEngine{}
	options.Client = true
	c := New(transport, e, options)
	require.NoError(t, c.Handshake())
	return c, e, transport
}

// add adds output as a Read does, and leaves it to the background.
func (c *Conn) add(e *textEngine, text string) {
	c.mu.Lock()
	e.output = append(e.output, text...)
	c.mu.Unlock()
	c.sendInBackground()
}

type written struct {
	n   int
	err error
}

// startWrite returns when a Write has begun.
func startWrite(c *Conn, text string) <-chan written {
	done := make(chan written, 1)
	c.mu.Lock()
	users := c.users
	c.mu.Unlock()
	go func() {
		n, err := c.Write([]byte(text))
		done <- written{n, err}
	}()
	for begun := false; !begun; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		begun = c.users > users
		c.mu.Unlock()
	}
	return done
}

// requireWritten returns what a Write came to, in reasonable time.
func requireWritten(t *testing.T, done <-chan written) written {
	t.Helper()
	w, ok := uptime.Receive(done, 10*time.Second)
	require.True(t, ok, "the Write has not returned")
	return w
}

// A Write that waits for others to send has sent nothing when a failure ends the
// connection that is hidden from the peer.
func TestWriteThatABlindedFailureOvertakes(t *testing.T) {
	c, e, transport := scripted(t, Options{MaxBlindingDelay: time.Hour})
	c.add(e, "tickets")
	transport.expect(t, "tickets")
	write := startWrite(c, "data")
	c.mu.Lock()
	c.readable.Store(true)
	e.reads = []Result{{Status: Failed, Fault: Fault{Failure: FailBadRecord, AlertSent: 20, AlertReceived: -1}}}
	c.mu.Unlock()
	_, err := c.Read(make([]byte, 10))
	require.Error(t, err)
	transport.answers <- answer{}
	w := requireWritten(t, write)
	assert.Equal(t, err, w.err)
	assert.Zero(t, w.n)
	require.NoError(t, c.Close())
	transport.Close()
}

// A Write that waits for others to send ends with Close, and takes no close_notify
// with it.
func TestCloseEndsAWriteThatWaitsForItsTurn(t *testing.T) {
	c, e, transport := scripted(t, Options{})
	c.add(e, "tickets")
	transport.expect(t, "tickets")
	write := startWrite(c, "data")
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	w := requireWritten(t, write)
	assert.Zero(t, w.n)
	assert.ErrorIs(t, w.err, net.ErrClosed)
	require.NoError(t, <-closed)
	transport.answers <- answer{}
	transport.take(t, ".")
	<-transport.closed
}

// writeAndAdd writes data, behind what was left. Others add an update meanwhile,
// which the transport answers with last.
func (t *scriptedTransport) writeAndAdd(tt *testing.T, c *Conn, e *textEngine, last answer, left ...string) {
	tt.Helper()
	write := startWrite(c, "data")
	for _, text := range left {
		t.take(tt, text)
	}
	t.expect(tt, "data")
	c.add(e, "update")
	t.answers <- answer{}
	t.expect(tt, "update")
	assert.Equal(tt, written{4, nil}, requireWritten(tt, write))
	t.answers <- last
	eventually(tt, "all is sent", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.users == 0
	})
}

// eventually waits until f is true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !f() {
			time.Sleep(time.Millisecond)
		}
	}()
	_, ok := uptime.Receive(done, time.Minute)
	require.True(t, ok, what)
}

// What others add during a Write goes out behind it, and the Write does not wait for
// that. A deadline that cuts it off is fatal for nobody: the rest comes before all
// else.
func TestOutputOfOthersBehindAWrite(t *testing.T) {
	c, e, transport := scripted(t, Options{})
	transport.writeAndAdd(t, c, e, answer{left: 4, err: os.ErrDeadlineExceeded})
	transport.writeAndAdd(t, c, e, answer{left: 1, err: os.ErrDeadlineExceeded}, "date")
	transport.expectClose(t, c, "e", ".")
}

// A transport that fails behind a Write's own data fails the next one.
func TestFailureBehindAWrite(t *testing.T) {
	c, e, transport := scripted(t, Options{})
	transport.writeAndAdd(t, c, e, answer{left: 6, err: syscall.EPIPE})
	n, err := c.Write([]byte("more"))
	assert.Zero(t, n)
	require.ErrorIs(t, err, syscall.EPIPE)
	require.NoError(t, c.Close())
}

// A Read that must send before it can go on is no Write: a write deadline ends that
// Read, and nothing else.
func TestReadThatSendsPastTheWriteDeadline(t *testing.T) {
	c, e, transport := scripted(t, Options{})
	for _, left := range []int{2, 0} {
		c.mu.Lock()
		c.readable.Store(true)
		e.reads = []Result{{Status: WantOutput, Fault: NoFault}}
		if left > 0 {
			e.output = []byte("update")
		}
		c.mu.Unlock()
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 10))
			read <- err
		}()
		if left > 0 {
			transport.expect(t, "update")
			transport.answers <- answer{left: left, err: os.ErrDeadlineExceeded}
			require.ErrorIs(t, <-read, os.ErrDeadlineExceeded)
			continue
		}
		transport.take(t, "te")
		require.NoError(t, c.SetReadDeadline(time.Unix(1, 0)))
		require.ErrorIs(t, <-read, os.ErrDeadlineExceeded)
	}
	write := startWrite(c, "data")
	transport.take(t, "data")
	assert.Equal(t, written{4, nil}, requireWritten(t, write))
	transport.expectClose(t, c, ".")
}

// A tail that is not taken at once is out when it is: the input that comes
// meanwhile is read, as a peer that writes may read nothing before that is done.
func TestTailReadsWhatComes(t *testing.T) {
	one, two := net.Pipe()
	transport := &scriptedTransport{one, make(chan string), make(chan answer), make(chan struct{})}
	c := New(transport, &textEngine{}, Options{})
	require.NoError(t, c.Handshake())
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	transport.expect(t, ".")
	transport.answers <- answer{left: 1, err: os.ErrDeadlineExceeded}
	transport.expect(t, ".")
	require.NoError(t, <-closed)
	_, err := two.Write(make([]byte, 100_000))
	require.NoError(t, err)
	transport.answers <- answer{}
	_, err = two.Read(make([]byte, 1))
	assert.Equal(t, io.EOF, err)
}

// A Write that has been taken and is late to return does not lose the close_notify.
func TestCloseBehindAWriteThatIsLateToReturn(t *testing.T) {
	c, _, transport := scripted(t, Options{})
	write := startWrite(c, "data")
	transport.expect(t, "data")
	// Longer than Close waits.
	require.NoError(t, c.Close())
	transport.answers <- answer{}
	// The deadline by which Close wakes a Write is none for the close_notify.
	transport.expect(t, ".")
	transport.answers <- answer{left: 1, err: os.ErrDeadlineExceeded}
	assert.Equal(t, written{4, nil}, requireWritten(t, write))
	transport.take(t, ".")
	<-transport.closed
}

// A Read whose answers have been taken goes on: it waits for room, not for the
// transport, nor for the Write that was at it.
func TestReadWaitsForRoomOnly(t *testing.T) {
	c, e, transport := scripted(t, Options{})
	write := startWrite(c, "data")
	transport.expect(t, "data")
	c.mu.Lock()
	c.readable.Store(true)
	e.reads = []Result{{Status: WantOutput, Fault: NoFault}, {Status: OK, Fault: NoFault, N: 3}}
	e.output = []byte("update")
	c.mu.Unlock()
	type read struct {
		n   int
		err error
	}
	done := make(chan read, 1)
	go func() {
		n, err := c.Read(make([]byte, smallRead+1))
		done <- read{n, err}
	}()
	transport.answers <- answer{}
	transport.expect(t, "update")
	got, ok := uptime.Receive(done, 10*time.Second)
	assert.True(t, ok, "the Read waits for the Write")
	assert.Equal(t, read{3, nil}, got)
	assert.Equal(t, written{4, nil}, requireWritten(t, write))
	transport.answers <- answer{}
	transport.expectClose(t, c, ".")
}

// faultyTransport panics when it is written to.
type faultyTransport struct{ net.Conn }

func (faultyTransport) Write([]byte) (int, error) { panic("the transport's") }

// A transport whose Write panics breaks its connection: nobody waits for what
// cannot be sent, and nothing of it stays after Close.
func TestTransportThatPanics(t *testing.T) {
	for name, call := range map[string]func(*Conn){
		"Handshake":  func(c *Conn) { _ = c.Handshake() },
		"Write":      func(c *Conn) { _, _ = c.Write([]byte("data")) },
		"CloseWrite": func(c *Conn) { _ = c.CloseWrite() },
		"Close":      func(c *Conn) { _ = c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			one, two := net.Pipe()
			defer two.Close()
			e := &textEngine{}
			c := New(faultyTransport{one}, e, Options{Client: true, HalfClose: true})
			if name == "Handshake" {
				e.output = []byte("hello")
			} else {
				require.NoError(t, c.Handshake())
			}
			require.PanicsWithValue(t, "the transport's", func() { call(c) })
			done := make(chan error, 1)
			go func() {
				_, err := c.Write([]byte("more"))
				_ = c.Close()
				done <- err
			}()
			err, ok := uptime.Receive(done, 10*time.Second)
			require.True(t, ok, "a call waits for a Write that is over")
			require.Error(t, err)
			c.mu.Lock()
			defer c.mu.Unlock()
			assert.True(t, e.freed)
			_, err = two.Read(make([]byte, 1))
			assert.Equal(t, io.EOF, err, "the transport is closed")
		})
	}
}
