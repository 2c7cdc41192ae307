package engine

import "sync"

const (
	// plaintextSize is what is decrypted ahead at most: one record of the
	// largest size, or what smaller ones hold together.
	plaintextSize = 16 << 10
	// smallRead is the size up to which Reads are served from memory. Larger
	// ones gain nothing: the copy costs as much as a step of the library.
	smallRead = 4 << 10
)

// plaintextBuffers are shared by all connections, as each holds one only while
// there is data in it. What is given back is wiped.
var plaintextBuffers = sync.Pool{New: func() any { return new([plaintextSize]byte) }}

// plaintext is data that was decrypted before somebody asked for it. The zero
// value has none, and no memory.
type plaintext struct {
	buffer     *[plaintextSize]byte
	start, end int
	// flags are those of the step that has filled it.
	flags Flags
}

// read takes data out, as a step of the engine would.
func (t *plaintext) read(p []byte) Result {
	n := copy(p, t.buffer[t.start:t.end])
	t.start += n
	res := Result{Status: OK, Fault: NoFault, N: n, Flags: t.flags}
	if t.start == t.end {
		t.drop()
	} else {
		res.Flags |= FlagPending
	}
	return res
}

// drop wipes the buffer and gives it back.
func (t *plaintext) drop() {
	if t.buffer == nil {
		return
	}
	clear(t.buffer[:t.end])
	plaintextBuffers.Put(t.buffer)
	*t = plaintext{}
}

// decrypt is the engine's Read. Where a small Read leaves data behind that has
// been received already, all of it is decrypted in one step, as far as it fits
// into a buffer, and the next Reads need none. It is called with mu held.
func (c *Conn) decrypt(p []byte) Result {
	if c.plain.buffer != nil {
		return c.plain.read(p)
	}
	if len(p) > smallRead || !c.readable.Load() && len(c.engine.Input()) <= len(p)+smallestOverhead {
		return c.engine.Read(p)
	}
	buffer := plaintextBuffers.Get().(*[plaintextSize]byte)
	res := c.engine.Read(buffer[:])
	if res.Status != OK || res.N == 0 {
		plaintextBuffers.Put(buffer)
		return res
	}
	c.plain = plaintext{buffer: buffer, end: res.N, flags: res.Flags}
	return c.plain.read(p)
}

// smallestOverhead is what a record adds to its data at least: input that is
// longer than the data asked for by more than a few of these has something left
// for the next Read.
const smallestOverhead = 64
