package proxy

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/polytls/polytls/metrics"
	"github.com/polytls/polytls/promtls"
	"github.com/polytls/polytls/tlsapi"
)

// Metrics are the Prometheus metrics of a Server: its own, which begin with
// polytls_proxy_, and those of TLS from package promtls, by listener, with role
// "server" towards clients and "client" towards backends.
type Metrics struct {
	Registry *prometheus.Registry

	mu     sync.Mutex
	meters map[string]*metrics.Meter // of TLS, by listener

	open            *prometheus.GaugeVec
	requests        *prometheus.CounterVec
	requestDuration *prometheus.HistogramVec
	connections     *prometheus.CounterVec
	connDuration    *prometheus.HistogramVec
	bytes           *prometheus.CounterVec
	backendErrors   *prometheus.CounterVec
	retries         *prometheus.CounterVec
	abandoned       *prometheus.CounterVec
	timeouts        *prometheus.CounterVec
	reloads         *prometheus.CounterVec
}

// NewMetrics returns metrics in a registry of their own.
func NewMetrics() *Metrics {
	m := &Metrics{Registry: prometheus.NewRegistry(), meters: make(map[string]*metrics.Meter)}
	m.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "polytls", Subsystem: "proxy", Name: name, Help: help}, labels)
		m.Registry.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "polytls", Subsystem: "proxy", Name: name, Help: help, Buckets: buckets}, labels)
		m.Registry.MustRegister(h)
		return h
	}
	m.open = prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "polytls", Subsystem: "proxy", Name: "connections", Help: "Open connections of clients."}, []string{"listener"})
	m.Registry.MustRegister(m.open)
	m.requests = counter("requests_total", "Requests by the class of their status; 499: the client has gone before the response.", "listener", "code")
	m.requestDuration = histogram("request_duration_seconds", "Time from the request's header to the end of the response.", prometheus.DefBuckets, "listener")
	m.connections = counter("tcp_connections_total", "Connections of mode tcp that have ended.", "listener")
	m.connDuration = histogram("tcp_connection_duration_seconds", "Time from the end of the handshake to the end of a connection of mode tcp.", prometheus.ExponentialBuckets(.001, 4, 12), "listener")
	m.bytes = counter("tcp_bytes_total", "Bytes of ended connections of mode tcp.", "listener", "direction")
	m.backendErrors = counter("backend_errors_total", "Failed connections and requests to a backend.", "listener", "backend")
	m.retries = counter("retries_total", "Requests that were sent to another backend.", "listener")
	m.abandoned = counter("abandoned_total", "Requests whose client has gone before the response.", "listener")
	m.timeouts = counter("timeouts_total", "Connections that were closed because nothing moved on them.", "listener")
	m.reloads = counter("reloads_total", "Configurations that were read again.", "result")
	return m
}

// provider returns p with its connections counted for a listener.
func (m *Metrics) provider(listener string, p tlsapi.Provider) tlsapi.Provider {
	m.mu.Lock()
	defer m.mu.Unlock()
	meter := m.meters[listener]
	if meter == nil {
		meter = new(metrics.Meter)
		m.meters[listener] = meter
		prometheus.WrapRegistererWith(prometheus.Labels{"listener": listener}, m.Registry).MustRegister(promtls.NewCollector(meter))
	}
	return meter.Provider(p)
}

// Reloaded counts an attempt to take over a configuration.
func (m *Metrics) Reloaded(err error) {
	result := "taken"
	if err != nil {
		result = "refused"
	}
	m.reloads.WithLabelValues(result).Inc()
}

// listenerMetrics are those of one listener: looked up once.
type listenerMetrics struct {
	all  *Metrics
	name string

	open                         prometheus.Gauge
	requestsByClass              [6]prometheus.Counter
	clientGone                   prometheus.Counter
	requestDuration              prometheus.Observer
	connections                  prometheus.Counter
	connDuration                 prometheus.Observer
	bytesIn, bytesOut            prometheus.Counter
	retries, abandoned, timeouts prometheus.Counter
}

func (m *Metrics) listener(name string) *listenerMetrics {
	l := &listenerMetrics{
		all: m, name: name,
		open:            m.open.WithLabelValues(name),
		clientGone:      m.requests.WithLabelValues(name, "499"),
		requestDuration: m.requestDuration.WithLabelValues(name),
		connections:     m.connections.WithLabelValues(name),
		connDuration:    m.connDuration.WithLabelValues(name),
		bytesIn:         m.bytes.WithLabelValues(name, "received"),
		bytesOut:        m.bytes.WithLabelValues(name, "sent"),
		retries:         m.retries.WithLabelValues(name),
		abandoned:       m.abandoned.WithLabelValues(name),
		timeouts:        m.timeouts.WithLabelValues(name),
	}
	for class := range l.requestsByClass {
		code := "none" // A handler that wrote nothing.
		if class > 0 {
			code = strconv.Itoa(class) + "xx"
		}
		l.requestsByClass[class] = m.requests.WithLabelValues(name, code)
	}
	return l
}

// provider returns p with its connections counted.
func (l *listenerMetrics) provider(p tlsapi.Provider) tlsapi.Provider {
	return l.all.provider(l.name, p)
}

func (l *listenerMetrics) request(status int, duration time.Duration) {
	if status == statusClientGone {
		l.clientGone.Inc()
	} else {
		l.requestsByClass[min(max(status/100, 0), 5)].Inc()
	}
	l.requestDuration.Observe(duration.Seconds())
}

func (l *listenerMetrics) connection(duration time.Duration, received, sent int64) {
	l.connections.Inc()
	l.connDuration.Observe(duration.Seconds())
	l.bytesIn.Add(float64(received))
	l.bytesOut.Add(float64(sent))
}

func (l *listenerMetrics) backendError(address string) {
	l.all.backendErrors.WithLabelValues(l.name, address).Inc()
}
