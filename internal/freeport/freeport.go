// Package freeport chooses TCP ports for programs that cannot choose one
// themselves and say which.
package freeport

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// The ports lie below those that systems give to outgoing connections and to
// listeners on port 0 (from 32768 on Linux): otherwise anything on the machine
// could be given the port before the program binds it.
const (
	first = 10000
	count = 22000
)

var (
	mu sync.Mutex
	// given has the ports that this process was given: a program may be slow to
	// bind its own.
	given = make(map[int]bool)
)

// Choose returns a port that nobody listens on at this moment, on any address, and
// that it has not returned before.
func Choose() (string, error) {
	mu.Lock()
	defer mu.Unlock()
	for range 1000 {
		port := first + rand.IntN(count)
		if given[port] {
			continue
		}
		text := strconv.Itoa(port)
		l, err := net.Listen("tcp", ":"+text)
		if err != nil {
			continue
		}
		l.Close()
		given[port] = true
		return text, nil
	}
	return "", errors.New("no free TCP port found")
}
