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
	// read is the next result of Read, once.
	read *Result
}

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
	if e.read == nil {
		return Result{Status: WantInput}
	}
	res := *e.read
	e.read = nil
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
	select {
	case got := <-t.writes:
		require.Equal(tt, text, got)
	case <-t.closed:
		require.Fail(tt, "the transport was closed instead of getting "+text)
	case <-time.After(time.Minute):
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
	e.read = &Result{Status: Failed, Fault: Fault{Failure: FailBadRecord, AlertSent: 20, AlertReceived: -1}}
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
	t.answers <- last
	assert.Equal(tt, written{4, nil}, requireWritten(tt, write))
}

// What others add during a Write goes out behind it. A deadline that cuts it off
// is fatal for nobody: the rest comes before all else.
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
		e.read = &Result{Status: WantOutput, Fault: NoFault}
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
