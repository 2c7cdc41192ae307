package tlsapi

import (
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// SessionCache keeps sessions of a client. Sessions are opaque and secret: who
// has one can resume it, and read connections that it protects. It is used by
// many goroutines at once.
//
// Keys are those of ClientConfig.SessionKey: one cache may serve all
// configurations and providers of a program.
type SessionCache interface {
	// Get removes and returns a session for the key, or nil. A session of TLS
	// 1.3 is for one use (RFC 8446 appendix C.4); one of TLS 1.2 is put back by
	// the connection that resumed it.
	Get(key string) []byte
	// Put stores a session under the key. It may keep older ones of the key,
	// too: servers issue several tickets per connection. The cache owns the
	// session from then on.
	Put(key string, session []byte)
}

// sessionsPerKey is how many sessions NewLRUSessionCache keeps for one server:
// enough for the connections that a client opens at once.
const sessionsPerKey = 4

// NewLRUSessionCache returns a SessionCache in memory that holds the newest
// sessions, up to four each, of the capacity keys that were used last. A
// capacity below 1 means 64.
func NewLRUSessionCache(capacity int) SessionCache {
	if capacity < 1 {
		capacity = 64
	}
	c := &lruSessionCache{}
	// The capacity is positive: the constructor cannot fail.
	c.lru, _ = simplelru.NewLRU(capacity, func(_ string, sessions [][]byte) {
		for _, s := range sessions {
			clear(s)
		}
	})
	return c
}

type lruSessionCache struct {
	mu  sync.Mutex
	lru *simplelru.LRU[string, [][]byte]
}

// Get returns the newest session.
func (c *lruSessionCache) Get(key string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	sessions, ok := c.lru.Get(key)
	if !ok || len(sessions) == 0 {
		return nil
	}
	last := len(sessions) - 1
	session := sessions[last]
	sessions[last] = nil
	c.lru.Add(key, sessions[:last])
	return session
}

func (c *lruSessionCache) Put(key string, session []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sessions, _ := c.lru.Get(key)
	if len(sessions) == sessionsPerKey {
		clear(sessions[0])
		sessions = slices.Delete(sessions, 0, 1)
	}
	c.lru.Add(key, append(sessions, session))
}

// String tells nothing of the sessions: fmt would print them.
func (c *lruSessionCache) String() string { return "session cache" }

// Format makes every verb print String.
func (c *lruSessionCache) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.String()) }
