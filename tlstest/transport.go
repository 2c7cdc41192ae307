package tlstest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// errHung is what a transport's users get when a test took too long.
var errHung = errors.New("tlstest: the test hung; its transport was broken")

// Transport is one end of an in-memory connection that behaves like TCP: it has
// buffers of a bounded size, closing one end gives the other what was sent
// and then io.EOF. It records what its user writes and can misbehave in the
// ways that networks do. It is a net.Conn; all methods may be used by many
// goroutines at once.
type Transport struct {
	name         string
	in, out      *stream
	closeOnce    sync.Once
	closed       chan struct{}
	readTimeout  deadline
	writeTimeout deadline
}

// Pipe returns the two ends of a new in-memory connection.
func Pipe() (client, server *Transport) {
	up, down := newStream(), newStream()
	client = &Transport{name: "client", in: down, out: up, closed: make(chan struct{})}
	server = &Transport{name: "server", in: up, out: down, closed: make(chan struct{})}
	client.readTimeout.init()
	client.writeTimeout.init()
	server.readTimeout.init()
	server.writeTimeout.init()
	return client, server
}

// Written returns the bytes that were written to t so far, whether the other
// end has received them or not.
func (t *Transport) Written() []byte {
	t.out.mu.Lock()
	defer t.out.mu.Unlock()
	return append([]byte(nil), t.out.record...)
}

// CutAfter breaks the connection as if t's peer had died, once n bytes were
// written to t: the bytes up to n are delivered, then both ends get an end of
// file, and writing fails.
func (t *Transport) CutAfter(n int) {
	t.out.change(func(s *stream) {
		s.cutAfter = n
		s.other = t.in
	})
	t.out.applyCut()
}

// SetChunk makes every Read from t return at most n bytes; zero means no bound.
func (t *Transport) SetChunk(n int) { t.in.change(func(s *stream) { s.chunk = n }) }

// SetCapacity bounds what may be written to t and not yet be read by the other
// end.
func (t *Transport) SetCapacity(n int) { t.out.change(func(s *stream) { s.capacity = n }) }

// Hold keeps what is written to t from the other end, until Release.
func (t *Transport) Hold() { t.out.change(func(s *stream) { s.held = true }) }

// Release ends Hold. When n is not negative only the first n bytes held are
// released.
func (t *Transport) Release(n int) {
	t.out.change(func(s *stream) {
		if n < 0 {
			s.held = false
			return
		}
		s.released += n
	})
}

// Tamper passes what is written to t to change, which may modify it in place,
// before it is recorded and delivered. Nil ends that.
func (t *Transport) Tamper(change func([]byte)) { t.out.change(func(s *stream) { s.tamper = change }) }

// Closed returns a channel that is closed when Close was called on t.
func (t *Transport) Closed() <-chan struct{} { return t.closed }

// EndWhenIdle ends what is written to t, as if t's user had closed its writing
// half, when nothing has moved on t's connection for the duration.
func (t *Transport) EndWhenIdle(idle time.Duration) (stop func()) {
	// A timer that looks again needs no goroutine.
	var mu sync.Mutex
	var timer *time.Timer
	stopped := false
	last := -1
	var look func()
	look = func() {
		mu.Lock()
		defer mu.Unlock()
		if stopped {
			return
		}
		moved := t.out.moved() + t.in.moved()
		if moved == last {
			t.out.change(func(s *stream) { s.ended = true })
			return
		}
		last = moved
		timer = time.AfterFunc(idle, look)
	}
	look()
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		if timer != nil {
			timer.Stop()
		}
	}
}

// Break makes every operation on both ends fail with err.
func (t *Transport) Break(err error) {
	t.in.change(func(s *stream) { s.broken = err })
	t.out.change(func(s *stream) { s.broken = err })
}

// Read is part of net.Conn.
func (t *Transport) Read(p []byte) (int, error) {
	s := t.in
	for {
		if isClosed(t.closed) {
			return 0, net.ErrClosed
		}
		if isClosed(t.readTimeout.passed()) {
			return 0, os.ErrDeadlineExceeded
		}
		s.mu.Lock()
		if s.broken != nil {
			s.mu.Unlock()
			return 0, s.broken
		}
		available := len(s.buffered)
		if s.held {
			available = min(available, s.released)
		}
		if len(p) == 0 {
			s.mu.Unlock()
			return 0, nil
		}
		if available > 0 {
			if s.chunk > 0 {
				available = min(available, s.chunk)
			}
			n := copy(p, s.buffered[:available])
			s.buffered = s.buffered[n:]
			if s.held {
				s.released -= n
			}
			s.notify()
			s.mu.Unlock()
			return n, nil
		}
		if s.ended && !s.held {
			s.mu.Unlock()
			return 0, io.EOF
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-t.closed:
		case <-t.readTimeout.passed():
		}
	}
}

// Write is part of net.Conn.
func (t *Transport) Write(p []byte) (int, error) {
	s := t.out
	written := 0
	for {
		if isClosed(t.closed) {
			return written, net.ErrClosed
		}
		if isClosed(t.writeTimeout.passed()) {
			return written, os.ErrDeadlineExceeded
		}
		s.mu.Lock()
		switch {
		case s.broken != nil:
			s.mu.Unlock()
			return written, s.broken
		case s.ended || s.refused && s.lost >= s.capacity:
			s.mu.Unlock()
			return written, syscall.EPIPE
		case s.refused:
			// TCP takes data until the peer's reset has arrived.
			s.record = append(s.record, p[written:]...)
			s.lost += len(p) - written
			s.mu.Unlock()
			return len(p), nil
		}
		if room := s.capacity - len(s.buffered); room > 0 && written < len(p) {
			s.accept(p[written : written+min(room, len(p)-written)])
			written += min(room, len(p)-written)
			s.notify()
		}
		changed := s.changed
		s.mu.Unlock()
		s.applyCut()
		if written == len(p) {
			return written, nil
		}
		select {
		case <-changed:
		case <-t.closed:
		case <-t.writeTimeout.passed():
		}
	}
}

// Close is part of net.Conn. The second call returns net.ErrClosed.
func (t *Transport) Close() error {
	err := net.ErrClosed
	t.closeOnce.Do(func() {
		err = nil
		close(t.closed)
		t.out.change(func(s *stream) { s.ended = true })
		t.in.change(func(s *stream) { s.refused = true })
	})
	return err
}

// LocalAddr is part of net.Conn.
func (t *Transport) LocalAddr() net.Addr { return address(t.name) }

// RemoteAddr is part of net.Conn.
func (t *Transport) RemoteAddr() net.Addr {
	if t.name == "client" {
		return address("server")
	}
	return address("client")
}

// SetDeadline is part of net.Conn.
func (t *Transport) SetDeadline(at time.Time) error {
	return errors.Join(t.SetReadDeadline(at), t.SetWriteDeadline(at))
}

// SetReadDeadline is part of net.Conn.
func (t *Transport) SetReadDeadline(at time.Time) error {
	if isClosed(t.closed) {
		return net.ErrClosed
	}
	t.readTimeout.set(at)
	return nil
}

// SetWriteDeadline is part of net.Conn.
func (t *Transport) SetWriteDeadline(at time.Time) error {
	if isClosed(t.closed) {
		return net.ErrClosed
	}
	t.writeTimeout.set(at)
	return nil
}

type address string

func (a address) Network() string { return "memory" }
func (a address) String() string  { return string(a) }

// stream is one direction of a connection.
type stream struct {
	mu sync.Mutex
	// changed is closed and replaced with every change of the fields below.
	changed  chan struct{}
	buffered []byte
	record   []byte
	capacity int
	chunk    int
	held     bool
	released int
	tamper   func([]byte)
	// cutAfter is the length of record at which the connection breaks, -1 for
	// never; other is then the other direction.
	cutAfter int
	other    *stream
	// ended is the writer's end of file; refused says that nobody will read;
	// lost counts what was written since.
	ended   bool
	refused bool
	lost    int
	broken  error
}

func newStream() *stream {
	// 64 KiB holds the longest flights of a handshake.
	return &stream{changed: make(chan struct{}), capacity: 64 << 10, cutAfter: -1}
}

func (s *stream) change(f func(*stream)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
	s.notify()
}

// moved counts the bytes that were written and those that were read.
func (s *stream) moved() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return 2*len(s.record) - len(s.buffered)
}

// notify wakes all who wait; the caller holds the lock.
func (s *stream) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// accept takes p into the buffer; the caller holds the lock.
func (s *stream) accept(p []byte) {
	p = append([]byte(nil), p...)
	if s.tamper != nil {
		s.tamper(p)
	}
	if s.cutAfter >= 0 {
		p = p[:min(len(p), max(0, s.cutAfter-len(s.record)))]
	}
	s.record = append(s.record, p...)
	s.buffered = append(s.buffered, p...)
}

// applyCut breaks both directions when this one has carried enough. It takes
// one lock at a time: the two ends do this at once.
func (s *stream) applyCut() {
	s.mu.Lock()
	cut := s.cutAfter >= 0 && len(s.record) >= s.cutAfter && !s.ended
	if cut {
		s.ended = true
		s.notify()
	}
	other := s.other
	s.mu.Unlock()
	if cut {
		other.change(func(o *stream) { o.ended = true })
	}
}

// deadline is a time that can be waited for and moved.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	done  chan struct{}
}

func (d *deadline) init() { d.done = make(chan struct{}) }

func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done
}

func (d *deadline) set(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.done // the timer's function has the lock no more, only this to do
	}
	d.timer = nil
	if isClosed(d.done) {
		d.done = make(chan struct{})
	}
	if at.IsZero() {
		return
	}
	done := d.done
	if wait := time.Until(at); wait > 0 {
		d.timer = time.AfterFunc(wait, func() { close(done) })
		return
	}
	close(done)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
