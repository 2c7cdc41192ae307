package proxy

import (
	"net"
	"os"
	"sync"
	"time"
)

// lookAfter is how long a request has to last before anybody looks whether its
// client is still there.
const lookAfter = 5 * time.Millisecond

// readDeadline passes deadlines on to a connection when a Read needs them.
// net/http sets six for every request, and starts a Read of one byte that is to
// find out whether the client goes and that it breaks off with a deadline: most
// requests are over before either matters.
type readDeadline struct {
	mu              sync.Mutex
	wanted, applied time.Time
	reading         int // Reads of the connection that are under way
	watching        bool
	over            chan struct{} // tells watch of a deadline that has passed
	timer           *time.Timer   // watch's
}

// set is for SetReadDeadline. What is wrong with the connection is for the next
// Read to tell.
func (d *readDeadline) set(c net.Conn, t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted = t
	if d.watching && d.passed() {
		d.watching = false
		d.over <- struct{}{}
	}
	if d.reading == 0 {
		return nil
	}
	d.applied = t
	return c.SetReadDeadline(t)
}

func (d *readDeadline) passed() bool { return !d.wanted.IsZero() && !d.wanted.After(time.Now()) }

// begin and end enclose a Read.
func (d *readDeadline) begin(c net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reading++
	if !d.wanted.Equal(d.applied) {
		d.applied = d.wanted
		// The Read finds what is wrong.
		_ = c.SetReadDeadline(d.wanted)
	}
}

func (d *readDeadline) end() {
	d.mu.Lock()
	d.reading--
	d.mu.Unlock()
}

// watch stands in for the beginning of a Read that is there to be broken off. It
// returns the error of such a Read, or nil after lookAfter: then the connection is
// to be read. One goroutine at a time may call it.
func (d *readDeadline) watch() error {
	d.mu.Lock()
	if d.passed() {
		d.mu.Unlock()
		return os.ErrDeadlineExceeded
	}
	if d.over == nil {
		d.over, d.timer = make(chan struct{}, 1), time.NewTimer(lookAfter)
	} else {
		d.timer.Reset(lookAfter)
	}
	d.watching = true
	d.mu.Unlock()
	select {
	case <-d.over:
		d.timer.Stop()
		return os.ErrDeadlineExceeded
	case <-d.timer.C:
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.watching {
		// Both came at once.
		<-d.over
		return os.ErrDeadlineExceeded
	}
	d.watching = false
	return nil
}
