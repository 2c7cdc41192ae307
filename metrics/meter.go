// Package metrics counts and logs the TLS connections of any provider.
//
//	meter := &metrics.Meter{Log: slog.Default()}
//	provider := meter.Provider(openssl.Provider)
//
// The provider that comes back is used like the one that went in, by a program
// itself and by packages httptls and grpctls: its connections do the same and
// are counted on the way. Snapshot has the numbers; package promtls, a module of
// its own, gives them to Prometheus.
//
// The number of counters is bounded by the code: nothing that a peer sends
// (names, addresses, certificates) selects one. Reads and Writes cost one atomic
// addition each and allocate nothing; a handshake costs four allocations.
package metrics

import (
	"log/slog"
	"net"
	"sync"

	"github.com/polytls/polytls/tlsapi"
)

// Meter counts the connections of the providers that it has wrapped. The zero
// value is ready for use. It must not be copied. All methods may be called by
// many goroutines at once; fields must be set before the first connection.
type Meter struct {
	// Log receives a line for every handshake: those that failed at
	// slog.LevelWarn, those that succeeded at slog.LevelDebug. What a peer has
	// chosen (names, texts of errors about its certificate) is cut to 512 bytes
	// and stripped of characters that do not print; there are no secrets. Nil,
	// the default, means none.
	//
	// httptls.Listener, httptls.Server and grpctls log the same failures where
	// they have a logger of their own: one of both is enough.
	Log *slog.Logger

	mu        sync.Mutex
	providers []*measured
}

// measured are the counters of the providers of one name.
type measured struct {
	provider       tlsapi.Provider // the one that was wrapped first
	client, server *series
}

// Provider returns a provider whose connections are p's and are counted. It has
// p's name, features and library version, and is a tlsapi.CachingProvider if p
// is. A Meter's counters are by name: providers of the same name share them. What
// this Meter has wrapped already is returned as it is, and so is nil.
//
// Connections have all that tlsapi.Conn promises. Hooks of configurations are
// left alone and go on working.
func (m *Meter) Provider(p tlsapi.Provider) tlsapi.Provider {
	switch w := p.(type) {
	case nil:
		return nil
	case *provider:
		if w.meter == m {
			return p
		}
	case *cachingProvider:
		if w.meter == m {
			return p
		}
	}
	counted := m.measure(p)
	wrapped := provider{Provider: p, meter: m, client: counted.client, server: counted.server}
	if caching, ok := p.(tlsapi.CachingProvider); ok {
		return &cachingProvider{provider: wrapped, cache: caching}
	}
	return &wrapped
}

func (m *Meter) measure(p tlsapi.Provider) *measured {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := p.Name()
	for _, c := range m.providers {
		if c.provider.Name() == name {
			return c
		}
	}
	c := &measured{provider: p, client: newSeries(name, Client), server: newSeries(name, Server)}
	m.providers = append(m.providers, c)
	return c
}

// provider wraps a tlsapi.Provider.
type provider struct {
	tlsapi.Provider
	meter          *Meter
	client, server *series
}

// Client implements tlsapi.Provider.
func (p *provider) Client(transport net.Conn, config *tlsapi.ClientConfig) (tlsapi.Conn, error) {
	c, err := p.Provider.Client(transport, config)
	return p.counted(p.client, c, err)
}

// Server implements tlsapi.Provider.
func (p *provider) Server(transport net.Conn, config *tlsapi.ServerConfig) (tlsapi.Conn, error) {
	c, err := p.Provider.Server(transport, config)
	return p.counted(p.server, c, err)
}

func (p *provider) counted(s *series, c tlsapi.Conn, err error) (tlsapi.Conn, error) {
	if err != nil {
		s.refused.add(tlsapi.KindOf(err))
		return nil, err
	}
	return &conn{Conn: c, series: s, traffic: s.stripe(), log: p.meter.Log}, nil
}

// cachingProvider wraps a tlsapi.CachingProvider.
type cachingProvider struct {
	provider
	cache tlsapi.CachingProvider
}

// ConfigCacheStatistics implements tlsapi.CachingProvider.
func (p *cachingProvider) ConfigCacheStatistics() (client, server tlsapi.ConfigCacheStatistics) {
	return p.cache.ConfigCacheStatistics()
}
