package httptls

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"reflect"
	"sync"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/polytls/polytls/tlsapi"
)

// maxPools bounds the sets of connections that a Transport keeps apart.
const maxPools = 256

// Transport is an http.RoundTripper whose https connections are those of a
// provider, with HTTP/1.1 and HTTP/2, also through HTTP, HTTPS and SOCKS5
// proxies. Response.TLS and the hooks of net/http/httptrace work as with
// http.Transport.
//
// The zero value with a Provider is usable. A Transport keeps connections:
// use one for many requests, and CloseIdleConnections at its end. It is safe for
// use by many goroutines at once; its fields must not be changed after the first
// request.
type Transport struct {
	// Provider makes the connections. It is required, unless Select is set.
	Provider tlsapi.Provider
	// Config is the configuration; nil means the default one. When its
	// ServerName is empty, the host of the URL is the name to verify; when it
	// is set, it counts for all hosts. When its ALPN is nil, h2 and http/1.1
	// are offered, as HTTP.Protocols says.
	Config *tlsapi.ClientConfig
	// Select, if not nil, chooses provider and configuration for each https
	// request, redirected ones included. Connections are reused only between
	// requests whose providers are the same and whose configurations are
	// interchangeable: whose ClientConfig.Digest is the same. Hooks of
	// configurations are told apart by instance, so use the same ones. Nil
	// means Provider and Config. An error fails the request.
	Select func(*http.Request) (tlsapi.Provider, *tlsapi.ClientConfig, error)
	// ProxyConfig is the configuration towards proxies with an https URL. Nil
	// means the request's, with the name of the proxy and without client
	// certificate, PSKs and AlternativeName.
	ProxyConfig *tlsapi.ClientConfig
	// HTTP has all other settings: Proxy, DialContext, timeouts, limits on
	// connections, Protocols, HTTP2. It is copied at the first request. Its
	// TLSClientConfig and its dial functions for TLS must not be set. Nil
	// means http.DefaultTransport's.
	HTTP *http.Transport

	prepared    sync.Once
	preparation error
	settings    *http.Transport // copy of HTTP
	plain       *http.Transport // for http URLs
	offered     []string
	pools       *lru.Cache[poolKey, *pool]
}

// poolKey is what connections have in common that may stand in for each other.
type poolKey struct {
	provider string
	config   [32]byte
	proxy    string
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.prepare(); err != nil {
		return nil, failed(req, err)
	}
	if req.URL == nil || req.URL.Scheme != "https" {
		return t.plain.RoundTrip(req)
	}
	p, err := t.poolFor(req)
	if err != nil {
		return nil, failed(req, err)
	}
	return p.roundTrip(req)
}

// CloseIdleConnections closes the connections without a request.
func (t *Transport) CloseIdleConnections() {
	if t.prepare() != nil {
		return
	}
	t.plain.CloseIdleConnections()
	for _, p := range t.pools.Values() {
		p.closeIdle()
	}
}

// failed closes the body, as every RoundTripper must.
func failed(req *http.Request, err error) error {
	if req.Body != nil {
		req.Body.Close()
	}
	return err
}

func (t *Transport) prepare() error {
	t.prepared.Do(func() { t.preparation = t.setUp() })
	return t.preparation
}

func (t *Transport) setUp() error {
	base := t.HTTP
	if base == nil {
		base = http.DefaultTransport.(*http.Transport)
	}
	t.settings = base.Clone()
	switch {
	case hasTLSSettings(t.settings.TLSClientConfig):
		return tlsapi.ConfigError("HTTP.TLSClientConfig", "it would have no effect; set Config")
	case t.settings.DialTLSContext != nil || t.settings.DialTLS != nil: //nolint:staticcheck // It must be refused.
		return tlsapi.ConfigError("HTTP.DialTLSContext", "it would have no effect; connections are the provider's")
	case t.Provider == nil && t.Select == nil:
		return errNoProvider()
	}
	http1, http2 := true, true
	_, configured := t.settings.TLSNextProto["h2"]
	switch p := t.settings.Protocols; {
	case p != nil:
		http1, http2 = p.HTTP1(), p.HTTP2()
	case t.settings.TLSNextProto != nil && !configured:
		http2 = false
	}
	if t.offered = offeredProtocols(http1, http2); t.offered == nil {
		return tlsapi.ConfigError("HTTP.Protocols", "neither HTTP/1.1 nor HTTP/2 is in it")
	}
	// What crypto/tls and a first use have left behind.
	t.settings.TLSClientConfig, t.settings.TLSNextProto = nil, nil

	t.plain = t.settings.Clone()
	t.plain.DialTLSContext = t.dialProxyOfPlainRequest
	var err error
	t.pools, err = lru.NewWithEvict(maxPools, func(_ poolKey, p *pool) { p.closeIdle() })
	return err
}

// hasTLSSettings reports whether a user has set anything. The first request of
// an http.Transport leaves a configuration with NextProtos behind.
func hasTLSSettings(config *tls.Config) bool {
	if config == nil {
		return false
	}
	v := reflect.ValueOf(config).Elem()
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.IsExported() && field.Name != "NextProtos" && !v.Field(i).IsZero() {
			return true
		}
	}
	return false
}

func (t *Transport) poolFor(req *http.Request) (*pool, error) {
	provider, config := t.Provider, t.Config
	if t.Select != nil {
		var err error
		if provider, config, err = t.Select(req); err != nil {
			return nil, err
		}
		if provider == nil {
			return nil, errNoProvider()
		}
	}
	var proxy *url.URL
	if t.settings.Proxy != nil {
		var err error
		if proxy, err = t.settings.Proxy(req); err != nil {
			return nil, err
		}
	}
	if config == nil {
		config = &tlsapi.ClientConfig{}
	}
	key := poolKey{provider: provider.Name()}
	if t.Select != nil {
		key.config = config.Digest()
	}
	if proxy != nil {
		key.proxy = proxy.String()
	}
	if p, ok := t.pools.Get(key); ok {
		return p, nil
	}
	p, err := t.newPool(provider, config, proxy)
	if err != nil {
		return nil, err
	}
	if first, ok, _ := t.pools.PeekOrAdd(key, p); ok {
		return first, nil
	}
	return p, nil
}

// pool has the connections of one provider, configuration and proxy. It keeps
// the configuration, whose digest is good for that long.
type pool struct {
	transport *Transport
	provider  tlsapi.Provider
	config    *tlsapi.ClientConfig
	proxy     *url.URL
	http      *http.Transport
	http2     http2Connections
}

func (t *Transport) newPool(provider tlsapi.Provider, config *tlsapi.ClientConfig, proxy *url.URL) (*pool, error) {
	p := &pool{transport: t, provider: provider, config: config, proxy: proxy, http: t.settings.Clone()}
	// The proxy belongs to dialTLS: http.Transport would run crypto/tls over
	// its connections to proxies.
	p.http.Proxy = nil
	p.http.DialTLSContext = p.dialTLS
	if t.offered[0] == "h2" {
		if err := p.http2.enable(p.http); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *pool) closeIdle() {
	p.http.CloseIdleConnections()
	p.http2.closeIdle()
}

// errHTTP2 is the end of a dial of http.Transport whose connection has turned
// out to speak HTTP/2, and is among http2Connections now.
var errHTTP2 = errors.New("httptls: the connection speaks HTTP/2")

// maxAttempts bounds how often a connection for HTTP/2 is made that is gone
// again before the request gets it.
const maxAttempts = 5

// requestKey is the context key of a *requestState.
type requestKey struct{}

// requestState goes with a request through http.Transport to dialTLS.
type requestState struct {
	authority string
	http1     bool // an upgrade, such as WebSocket's, which HTTP/2 does not have
	body      *heldBody
	conn      atomic.Pointer[tls.ConnectionState]
}

func (s *requestState) gotConn(info httptrace.GotConnInfo) {
	if conn, ok := info.Conn.(tlsapi.Conn); ok {
		state := conn.ConnectionState()
		s.conn.Store(&state)
	}
	s.body.release()
}

func (p *pool) roundTrip(req *http.Request) (*http.Response, error) {
	state := &requestState{
		authority: req.URL.Host,
		http1:     req.Header.Get("Upgrade") != "" && httpguts.HeaderValuesContainsToken(req.Header["Connection"], "upgrade"),
	}
	ctx := context.WithValue(req.Context(), requestKey{}, state)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: state.gotConn})
	inner := req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		state.body = &heldBody{ReadCloser: req.Body, held: true}
		inner.Body = state.body
	}
	for attempt := 1; ; attempt++ {
		resp, err := p.http.RoundTrip(inner)
		if errors.Is(err, errHTTP2) && attempt < maxAttempts {
			state.body.forget()
			continue
		}
		state.body.release()
		if err != nil {
			return nil, err
		}
		if resp.TLS == nil {
			resp.TLS = state.conn.Load()
		}
		resp.Request = req
		return resp, nil
	}
}

// heldBody is a request's body that stays open when http.Transport gives up a
// request that is tried again over HTTP/2. Nothing has been read from it then.
type heldBody struct {
	io.ReadCloser
	mu           sync.Mutex
	held, closed bool
}

// Close implements io.Closer.
func (b *heldBody) Close() error {
	b.mu.Lock()
	if b.held {
		b.closed = true
		b.mu.Unlock()
		return nil
	}
	b.mu.Unlock()
	return b.ReadCloser.Close()
}

// forget undoes a Close that was held back.
func (b *heldBody) forget() {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.closed = false
	b.mu.Unlock()
}

// release lets Close through from now on, an earlier one too.
func (b *heldBody) release() {
	if b == nil {
		return
	}
	b.mu.Lock()
	closing := b.held && b.closed
	b.held = false
	b.mu.Unlock()
	if closing {
		b.ReadCloser.Close()
	}
}

// dialTLS connects http.Transport to addr, through the proxy if there is one.
func (p *pool) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	state := ctx.Value(requestKey{}).(*requestState)
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	config := configForHost(p.config, host)
	if config.ALPN == nil {
		config.ALPN = p.transport.offered
	}
	if state.http1 {
		config.ALPN = tlsapi.ALPNH1()
	}
	transport, err := p.dialThroughProxy(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	conn, err := p.transport.handshake(ctx, p.provider, transport, config)
	if err != nil {
		return nil, err
	}
	switch protocol := conn.ConnectionState().NegotiatedProtocol; {
	case protocol == "h2" && p.transport.offered[0] == "h2" && !state.http1:
		return p.http2.add(state.authority, conn)
	case protocol == "h2", p.transport.offered[len(p.transport.offered)-1] == "h2":
		conn.Close()
		return nil, &tlsapi.Error{Provider: p.provider.Name(), Op: "handshake", Kind: tlsapi.KindNoALPN,
			Err: errors.New("the server speaks " + orHTTP1(protocol) + ", which HTTP.Protocols or an upgrade leaves out")}
	}
	return conn, nil
}

func orHTTP1(protocol string) string {
	if protocol == "" {
		return "http/1.1"
	}
	return protocol
}

// handshake is clientHandshake with what net/http does around it.
func (t *Transport) handshake(ctx context.Context, provider tlsapi.Provider, transport net.Conn, config *tlsapi.ClientConfig) (tlsapi.Conn, error) {
	if d := t.settings.TLSHandshakeTimeout; d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	trace := httptrace.ContextClientTrace(ctx)
	if trace != nil && trace.TLSHandshakeStart != nil {
		trace.TLSHandshakeStart()
	}
	conn, err := clientHandshake(ctx, provider, transport, config)
	if trace != nil && trace.TLSHandshakeDone != nil {
		var state tls.ConnectionState
		if err == nil {
			state = conn.ConnectionState()
		}
		trace.TLSHandshakeDone(state, err)
	}
	return conn, err
}
