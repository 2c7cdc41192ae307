// Package promtls gives Prometheus what a metrics.Meter has counted.
//
//	meter := new(metrics.Meter)
//	prometheus.MustRegister(promtls.NewCollector(meter))
//	http.Handle("/metrics", promhttp.Handler())
//
// Connections are counted once their provider is wrapped by the Meter, see
// package metrics. All names begin with "polytls_". Labels are the provider's
// name, the role ("client", "server"), the protocol version and the kind of a
// failure (tlsapi.Kind.Name); no peer can make up a value of any of them.
package promtls

import (
	"crypto/tls"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/polytls/polytls/metrics"
	"github.com/polytls/polytls/tlsapi"
)

// NewCollector returns the collector of a Meter. It may be collected by many
// goroutines at once. Two Meters in one registry need different labels; see
// prometheus.WrapRegistererWith. What counts the whole process, as the help of
// those metrics says, is then told under the labels of each.
func NewCollector(meter *metrics.Meter) prometheus.Collector { return &collector{meter} }

type collector struct{ meter *metrics.Meter }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("polytls_"+name, help, labels, nil)
}

var (
	handshakes = describe("handshakes_total",
		"TLS handshakes that have ended. result is success or the kind of failure; version is that of those that succeeded.",
		"provider", "role", "result", "version")
	resumedHandshakes = describe("handshakes_resumed_total",
		"Successful TLS handshakes that resumed a session.",
		"provider", "role", "version")
	handshakeDuration = describe("handshake_duration_seconds",
		"Duration of TLS handshakes, the waiting for the peer included. outcome is full, resumed or failed.",
		"provider", "role", "outcome")
	handshakesRunning = describe("handshakes_in_progress",
		"TLS handshakes that run now.",
		"provider", "role")
	openConnections = describe("connections_open",
		"TLS connections whose handshake is done and that are not closed.",
		"provider", "role")
	refusedConnections = describe("connections_refused_total",
		"TLS connections that the provider would not make, mostly for their configuration.",
		"provider", "role", "kind")
	brokenConnections = describe("connections_broken_total",
		"TLS connections that failed after their handshake.",
		"provider", "role", "kind")
	blindedConnections = describe("connections_blinded_total",
		"TLS connections that failed and whose close was delayed.",
		"provider", "role")
	forgottenConnections = describe("connections_forgotten_total",
		"TLS connections that the garbage collector found open.",
		"provider", "role")
	alerts = describe("alerts_received_total",
		"Fatal TLS alerts of peers by number and meaning.",
		"provider", "role", "alert", "description")
	readBytes = describe("read_bytes_total",
		"Application data read from TLS connections.",
		"provider", "role")
	writtenBytes = describe("written_bytes_total",
		"Application data written to TLS connections.",
		"provider", "role")
	cacheHits = describe("config_cache_hits_total",
		"Native contexts that were found in the cache, in the whole process.",
		"provider", "role")
	cacheMisses = describe("config_cache_misses_total",
		"Native contexts that had to be made, in the whole process.",
		"provider", "role")
	cacheEvictions = describe("config_cache_evictions_total",
		"Native contexts that had to go for newer ones, in the whole process.",
		"provider", "role")
	cacheEntries = describe("config_cache_entries",
		"Native contexts in the cache, in the whole process.",
		"provider", "role")
	blindingPending = describe("connections_blinding_pending",
		"Failed TLS connections of the whole process that wait for the end of their blinding delay.")
	processForgotten = describe("process_connections_forgotten_total",
		"TLS connections of native providers that the garbage collector found open, in the whole process, counted by a Meter or not.")
	providerInfo = describe("provider_info",
		"The library behind a provider; always 1.",
		"provider", "library", "library_version")
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		handshakes, resumedHandshakes, handshakeDuration, handshakesRunning, openConnections, refusedConnections,
		brokenConnections, blindedConnections, forgottenConnections, alerts, readBytes, writtenBytes, cacheHits,
		cacheMisses, cacheEvictions, cacheEntries, blindingPending, processForgotten, providerInfo,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.meter.Snapshot()
	gauge(ch, blindingPending, float64(s.BlindedConnections))
	counter(ch, processForgotten, s.ForgottenConnections)
	for _, p := range s.Providers {
		gauge(ch, providerInfo, 1, p.Name, p.Library, p.LibraryVersion)
	}
	for i := range s.Connections {
		collect(ch, &s.Connections[i])
	}
}

func collect(ch chan<- prometheus.Metric, c *metrics.Connections) {
	of := []string{c.Provider, string(c.Role)}
	with := func(labels ...string) []string { return append(slices.Clone(of), labels...) }

	for _, h := range c.Complete {
		version := versionLabel(h.Version)
		counter(ch, handshakes, h.Full+h.Resumed, with("success", version)...)
		counter(ch, resumedHandshakes, h.Resumed, with(version)...)
	}
	byKind(ch, handshakes, c.Failed, func(kind string) []string { return with(kind, "") })
	byKind(ch, refusedConnections, c.Refused, func(kind string) []string { return with(kind) })
	byKind(ch, brokenConnections, c.Broken, func(kind string) []string { return with(kind) })
	for _, alert := range slices.Sorted(maps.Keys(c.Alerts)) {
		counter(ch, alerts, c.Alerts[alert], with(strconv.Itoa(int(alert)), alertText(alert))...)
	}
	for _, d := range []struct {
		outcome string
		h       *metrics.Histogram
	}{{"full", &c.FullDuration}, {"resumed", &c.ResumedDuration}, {"failed", &c.FailedDuration}} {
		ch <- histogram(handshakeDuration, d.h, with(d.outcome)...)
	}

	gauge(ch, handshakesRunning, float64(c.Handshaking), of...)
	gauge(ch, openConnections, float64(c.Open), of...)
	counter(ch, blindedConnections, c.Blinded, of...)
	counter(ch, forgottenConnections, c.Forgotten, of...)
	counter(ch, readBytes, c.BytesRead, of...)
	counter(ch, writtenBytes, c.BytesWritten, of...)
	if cache := c.ConfigCache; cache != nil {
		counter(ch, cacheHits, cache.Hits, of...)
		counter(ch, cacheMisses, cache.Misses, of...)
		counter(ch, cacheEvictions, cache.Evictions, of...)
		gauge(ch, cacheEntries, float64(cache.Entries), of...)
	}
}

func byKind(ch chan<- prometheus.Metric, d *prometheus.Desc, counts map[tlsapi.Kind]uint64, labels func(kind string) []string) {
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		counter(ch, d, counts[kind], labels(kind.Name())...)
	}
}

func counter(ch chan<- prometheus.Metric, d *prometheus.Desc, n uint64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, value float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func histogram(d *prometheus.Desc, h *metrics.Histogram, labels ...string) prometheus.Metric {
	buckets := make(map[float64]uint64, len(h.Buckets))
	for _, b := range h.Buckets {
		buckets[b.UpTo.Seconds()] = b.Count
	}
	return prometheus.MustNewConstHistogram(d, h.Count, float64(h.Sum)/float64(time.Second), buckets, labels...)
}

// versionLabel is "1.3" for TLS 1.3.
func versionLabel(version uint16) string {
	if version == 0 {
		return "other"
	}
	return strings.TrimPrefix(tlsapi.VersionName(version), "TLS ")
}

func alertText(alert tls.AlertError) string { return strings.TrimPrefix(alert.Error(), "tls: ") }
