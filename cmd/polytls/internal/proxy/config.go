// Package proxy terminates TLS with any provider and forwards to backends: the
// engine of "polytls proxy".
//
// A Server has one socket for each listener's address. What a socket's
// connections get is a generation: certificates, settings and backends as one
// configuration says. A new configuration (Apply) makes new generations and
// leaves the sockets alone; connections keep the generation that took them.
package proxy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

// Mode is what a listener forwards.
type Mode string

const (
	// HTTP forwards requests of HTTP/1.1 and HTTP/2.
	HTTP Mode = "http"
	// TCP forwards the bytes of each connection over one to a backend.
	TCP Mode = "tcp"
)

// AcceptProxy says from which peers a PROXY protocol header is expected.
type AcceptProxy string

const (
	// AcceptProxyOff expects none.
	AcceptProxyOff AcceptProxy = "off"
	// AcceptProxyTrusted insists on one from the addresses in TrustedProxies
	// and expects none from others.
	AcceptProxyTrusted AcceptProxy = "trusted"
	// AcceptProxyAlways insists on one from everybody: who reaches the socket
	// can claim any address.
	AcceptProxyAlways AcceptProxy = "always"
)

// Config is what a Server does. It must not be modified once it was handed over.
type Config struct {
	Listeners []*Listener
	// Admin is where /metrics and /healthz are served over plain HTTP:
	// HOST:PORT, or unix: and a path; empty for nowhere.
	Admin string
	// AccessLog receives every request, and in mode tcp every connection. Nil
	// means none. Apply closes the one of the configuration before, if it is
	// another.
	AccessLog *AccessLog
	// DrainTimeout is how long connections may go on after Shutdown has begun.
	DrainTimeout time.Duration
}

// Listener is one address and what becomes of its connections. Durations of
// zero mean no limit.
type Listener struct {
	// Name is for logs and metrics.
	Name string
	// Address is HOST:PORT, or unix: and a path.
	Address string
	// ReusePort lets several processes listen on the address, so that a new
	// one can start before the old one ends.
	ReusePort bool
	Mode      Mode
	Provider  tlsapi.Provider
	// TLS is the configuration of the server's end. In mode http its ALPN must
	// be a subset of h2 and http/1.1; nil means both.
	TLS      *tlsapi.ServerConfig
	Backends []*Backend

	// MaxConnections bounds the connections that are open. With that many,
	// further clients wait in the system's queue.
	MaxConnections int
	// HeaderTimeout bounds the reading of a request's header.
	HeaderTimeout time.Duration
	// IdleTimeout closes connections on which nothing moves: between requests,
	// and in mode tcp and after an upgrade without a byte in either direction.
	IdleTimeout time.Duration
	// StallTimeout closes connections whose client does not take what is
	// written, or sends no more of a request's body.
	StallTimeout time.Duration
	// ConnectTimeout bounds the connecting to one backend, TLS included.
	ConnectTimeout time.Duration
	// ResponseTimeout bounds the wait for the header of a backend's response.
	ResponseTimeout time.Duration
	// RetryAfter is how long a backend that failed is passed over while others
	// are there.
	RetryAfter time.Duration
	// MaxHeaderBytes bounds a request's header. Zero means net/http's 1 MiB.
	MaxHeaderBytes int

	AcceptProxy AcceptProxy
	// TrustedProxies are the addresses whose PROXY protocol headers (with
	// AcceptProxyTrusted) and X-Forwarded headers are believed.
	TrustedProxies []netip.Prefix
}

// Backend is where connections and requests go.
type Backend struct {
	// Address is HOST:PORT, or unix: and a path.
	Address string
	// Provider makes TLS connections to the backend; nil means none are made.
	Provider tlsapi.Provider
	// TLS is the client's configuration, with its ServerName. In mode http its
	// ALPN must be a subset of h2 and http/1.1; nil means http/1.1.
	TLS *tlsapi.ClientConfig
	// H2C speaks HTTP/2 without TLS.
	H2C bool
	// SendProxy is the version of the PROXY protocol header to begin
	// connections with: 1, 2, or 0 for none. In mode http every request then
	// has a connection of its own.
	SendProxy int
	// MaxIdle is how many connections without a request are kept. Zero means
	// 1024.
	MaxIdle int
}

// ConfigError is a mistake in one field of a configuration.
type ConfigError struct {
	// Listener and Backend are the indices of where it is; -1 for neither.
	Listener, Backend int
	// Field is the name of the option, as in the configuration file.
	Field string
	Err   error
}

func (e *ConfigError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

// Check reports the first mistake of a configuration, as a *ConfigError, and
// what the providers refuse. It opens no socket.
func (c *Config) Check() error {
	if len(c.Listeners) == 0 {
		return &ConfigError{Listener: -1, Backend: -1, Field: "listeners", Err: errors.New("there is none")}
	}
	if c.Admin != "" {
		if err := checkAddress(c.Admin); err != nil {
			return &ConfigError{Listener: -1, Backend: -1, Field: "admin", Err: err}
		}
	}
	if c.DrainTimeout < 0 {
		return &ConfigError{Listener: -1, Backend: -1, Field: "drain-timeout", Err: fmt.Errorf("%v is negative", c.DrainTimeout)}
	}
	addresses, names := make(map[string]bool), make(map[string]bool)
	for i, l := range c.Listeners {
		fail := func(field, format string, args ...any) error {
			return &ConfigError{Listener: i, Backend: -1, Field: field, Err: fmt.Errorf(format, args...)}
		}
		if err := checkAddress(l.Address); err != nil {
			return fail("address", "%w", err)
		}
		if addresses[l.Address] && !ephemeral(l.Address) {
			return fail("address", "another listener has %q, too", l.Address)
		}
		addresses[l.Address] = true
		if names[l.Name] {
			return fail("name", "another listener is called %q, too", l.Name)
		}
		names[l.Name] = true
		if err := l.check(); err != nil {
			err.Listener = i
			return err
		}
		for j, b := range l.Backends {
			if err := b.check(l.Mode); err != nil {
				err.Listener, err.Backend = i, j
				return err
			}
		}
	}
	return nil
}

func (l *Listener) check() *ConfigError {
	fail := func(field, format string, args ...any) *ConfigError {
		return &ConfigError{Backend: -1, Field: field, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case l.Mode != HTTP && l.Mode != TCP:
		return fail("mode", "%q is neither http nor tcp", l.Mode)
	case len(l.Backends) == 0:
		return fail("backends", "there is none")
	case l.MaxConnections < 1:
		return fail("max-connections", "%d is less than 1", l.MaxConnections)
	case l.MaxHeaderBytes < 0:
		return fail("max-header-bytes", "%d is negative", l.MaxHeaderBytes)
	case l.AcceptProxy == AcceptProxyTrusted && len(l.TrustedProxies) == 0:
		return fail("accept-proxy", "trusted needs addresses in trusted-proxies")
	case l.AcceptProxy != AcceptProxyOff && l.AcceptProxy != AcceptProxyTrusted && l.AcceptProxy != AcceptProxyAlways:
		return fail("accept-proxy", "%q is neither off, trusted nor always", l.AcceptProxy)
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"header-timeout", l.HeaderTimeout}, {"idle-timeout", l.IdleTimeout}, {"stall-timeout", l.StallTimeout},
		{"connect-timeout", l.ConnectTimeout}, {"response-timeout", l.ResponseTimeout}, {"retry-after", l.RetryAfter},
	} {
		if d.value < 0 {
			return fail(d.field, "%v is negative", d.value)
		}
	}
	if l.Mode == HTTP {
		if protocol := notHTTP(l.TLS.ALPN); protocol != "" {
			return fail("alpn", "%q is not served in mode http; h2 and http/1.1 are", protocol)
		}
	}
	if err := probeServer(l.Provider, l.TLS); err != nil {
		return fail("provider", "%w", err)
	}
	return nil
}

func (b *Backend) check(mode Mode) *ConfigError {
	fail := func(field, format string, args ...any) *ConfigError {
		return &ConfigError{Field: field, Err: fmt.Errorf(format, args...)}
	}
	switch err := checkAddress(b.Address); {
	case err != nil:
		return fail("address", "%w", err)
	case ephemeral(b.Address):
		return fail("address", "there is nothing at port 0")
	case b.SendProxy < 0 || b.SendProxy > 2:
		return fail("send-proxy", "%d is no version of the protocol", b.SendProxy)
	case b.MaxIdle < 0:
		return fail("max-idle", "%d is negative", b.MaxIdle)
	case mode == TCP && b.H2C:
		return fail("h2c", "it has no meaning in mode tcp")
	case b.H2C && b.Provider != nil:
		return fail("h2c", "the backend has TLS: alpn says there whether HTTP/2 is spoken")
	case b.H2C && b.SendProxy > 0:
		return fail("send-proxy", "a connection of HTTP/2 carries the requests of many clients")
	}
	if b.Provider == nil {
		return nil
	}
	if mode == HTTP {
		if protocol := notHTTP(b.TLS.ALPN); protocol != "" {
			return fail("alpn", "%q is not spoken in mode http; h2 and http/1.1 are", protocol)
		}
		if b.SendProxy > 0 && slices.Contains(b.TLS.ALPN, "h2") {
			return fail("send-proxy", "a connection of HTTP/2 carries the requests of many clients; leave h2 out of alpn")
		}
	}
	if err := probeClient(b.Provider, b.TLS); err != nil {
		return fail("provider", "%w", err)
	}
	return nil
}

func notHTTP(alpn []string) string {
	for _, protocol := range alpn {
		if protocol != "h2" && protocol != "http/1.1" {
			return protocol
		}
	}
	return ""
}

// probeServer makes a connection that is never used: what the provider refuses
// is an error now, not for every client.
func probeServer(provider tlsapi.Provider, config *tlsapi.ServerConfig) error {
	return probe(provider, func(transport net.Conn) (tlsapi.Conn, error) { return provider.Server(transport, config) })
}

func probeClient(provider tlsapi.Provider, config *tlsapi.ClientConfig) error {
	return probe(provider, func(transport net.Conn) (tlsapi.Conn, error) { return provider.Client(transport, config) })
}

func probe(provider tlsapi.Provider, connection func(net.Conn) (tlsapi.Conn, error)) error {
	if err := provider.Available(); err != nil {
		return err
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	unused, err := connection(near)
	if err != nil {
		return err
	}
	// It has said nothing yet.
	_ = unused.Close()
	return nil
}

// digest is the same for listeners that do the same with their connections
// after the handshake. Certificates and all other settings of TLS towards
// clients are not part of it: they can be exchanged while connections live on.
func (l *Listener) digest() [32]byte {
	h := sha256.New()
	plain := *l
	plain.Provider, plain.TLS, plain.Backends, plain.MaxConnections = nil, nil, nil, 0
	fmt.Fprintf(h, "%+v;%q;", plain, l.TLS.ALPN)
	for _, b := range l.Backends {
		plain := *b
		plain.Provider, plain.TLS = nil, nil
		fmt.Fprintf(h, "%+v;", plain)
		if b.Provider != nil {
			fmt.Fprintf(h, "%s,%x;", b.Provider.Name(), b.TLS.Digest())
		}
	}
	return [32]byte(h.Sum(nil))
}
