package measure

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

// idle measures what the ends of connections hold that have done something and
// do nothing now: a handshake, and a message there and back. Nobody waits in a
// Read: a goroutine's stack costs the same with all subjects.
func idle(b *bench) (Sample, error) {
	n := min(b.Connections, b.maxOps)
	if most := (fileLimit() - 64) / 2; n > most {
		n = most
	}
	if n < 1 {
		return Sample{}, fmt.Errorf("no connection can be opened within the limit of open files (ulimit -n): %w", errors.ErrUnsupported)
	}
	used := func(count int) (closeAll func(), err error) {
		clients, servers, closeAll, err := b.tcpConnections(count)
		if err != nil {
			return nil, err
		}
		data, got := make([]byte, 128), make([]byte, 128)
		for i, c := range clients {
			if err := exchange(c, servers[i], data, got); err != nil {
				closeAll()
				return nil, err
			}
		}
		return closeAll, nil
	}
	// What is made once, whatever the number of connections.
	closeFirst, err := used(min(n, 32))
	if err != nil {
		return Sample{}, err
	}
	closeFirst()

	heapBefore, residentBefore := settledMemory()
	closeAll, err := used(n)
	if err != nil {
		return Sample{}, err
	}
	heapAfter, residentAfter := settledMemory()
	closeAll()
	return Sample{
		Ops:      2 * n,
		Resident: residentAfter - residentBefore,
		Heap:     heapAfter - heapBefore,
	}, nil
}

// exchange sends a message there and back.
func exchange(c, s Conn, data, got []byte) error {
	if _, err := c.Write(data); err != nil {
		return err
	}
	if _, err := io.ReadFull(s, got); err != nil {
		return err
	}
	if _, err := s.Write(got); err != nil {
		return err
	}
	_, err := io.ReadFull(c, got)
	return err
}

// settledMemory collects garbage, gives free memory back, and tells what is
// left: Go's heap and stacks, and what the whole process has.
func settledMemory() (heap, resident int64) {
	for range 3 {
		runtime.GC()
	}
	debug.FreeOSMemory()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc + stats.StackInuse), residentBytes()
}
