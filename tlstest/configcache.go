package tlstest

import (
	"crypto/rand"
	"net"
	"sync"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// cacheProbe looks at a provider's cache of native contexts of one role.
type cacheProbe struct {
	*suite
	r role
	p tlsapi.CachingProvider
}

// cachedConfig is a configuration of the probe's role.
type cachedConfig struct {
	client *tlsapi.ClientConfig
	server *tlsapi.ServerConfig
}

func (s *suite) testConfigCache(t *testing.T) {
	eachRole(t, func(t *testing.T, r role) {
		s.need(t, r.feature("config-cache-size"), r.feature("alpn"))
		caching, ok := s.p.(tlsapi.CachingProvider)
		require.True(t, ok, "a provider with a cache is a tlsapi.CachingProvider")
		c := cacheProbe{s, r, caching}
		t.Run("equal configurations", c.testEqual)
		t.Run("many at once", c.testBuiltOnce)
		t.Run("size", c.testSize)
		t.Run("default size", c.testDefaultSize)
		t.Run("sizes are apart", c.testApart)
		t.Run("off", c.testOff)
		t.Run("evicted while in use", c.testEvictedInUse)
		t.Run("mistakes are not kept", c.testMistakes)
	})
}

// unique returns a configuration that was never there before.
func (c cacheProbe) unique(size int) cachedConfig { return c.named(size, rand.Text()) }

func (c cacheProbe) named(size int, protocol string) cachedConfig {
	set := func(s *tlsapi.Settings) { s.ConfigCacheSize, s.ALPN = size, []string{protocol} }
	if c.r == client {
		return cachedConfig{client: c.clientConfig(func(config *tlsapi.ClientConfig) { set(&config.Settings) })}
	}
	return cachedConfig{server: c.serverConfig(func(config *tlsapi.ServerConfig) { set(&config.Settings) })}
}

func (c cacheProbe) connect(wire net.Conn, config cachedConfig) (tlsapi.Conn, error) {
	if c.r == client {
		return c.p.Client(wire, config.client)
	}
	return c.p.Server(wire, config.server)
}

// use makes a connection and closes it.
func (c cacheProbe) use(t *testing.T, configs ...cachedConfig) {
	t.Helper()
	for _, config := range configs {
		wire, _ := newWire(t)
		conn, err := c.connect(wire, config)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
}

func (c cacheProbe) statistics() tlsapi.ConfigCacheStatistics {
	forClients, forServers := c.p.ConfigCacheStatistics()
	if c.r == client {
		return forClients
	}
	return forServers
}

// anyPlace stands for the evictions when a context may take a place that is free
// or another's: earlier cases may have filled the cache or not.
const anyPlace = -1

// requireChange tests what f does to the counts, and that it leaves those of the
// other role alone.
func (c cacheProbe) requireChange(t *testing.T, hits, misses, evictions, entries int, f func()) {
	t.Helper()
	other := c
	other.r = map[role]role{client: server, server: client}[c.r]
	before, otherBefore := c.statistics(), other.statistics()
	f()
	after := c.statistics()
	got := [4]int{int(after.Hits - before.Hits), int(after.Misses - before.Misses), int(after.Evictions - before.Evictions), after.Entries - before.Entries}
	if evictions == anyPlace {
		evictions, entries = got[2], entries-got[2]
	}
	assert.Equal(t, [4]int{hits, misses, evictions, entries}, got, "hits, misses, evictions, entries")
	assert.Equal(t, otherBefore, other.statistics(), "the other role's")
}

func (c cacheProbe) testEqual(t *testing.T) {
	protocol := rand.Text()
	c.requireChange(t, 3, 1, anyPlace, 1, func() {
		config := c.named(0, protocol)
		c.use(t, config, config, c.named(0, protocol), c.named(defaultCacheSize, protocol))
	})
}

func (c cacheProbe) testBuiltOnce(t *testing.T) {
	protocol := rand.Text()
	const callers = 24
	c.requireChange(t, callers-1, 1, anyPlace, 1, func() {
		var group sync.WaitGroup
		for range callers {
			config := c.named(0, protocol)
			group.Go(func() {
				wire, _ := Pipe()
				conn, err := c.connect(wire, config)
				if assert.NoError(t, err) {
					assert.NoError(t, conn.Close())
				}
			})
		}
		group.Wait()
	})
}

func (c cacheProbe) testSize(t *testing.T) {
	const size = 3
	one, two, three, four := c.unique(size), c.unique(size), c.unique(size), c.unique(size)
	// The places may be taken since an earlier run.
	c.use(t, one, two, three)
	c.requireChange(t, 4, 0, 0, 0, func() { c.use(t, one, two, three, one) })
	c.requireChange(t, 3, 1, 1, 0, func() { c.use(t, four, one, three, four) })
	c.requireChange(t, 0, 1, 1, 0, func() { c.use(t, two) })
	c.requireChange(t, 0, 1, 1, 0, func() { c.use(t, one) })
	single := []cachedConfig{c.unique(1), c.unique(1)}
	c.use(t, single[0])
	c.requireChange(t, 1, 2, 2, 0, func() { c.use(t, single[0], single[1], single[0]) })
}

// defaultCacheSize is what zero means in tlsapi.Settings.ConfigCacheSize.
const defaultCacheSize = 64

func (c cacheProbe) testDefaultSize(t *testing.T) {
	first := c.unique(0)
	c.use(t, first)
	for range defaultCacheSize - 1 {
		c.use(t, c.unique(0))
	}
	c.requireChange(t, 1, 0, 0, 0, func() { c.use(t, first) })
	for range defaultCacheSize {
		c.use(t, c.unique(0))
	}
	c.requireChange(t, 0, 1, 1, 0, func() { c.use(t, first) })
}

func (c cacheProbe) testApart(t *testing.T) {
	kept := c.unique(0)
	c.use(t, kept)
	for range defaultCacheSize + 2 {
		c.use(t, c.unique(2))
	}
	c.requireChange(t, 1, 0, 0, 0, func() { c.use(t, kept) })
}

func (c cacheProbe) testOff(t *testing.T) {
	config := c.unique(-1)
	c.requireChange(t, 0, 3, 0, 0, func() { c.use(t, config, config, config) })
	// A connection without a cache works like any other.
	d := c.live(t, config)
	d.mustEcho(t)
}

// live makes a connection of the configuration with the handshake done.
func (c cacheProbe) live(t *testing.T, config cachedConfig) *duo {
	t.Helper()
	var d *duo
	if c.r == client {
		d = c.clientDuo(t, config.client, c.referenceServer())
	} else {
		d = c.serverDuo(t, config.server, c.referenceClient())
	}
	d.mustHandshake(t)
	return d
}

func (c cacheProbe) testEvictedInUse(t *testing.T) {
	d := c.live(t, c.unique(1))
	c.use(t, c.unique(1), c.unique(1))
	d.mustEcho(t)
	require.NoError(t, d.conn.Close())
}

// testMistakes hands over a configuration that is refused.
func (c cacheProbe) testMistakes(t *testing.T) {
	wrong := c.unique(0)
	if c.r == client {
		wrong.client.SecurityPolicy = "no such policy"
	} else {
		wrong.server.SecurityPolicy = "no such policy"
	}
	before := c.statistics().Entries
	for range 2 {
		wire, _ := newWire(t)
		_, err := c.connect(wire, wrong)
		require.Error(t, err)
		requireUntouched(t, wire)
	}
	assert.Equal(t, before, c.statistics().Entries)
}
