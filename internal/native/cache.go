package native

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/polytls/polytls/tlsapi"
)

// defaultCacheSize is what zero means in Settings.ConfigCacheSize.
const defaultCacheSize = 64

// contextCache keeps native contexts by the digest of everything that reached
// them. A context is built once, also when many ask for it at the same time.
type contextCache struct {
	mu      sync.Mutex
	classes map[cacheClass]*simplelru.LRU[[32]byte, *cacheEntry]
	counts  [2]tlsapi.ConfigCacheStatistics
}

// cacheClass are the contexts that compete for places: a configuration with a
// small size must not empty the cache of the others.
type cacheClass struct {
	role role
	size int
}

type cacheEntry struct {
	once sync.Once
	ctx  *context
	err  error
}

// get returns a context that the caller releases.
func (c *contextCache) get(b *contextBuilder) (*context, error) {
	if b.cacheSize < 0 {
		c.mu.Lock()
		c.counts[b.role].Misses++
		c.mu.Unlock()
		return b.build()
	}
	key := b.digest()
	for {
		c.mu.Lock()
		lru := c.class(cacheClass{b.role, b.cacheSize})
		entry, ok := lru.Get(key)
		if ok {
			c.counts[b.role].Hits++
		} else {
			c.counts[b.role].Misses++
			entry = &cacheEntry{}
			if lru.Add(key, entry) {
				c.counts[b.role].Evictions++
			}
		}
		c.mu.Unlock()

		built := false
		entry.once.Do(func() {
			ctx, err := b.build()
			c.mu.Lock()
			defer c.mu.Unlock()
			entry.ctx, entry.err = ctx, err
			if current, ok := lru.Peek(key); ok && current == entry {
				if err != nil {
					lru.Remove(key)
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

// lookUp returns the context with this digest, which the caller releases, or nil
// when there is none yet; get makes it.
func (c *contextCache) lookUp(class cacheClass, digest [32]byte) *context {
	if class.size < 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// Without a context, the entry is one that is being made.
	entry, ok := c.class(class).Get(digest)
	if !ok || entry.ctx == nil || !entry.ctx.hold() {
		return nil
	}
	c.counts[class.role].Hits++
	return entry.ctx
}

// class returns the cache of a class. It is called with the lock held.
func (c *contextCache) class(class cacheClass) *simplelru.LRU[[32]byte, *cacheEntry] {
	if class.size == 0 {
		class.size = defaultCacheSize
	}
	lru, ok := c.classes[class]
	if !ok {
		// The size is positive: the constructor cannot fail.
		lru, _ = simplelru.NewLRU(class.size, func(_ [32]byte, e *cacheEntry) {
			if e.ctx != nil {
				e.ctx.release()
			}
		})
		if c.classes == nil {
			c.classes = make(map[cacheClass]*simplelru.LRU[[32]byte, *cacheEntry])
		}
		c.classes[class] = lru
	}
	return lru
}

func (c *contextCache) statistics(r role) tlsapi.ConfigCacheStatistics {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := c.counts[r]
	for class, lru := range c.classes {
		if class.role == r {
			counts.Entries += lru.Len()
		}
	}
	return counts
}

// ConfigCacheStatistics implements tlsapi.CachingProvider.
func (p *Provider) ConfigCacheStatistics() (forClients, forServers tlsapi.ConfigCacheStatistics) {
	return p.contexts.statistics(client), p.contexts.statistics(server)
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
