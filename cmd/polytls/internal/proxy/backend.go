package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/internal/nowait"
	"github.com/polytls/polytls/tlsapi"
)

const (
	defaultMaxIdle = 1024
	// keepTime is how long a connection to a backend without a request is kept:
	// less than servers usually do, so that the end is ours.
	keepTime = 30 * time.Second
	// expectTime is how long a request with Expect: 100-continue waits for the
	// backend's word.
	expectTime = time.Second
)

// pool has the backends of a generation and takes turns.
type pool struct {
	backends   []*backend
	turn       atomic.Uint32
	retryAfter time.Duration
	metrics    *listenerMetrics
}

type backend struct {
	config           *Backend
	network, address string
	connectTimeout   time.Duration
	provider         tlsapi.Provider      // nil without TLS
	tls              *tlsapi.ClientConfig // nil without TLS
	scheme, host     string               // of the URLs of its requests
	http             http.RoundTripper
	closeIdle        func()
	downUntil        atomic.Int64 // by clock
}

func newPool(l *Listener, metrics *listenerMetrics) (*pool, error) {
	p := &pool{retryAfter: l.RetryAfter, metrics: metrics}
	for _, config := range l.Backends {
		b := &backend{config: config, connectTimeout: l.ConnectTimeout, scheme: "http", closeIdle: func() {}}
		b.network, b.address = networkOf(config.Address)
		b.host = b.address
		if b.network == "unix" {
			b.host = "unix"
		}
		if config.Provider != nil {
			b.scheme, b.tls = "https", withSessions(config.Provider, config.TLS)
			b.provider = metrics.provider(config.Provider)
		}
		if l.Mode == HTTP {
			b.prepareHTTP(l.ResponseTimeout)
		}
		p.backends = append(p.backends, b)
	}
	return p, nil
}

// withSessions adds a cache for sessions, unless one is set or the provider has
// none: connections to a backend then resume.
func withSessions(provider tlsapi.Provider, config *tlsapi.ClientConfig) *tlsapi.ClientConfig {
	if config.SessionCache != nil || config.SessionTicketsDisabled {
		return config
	}
	cached := *config
	cached.SessionCache = tlsapi.NewLRUSessionCache(0)
	if probeClient(provider, &cached) != nil {
		return config
	}
	return &cached
}

func (b *backend) prepareHTTP(responseTimeout time.Duration) {
	idle := b.config.MaxIdle
	if idle == 0 {
		idle = defaultMaxIdle
	}
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			client, _ := httptls.ConnFromContext(ctx).(*conn)
			c, err := b.dial(ctx, client)
			if err != nil || b.tls != nil {
				return c, err
			}
			return nowait.Conn(c), nil
		},
		DisableCompression:    true,
		DisableKeepAlives:     b.config.SendProxy > 0,
		MaxIdleConnsPerHost:   idle,
		IdleConnTimeout:       keepTime,
		ResponseHeaderTimeout: responseTimeout,
		TLSHandshakeTimeout:   b.connectTimeout,
		ExpectContinueTimeout: expectTime,
		Protocols:             new(http.Protocols),
	}
	switch {
	case b.tls != nil && b.tls.ALPN != nil:
		t.Protocols = protocolsOf(b.tls.ALPN)
	case b.config.H2C:
		t.Protocols.SetUnencryptedHTTP2(true)
	default:
		t.Protocols.SetHTTP1(true)
	}
	b.http, b.closeIdle = t, t.CloseIdleConnections
	if b.tls != nil {
		secure := &httptls.Transport{Provider: b.provider, Config: b.tls, HTTP: t}
		b.http, b.closeIdle = secure, secure.CloseIdleConnections
	}
}

func (p *pool) close() {
	for _, b := range p.backends {
		b.closeIdle()
	}
}

// choose returns the backend whose turn it is and that was not tried, or nil.
// Those that have failed of late come last.
func (p *pool) choose(tried []*backend) *backend {
	if len(p.backends) == 1 {
		if len(tried) > 0 {
			return nil
		}
		return p.backends[0]
	}
	first := int(p.turn.Add(1))
	now := clock()
	var resting *backend
	for i := range p.backends {
		b := p.backends[(first+i)%len(p.backends)]
		switch {
		case contains(tried, b):
		case b.downUntil.Load() <= now:
			return b
		case resting == nil:
			resting = b
		}
	}
	return resting
}

func contains(list []*backend, b *backend) bool {
	for _, other := range list {
		if other == b {
			return true
		}
	}
	return false
}

// failed takes a backend out of turn for a while.
func (p *pool) failed(b *backend) {
	p.metrics.backendError(b.config.Address)
	if p.retryAfter > 0 {
		b.downUntil.Store(clock() + int64(p.retryAfter))
	}
}

// dialError is a failure before anything of a request was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// dial connects to the backend's address; TLS is not its matter.
func (b *backend) dial(ctx context.Context, client *conn) (net.Conn, error) {
	dialer := net.Dialer{Timeout: b.connectTimeout}
	c, err := dialer.DialContext(ctx, b.network, b.address)
	if err != nil {
		return nil, &dialError{err}
	}
	if b.config.SendProxy > 0 {
		header, err := proxyHeader(b.config.SendProxy, client)
		if err == nil {
			_, err = c.Write(header)
		}
		if err != nil {
			c.Close()
			return nil, &dialError{fmt.Errorf("PROXY protocol header: %w", err)}
		}
	}
	return c, nil
}

// connect makes a connection of mode tcp, to another backend when one fails, until
// ctx ends.
func (p *pool) connect(ctx context.Context, client *conn) (net.Conn, *backend, error) {
	var tried []*backend
	var errs []error
	for b := p.choose(nil); b != nil; b = p.choose(tried) {
		c, err := b.connect(ctx, client)
		if err == nil {
			return c, b, nil
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		p.failed(b)
		tried, errs = append(tried, b), append(errs, fmt.Errorf("backend %s: %w", b.config.Address, err))
	}
	return nil, nil, errors.Join(errs...)
}

func (b *backend) connect(ctx context.Context, client *conn) (net.Conn, error) {
	if b.connectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.connectTimeout)
		defer cancel()
	}
	c, err := b.dial(ctx, client)
	if err != nil || b.tls == nil {
		return c, err
	}
	secure, err := b.provider.Client(c, b.tls)
	if err != nil {
		c.Close()
		return nil, err
	}
	if err := secure.HandshakeContext(ctx); err != nil {
		secure.Close()
		return nil, err
	}
	return secure, nil
}

// RoundTrip implements http.RoundTripper: a request goes to the backend whose
// turn it is, and to another one when that fails and nothing is done twice by
// it. req is ReverseProxy's own copy.
func (p *pool) RoundTrip(req *http.Request) (*http.Response, error) {
	var tried []*backend
	var body *unreadBody
	if req.Body != nil && req.Body != http.NoBody {
		body = &unreadBody{ReadCloser: req.Body}
		req.Body = body
	}
	outgoing := req
	for b := p.choose(nil); ; {
		outgoing.URL.Scheme, outgoing.URL.Host = b.scheme, b.host
		response, err := b.http.RoundTrip(outgoing)
		if err == nil {
			if x := exchangeOf(req.Context()); x != nil {
				x.backend = b.config.Address
			}
			return response, nil
		}
		if req.Context().Err() != nil {
			return nil, err
		}
		if cause := body.failure(); cause != nil {
			return nil, &bodyError{cause}
		}
		err = fmt.Errorf("backend %s: %w", b.config.Address, err)
		p.failed(b)
		tried = append(tried, b)
		if !repeatable(req, body, err) {
			return nil, err
		}
		if b = p.choose(tried); b == nil {
			return nil, err
		}
		p.metrics.retries.Inc()
		// What is left of the attempt may still look at the request.
		outgoing = req.Clone(req.Context())
	}
}

// repeatable reports whether a failed request may be sent to another backend:
// when it was not sent at all, or when it is one that may be sent twice (RFC
// 9110 section 9.2.2) and failed before its time was up.
func repeatable(req *http.Request, body *unreadBody, err error) bool {
	if body != nil && body.read.Load() {
		return false
	}
	var dial *dialError
	var secure *tlsapi.Error
	if errors.As(err, &dial) || errors.As(err, &secure) && secure.Op == "handshake" {
		return true
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return false
	}
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return req.Header.Get("Upgrade") == ""
	}
	return false
}

// bodyError is a failure to read a request's body from the client.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "request body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// unreadBody knows whether a request's body was begun, and whether it broke off.
// Until it was begun a Close is of an attempt that has failed and closes nothing;
// ReverseProxy closes it in the end.
type unreadBody struct {
	io.ReadCloser
	read   atomic.Bool
	closed atomic.Bool
	broken atomic.Pointer[error]
}

func (b *unreadBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && !b.closed.Load() {
		cause := err // Kept apart, so that a Read allocates nothing.
		b.broken.CompareAndSwap(nil, &cause)
	}
	return n, err
}

// Close implements io.Closer.
func (b *unreadBody) Close() error {
	if !b.read.Load() {
		return nil
	}
	b.closed.Store(true)
	return b.ReadCloser.Close()
}

// failure is what the client's end of the body has come to, not what followed
// from the end of an attempt. A nil body has none.
func (b *unreadBody) failure() error {
	if b == nil || b.broken.Load() == nil {
		return nil
	}
	return *b.broken.Load()
}
