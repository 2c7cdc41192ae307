package metrics

import (
	"cmp"
	"crypto/tls"
	"slices"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

// Role is an end of a connection.
type Role string

const (
	Client Role = "client"
	Server Role = "server"
)

// Snapshot is what a Meter has counted. Counters are read one after the other
// while connections go on: sums of several may be off by those under way. It is
// the caller's and is not changed any more.
type Snapshot struct {
	// Connections has an element for each wrapped provider and role, by name,
	// clients first.
	Connections []Connections
	// Providers are the wrapped providers by name.
	Providers []Provider
	// BlindedConnections is tlsapi.BlindedConnections, ForgottenConnections
	// tlsapi.ForgottenConnections: both count the whole process, whatever this
	// Meter has wrapped.
	BlindedConnections   int
	ForgottenConnections uint64
}

// Provider tells which library is behind a name.
type Provider struct{ Name, Library, LibraryVersion string }

// Connections are the counters of one provider in one role. They begin with the
// Meter and never fall, unless they say otherwise.
type Connections struct {
	Provider string
	Role     Role

	// Complete are the handshakes that succeeded, by protocol version. TLS 1.2
	// and 1.3 are always there.
	Complete []Handshakes
	// Failed are those that failed, by kind; kinds that have not occurred are
	// left out. Zero stands for errors of no kind, which other people's
	// providers may have.
	Failed map[tlsapi.Kind]uint64
	// Alerts are the fatal alerts that peers have sent, in handshakes and
	// after.
	Alerts map[tls.AlertError]uint64
	// FullDuration, ResumedDuration and FailedDuration are how long handshakes
	// took, from the first call of Handshake, Read or Write until it was over:
	// the waiting for the peer is part of it.
	FullDuration, ResumedDuration, FailedDuration Histogram

	// Refused are the connections that the provider would not make, by kind:
	// configurations that are wrong or unsupported.
	Refused map[tlsapi.Kind]uint64
	// Broken are the connections that failed after their handshake, by kind.
	// Passed deadlines do not count.
	Broken map[tlsapi.Kind]uint64
	// Blinded are the connections that failed and whose close was delayed
	// (Settings.MaxBlindingDelay).
	Blinded uint64
	// Forgotten are the connections that the garbage collector found open:
	// whose handshake succeeded and that nobody closed.
	Forgotten uint64

	// Handshaking is how many handshakes run now; Open how many connections
	// have theirs behind them and were not closed.
	Handshaking, Open int64

	// BytesRead and BytesWritten count application data.
	BytesRead, BytesWritten uint64

	// ConfigCache is what the provider tells of its native contexts in this
	// role, for the whole process; nil when it keeps none.
	ConfigCache *tlsapi.ConfigCacheStatistics
}

// Handshakes are those of one protocol version that succeeded.
type Handshakes struct {
	// Version is as tls.VersionTLS13; zero for those that this package does
	// not know.
	Version uint16
	// Resumed continued an earlier session, Full did not.
	Full, Resumed uint64
}

// Histogram has durations in buckets.
type Histogram struct {
	// Count is the number of durations, Sum their sum.
	Count uint64
	Sum   time.Duration
	// Buckets are by rising bounds; each includes those before it. What is
	// longer than the last counts in Count alone.
	Buckets []Bucket
}

// Bucket counts the durations up to and including a bound.
type Bucket struct {
	UpTo  time.Duration
	Count uint64
}

// Handshakes returns how many handshakes succeeded and how many of them resumed a
// session; the quotient is the resumption rate.
func (c Connections) Handshakes() (complete, resumed uint64) {
	for _, h := range c.Complete {
		complete += h.Full + h.Resumed
		resumed += h.Resumed
	}
	return complete, resumed
}

// Failures returns how many handshakes failed.
func (c Connections) Failures() uint64 {
	var n uint64
	for _, count := range c.Failed {
		n += count
	}
	return n
}

// Snapshot returns what has been counted until now.
func (m *Meter) Snapshot() Snapshot {
	m.mu.Lock()
	all := slices.Clone(m.providers)
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b *measured) int { return cmp.Compare(a.client.provider, b.client.provider) })

	s := Snapshot{
		BlindedConnections:   tlsapi.BlindedConnections(),
		ForgottenConnections: tlsapi.ForgottenConnections(),
	}
	for _, p := range all {
		s.Providers = append(s.Providers, Provider{p.client.provider, p.provider.Library(), p.provider.LibraryVersion()})
		client, server := p.client.snapshot(), p.server.snapshot()
		if caching, ok := p.provider.(tlsapi.CachingProvider); ok {
			forClients, forServers := caching.ConfigCacheStatistics()
			client.ConfigCache, server.ConfigCache = &forClients, &forServers
		}
		s.Connections = append(s.Connections, client, server)
	}
	return s
}
