package native

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// cacheSize is the most contexts that a provider keeps.
const cacheSize = 64

// contextCache keeps native contexts by the digest of everything that reached
// them. A context is built once, also when many ask for it at the same time.
type contextCache struct {
	mu  sync.Mutex
	lru *simplelru.LRU[[32]byte, *cacheEntry]
}

type cacheEntry struct {
	once sync.Once
	ctx  *context
	err  error
}

// get returns a context that the caller releases.
func (c *contextCache) get(b *contextBuilder) (*context, error) {
	key := b.digest()
	for {
		c.mu.Lock()
		if c.lru == nil {
			// The size is a positive constant: the constructor cannot fail.
			c.lru, _ = simplelru.NewLRU(cacheSize, func(_ [32]byte, e *cacheEntry) {
				if e.ctx != nil {
					e.ctx.release()
				}
			})
		}
		entry, ok := c.lru.Get(key)
		if !ok {
			entry = &cacheEntry{}
			c.lru.Add(key, entry)
		}
		c.mu.Unlock()

		built := false
		entry.once.Do(func() {
			ctx, err := b.build()
			c.mu.Lock()
			defer c.mu.Unlock()
			entry.ctx, entry.err = ctx, err
			if current, ok := c.lru.Peek(key); ok && current == entry {
				if err != nil {
					c.lru.Remove(key)
				}
			} else if ctx != nil {
				// Evicted while it was being built: the cache's reference
				// becomes the caller's.
				built = true
			}
		})
		if entry.err != nil {
			return nil, entry.err
		}
		if built {
			return entry.ctx, nil
		}
		c.mu.Lock()
		held := entry.ctx.hold()
		c.mu.Unlock()
		if held {
			return entry.ctx, nil
		}
		// Evicted and freed between the two locks: ask again.
	}
}

// digest identifies the context that the instructions make.
func (c *contextBuilder) digest() [32]byte {
	h := sha256.New()
	head := binary.BigEndian.AppendUint32(nil, uint32(c.role))
	h.Write(head)
	for _, i := range c.instructions {
		head = binary.BigEndian.AppendUint32(head[:0], uint32(i.option))
		head = binary.BigEndian.AppendUint64(head, uint64(len(i.data)))
		h.Write(head)
		h.Write(i.data)
	}
	return [32]byte(h.Sum(nil))
}
