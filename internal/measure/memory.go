package measure

import (
	"errors"
	"io"
	"iter"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// memoryEnd is one end of a transport in memory whose two ends take turns: one
// that finds nothing to read lets the other run, on the same thread and without
// the scheduler. So nothing but TLS is measured.
type memoryEnd struct {
	in, out *queue
	// turn lets the other end run; false, or nil, when there is nothing to run.
	turn func() bool

	closed atomic.Bool
	// expired is set by a read deadline in the past.
	expired atomic.Bool
}

// queue is the bytes in one direction. Ends that close in the background are
// why it has a lock. The plain C programs have none, nor anything else between
// their ends, so it does without what Go would make of a defer.
type queue struct {
	mu    sync.Mutex
	bytes []byte
	start int
	ended bool
}

func (q *queue) read(p []byte) (n int, ended bool) {
	q.mu.Lock()
	n = copy(p, q.bytes[q.start:])
	q.start += n
	if q.start == len(q.bytes) {
		q.bytes, q.start = q.bytes[:0], 0
	}
	ended = q.ended
	q.mu.Unlock()
	return n, ended
}

func (q *queue) write(p []byte) bool {
	q.mu.Lock()
	open := !q.ended
	if open {
		q.bytes = append(q.bytes, p...)
	}
	q.mu.Unlock()
	return open
}

func (q *queue) end() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
}

// successor returns an empty queue with the memory of q, which is at its end
// then, also for who still has it.
func (q *queue) successor() *queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	bytes := q.bytes[:0]
	q.bytes, q.start, q.ended = nil, 0, true
	return &queue{bytes: bytes}
}

// memoryPair returns the two ends of a transport over two queues.
func memoryPair(there, back *queue) (client, server *memoryEnd) {
	return &memoryEnd{in: back, out: there}, &memoryEnd{in: there, out: back}
}

var errStuck = errors.New("both ends wait for the other")

func (e *memoryEnd) Read(p []byte) (int, error) {
	for {
		n, ended := e.in.read(p)
		switch {
		case e.closed.Load():
			return 0, net.ErrClosed
		case n > 0 || len(p) == 0:
			return n, nil
		case ended:
			return 0, io.EOF
		case e.expired.Load():
			return 0, os.ErrDeadlineExceeded
		case e.turn == nil || !e.turn():
			return 0, errStuck
		}
	}
}

func (e *memoryEnd) Write(p []byte) (int, error) {
	switch {
	case e.closed.Load():
		return 0, net.ErrClosed
	case !e.out.write(p):
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func (e *memoryEnd) Close() error {
	if e.closed.Swap(true) {
		return net.ErrClosed
	}
	e.out.end()
	return nil
}

func (e *memoryEnd) LocalAddr() net.Addr  { return memoryAddr{} }
func (e *memoryEnd) RemoteAddr() net.Addr { return memoryAddr{} }

// SetDeadline knows the past, which wakes who reads, and nothing else: no end
// waits here.
func (e *memoryEnd) SetDeadline(t time.Time) error { return e.SetReadDeadline(t) }

func (e *memoryEnd) SetReadDeadline(t time.Time) error {
	e.expired.Store(!t.IsZero() && t.Before(time.Now()))
	return nil
}

func (e *memoryEnd) SetWriteDeadline(time.Time) error { return nil }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory" }

// turns runs the servers of many operations, each as far as it comes before it
// must wait for its client.
type turns struct {
	next func() (struct{}, bool)
	stop func()
	// server is what the other side of the turns runs; nil when it is done.
	server func() error
	// yield is for the server's transport.
	yield func() bool
	err   error
}

// newTurns starts with nothing to run.
func newTurns() *turns {
	t := &turns{}
	t.next, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = func() bool { return yield(struct{}{}) }
		for {
			if t.server != nil {
				t.err = t.server()
				t.server = nil
			}
			if !yield(struct{}{}) {
				return
			}
		}
	})
	t.next()
	return t
}

// turn runs the server until it waits or is done.
func (t *turns) turn() bool {
	if t.server == nil {
		return false
	}
	t.next()
	return true
}

// run runs client and server to their ends; the client's transport must have
// turn, the server's yield.
func (t *turns) run(client, server func() error) error {
	t.server, t.err = server, nil
	err := client()
	for t.server != nil {
		t.next()
	}
	return errors.Join(err, t.err)
}
