// Package measure compares TLS implementations on one machine: it measures one
// of them in a process of its own (Serve), and lets many such processes take
// turns (Run).
//
// What is counted is the work of both ends of a connection, as the operating
// system accounts it to the process. Times of day are reported as well, but
// they depend on what else the machine does.
package measure

import (
	"fmt"
	"slices"
	"time"
)

// Unit is what one operation of a measure is.
type Unit string

// The units.
const (
	// Handshake is a connection made by both ends, closed, and freed.
	Handshake Unit = "handshake"
	// Record is one write of the measure's size, read by the other end.
	Record Unit = "write"
	// Round is a message there and one back.
	Round Unit = "round"
	// IdleEnd is one end of an idle connection; its costs are bytes.
	IdleEnd Unit = "connection end"
)

// Measure is one thing that is measured.
type Measure struct {
	// Name identifies the measure: "handshake-ecdsa-memory".
	Name string `json:"name"`
	// Title says in full what is done.
	Title string `json:"title"`
	Unit  Unit   `json:"unit"`
	// Size is how many bytes one operation moves in each direction in which it
	// moves any, zero for handshakes.
	Size int `json:"size"`
	// Connections is how many connections work at once.
	Connections int `json:"connections"`

	settings Settings
	memory   bool // over memory, not TCP
	run      func(*bench) (Sample, error)
}

// Fresh reports whether every sample needs a process that has done nothing
// else: what was freed before would hide what is taken.
func (m *Measure) Fresh() bool { return m.Unit == IdleEnd }

// Settings are what a measure asks of both ends. Everything else is the same in
// all measures: TLS 1.3, X25519, TLS_AES_128_GCM_SHA256, and a client that
// verifies the server's chain and name.
type Settings struct {
	// RSA takes the RSA-2048 certificate, not the ECDSA P-256 one.
	RSA bool
	// Resume lets the server issue tickets and the client use them. Without it
	// there are no tickets.
	Resume bool
}

// Sample is one measurement.
type Sample struct {
	Ops int `json:"ops"`
	// Bytes is how many bytes of plaintext were moved.
	Bytes int64 `json:"bytes"`
	// Wall and CPU are nanoseconds of all operations together; CPU is that of
	// the whole process, all threads, user and system.
	Wall time.Duration `json:"wall_ns"`
	CPU  time.Duration `json:"cpu_ns"`
	// Allocs, AllocBytes and CgoCalls are Go's counts of all operations
	// together; zero where no Go is involved.
	Allocs     uint64 `json:"allocs"`
	AllocBytes uint64 `json:"alloc_bytes"`
	CgoCalls   int64  `json:"cgo_calls"`
	// Resident and Heap are the growth by all operations together, for memory
	// measures: of the process, and of Go's heap and stacks in it.
	Resident int64 `json:"resident_bytes"`
	Heap     int64 `json:"heap_bytes"`
	// Threads is how many threads the process has at the end.
	Threads int `json:"threads"`
	// Negotiated says what was negotiated, the same for all connections.
	Negotiated string `json:"negotiated"`
}

// check refuses samples that cannot be.
func (s *Sample) check(m *Measure) error {
	switch {
	case s.Ops <= 0:
		return fmt.Errorf("%s: no operation was done", m.Name)
	case m.Unit == IdleEnd && s.Resident <= 0:
		return fmt.Errorf("%s: %d connection ends took no memory: other work in the process must have freed some", m.Name, s.Ops)
	case m.Unit != IdleEnd && (s.Wall <= 0 || s.CPU <= 0):
		return fmt.Errorf("%s: %d operations took %v and %v of processor time: the clocks are not usable", m.Name, s.Ops, s.Wall, s.CPU)
	}
	return nil
}

const kibi = 1 << 10

// All returns the measures in the order of reports.
func All() []Measure {
	list := []Measure{
		{Name: "handshake-ecdsa-memory", Title: "full handshake, ECDSA P-256, in memory", memory: true},
		{Name: "handshake-ecdsa-tcp", Title: "full handshake, ECDSA P-256, TCP with connect and close"},
		{Name: "handshake-rsa-memory", Title: "full handshake, RSA-2048, in memory", memory: true, settings: Settings{RSA: true}},
		{Name: "handshake-resumed-memory", Title: "resumed handshake, ECDSA P-256, in memory", memory: true, settings: Settings{Resume: true}},
	}
	for i := range list {
		list[i].Unit, list[i].Connections, list[i].run = Handshake, 1, handshakes
	}
	for _, size := range []int{16 * kibi, kibi} {
		list = append(list, Measure{
			Name: fmt.Sprintf("write-%s-memory", sizeName(size)), Title: fmt.Sprintf("writes of %s in memory", sizeTitle(size)),
			Unit: Record, Size: size, Connections: 1, memory: true, run: memoryWrites,
		})
	}
	for _, size := range []int{16 * kibi, 256 * kibi, kibi} {
		list = append(list, Measure{
			Name: fmt.Sprintf("write-%s-tcp", sizeName(size)), Title: fmt.Sprintf("writes of %s over TCP", sizeTitle(size)),
			Unit: Record, Size: size, Connections: 1, run: writes,
		})
	}
	list = append(list,
		Measure{Name: "pingpong-128-memory", Title: "128 bytes there and back in memory", Unit: Round, Size: 128, Connections: 1, memory: true, run: memoryPingPong},
		Measure{Name: "pingpong-128-tcp", Title: "128 bytes there and back over TCP", Unit: Round, Size: 128, Connections: 1, run: pingPong},
		Measure{Name: "idle-memory", Title: "memory of an idle connection, TCP", Unit: IdleEnd, Connections: 5000, run: idle},
	)
	// One connection at once is write-16k-tcp and handshake-ecdsa-tcp.
	for _, n := range []int{8, 64, 512} {
		list = append(list, Measure{
			Name: fmt.Sprintf("throughput-%d", n), Title: fmt.Sprintf("writes of 16 KiB over %d TCP connections at once", n),
			Unit: Record, Size: 16 * kibi, Connections: n, run: writes,
		})
	}
	for _, n := range []int{8, 64, 512} {
		list = append(list, Measure{
			Name: fmt.Sprintf("handshakes-%d", n), Title: fmt.Sprintf("full handshakes, TCP, %d at once", n),
			Unit: Handshake, Connections: n, run: handshakes,
		})
	}
	return list
}

// Names returns the names of All.
func Names() []string {
	var names []string
	for _, m := range All() {
		names = append(names, m.Name)
	}
	return names
}

// Lookup returns the measure of a name.
func Lookup(name string) (Measure, bool) {
	all := All()
	i := slices.IndexFunc(all, func(m Measure) bool { return m.Name == name })
	if i < 0 {
		return Measure{}, false
	}
	return all[i], true
}

func sizeName(n int) string { return fmt.Sprintf("%dk", n/kibi) }

func sizeTitle(n int) string { return fmt.Sprintf("%d KiB", n/kibi) }
