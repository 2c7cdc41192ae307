package tlsapi

// ConfigCacheStatistics counts what a provider has done with native contexts of
// one role since the process began; see Settings.ConfigCacheSize.
type ConfigCacheStatistics struct {
	// Hits are the contexts that were there, Misses those that were not: they
	// were made, or could not be made. Configurations that switch the cache
	// off miss always. A connection may need several contexts: one to find out
	// what the library offers (ClientConfig.SecondKeyShare), one for each
	// certificate that it chooses from.
	Hits, Misses uint64
	// Evictions are the contexts that had to go for newer ones.
	Evictions uint64
	// Entries is the number of contexts that are kept now.
	Entries int
}

// CachingProvider is a Provider that keeps native contexts: all but std.
//
//	if p, ok := provider.(tlsapi.CachingProvider); ok {
//		client, server := p.ConfigCacheStatistics()
//	}
type CachingProvider interface {
	Provider
	ConfigCacheStatistics() (client, server ConfigCacheStatistics)
}
