package tlstest

import (
	"bytes"
	"crypto/tls"
	"sync"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// countingCache is crypto/tls's session cache, which counts what a server
// issues.
type countingCache struct {
	tls.ClientSessionCache
	mu   sync.Mutex
	puts int
}

func newCountingCache() *countingCache {
	return &countingCache{ClientSessionCache: tls.NewLRUClientSessionCache(8)}
}

func (c *countingCache) Put(key string, session *tls.ClientSessionState) {
	c.mu.Lock()
	if session != nil {
		c.puts++
	}
	c.mu.Unlock()
	c.ClientSessionCache.Put(key, session)
}

func (c *countingCache) issued() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.puts
}

func (s *suite) testSessionTickets(t *testing.T) {
	connect := func(t *testing.T, config *tlsapi.ServerConfig, version uint16, cache tls.ClientSessionCache, change ...func(*tls.Config)) *duo {
		t.Helper()
		reference := s.referenceClient(only(version), func(c *tls.Config) { c.ClientSessionCache = cache })
		for _, f := range change {
			f(reference)
		}
		d := s.serverDuo(t, config, reference)
		d.mustHandshake(t)
		d.mustEcho(t)
		return d
	}
	t.Run("server", func(t *testing.T) {
		eachVersion(t, func(t *testing.T, version uint16) {
			t.Run("resumption", func(t *testing.T) {
				config, cache := s.serverConfig(), newCountingCache()
				if !s.supported(tlsapi.ServerSessionTickets) {
					for range 2 {
						assert.False(t, connect(t, config, version, cache).peer.ConnectionState().DidResume)
					}
					assert.Zero(t, cache.issued())
					return
				}
				first := connect(t, config, version, cache)
				assert.False(t, first.conn.Info().Resumed)
				require.NotZero(t, cache.issued())
				second := connect(t, config, version, cache)
				assert.True(t, second.conn.Info().Resumed)
				assert.True(t, second.conn.ConnectionState().DidResume)
				assert.True(t, second.peer.ConnectionState().DidResume)
			})
			t.Run("off", func(t *testing.T) {
				s.need(t, tlsapi.ServerSessionTicketsOff)
				config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.SessionTicketsDisabled = true })
				cache := newCountingCache()
				for range 2 {
					d := connect(t, config, version, cache)
					assert.False(t, d.peer.ConnectionState().DidResume)
					assert.False(t, d.conn.Info().Resumed)
				}
				assert.Zero(t, cache.issued())
			})
			t.Run("keys", func(t *testing.T) {
				s.need(t, tlsapi.ServerSessionTicketKeys)
				with := func(keys ...byte) *tlsapi.ServerConfig {
					return s.serverConfig(func(c *tlsapi.ServerConfig) {
						for _, k := range keys {
							c.SessionTicketKeys = append(c.SessionTicketKeys, [32]byte(bytes.Repeat([]byte{k}, 32)))
						}
					})
				}
				cache := newCountingCache()
				connect(t, with(1), version, cache)
				rotated := connect(t, with(2, 1), version, cache)
				assert.True(t, rotated.conn.Info().Resumed, "an old key decrypts")
				fresh := connect(t, with(3), version, cache)
				assert.False(t, fresh.conn.Info().Resumed, "a key that is gone does not")
			})
			t.Run("never across another client authentication", func(t *testing.T) {
				s.need(t, tlsapi.ServerSessionTickets, tlsapi.ServerClientAuth)
				keys := [][32]byte(nil)
				if s.supported(tlsapi.ServerSessionTicketKeys) {
					keys = [][32]byte{{9}}
				}
				cache := newCountingCache()
				connect(t, s.serverConfig(func(c *tlsapi.ServerConfig) { c.SessionTicketKeys = keys }), version, cache)
				config := s.serverConfig(func(c *tlsapi.ServerConfig) {
					c.SessionTicketKeys = keys
					c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, Pool(s.ca)
				})
				d := connect(t, config, version, cache, sending(&s.clientCert))
				assert.False(t, d.conn.Info().Resumed)
				assert.NotEmpty(t, d.conn.ConnectionState().PeerCertificates)
			})
		})
	})
	t.Run("client", func(t *testing.T) {
		t.Run("off", func(t *testing.T) {
			s.need(t, tlsapi.ClientSessionTicketsOff)
			d := s.clientDuo(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.SessionTicketsDisabled = true }), s.referenceServer())
			d.mustHandshake(t)
			d.mustEcho(t)
			hello := d.hello(t)
			assert.False(t, hello.Has(extensionSessionTicket))
			assert.False(t, hello.Has(extensionPreSharedKey))
		})
		t.Run("never without a cache", func(t *testing.T) {
			config, reference := s.clientConfig(), s.referenceServer()
			for range 2 {
				d := s.clientDuo(t, config, reference)
				d.mustHandshake(t)
				d.mustEcho(t)
				assert.False(t, d.peer.ConnectionState().DidResume)
				assert.False(t, d.conn.Info().Resumed)
			}
		})
	})
}
