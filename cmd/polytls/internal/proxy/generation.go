package proxy

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/tlsapi"
)

// generation serves the connections of a socket as one configuration says.
type generation struct {
	config  *Listener
	serves  [32]byte // digest of config
	tls     atomic.Pointer[tlsSettings]
	limit   *limit // the socket's
	log     *slog.Logger
	access  *atomic.Pointer[AccessLog] // the server's
	metrics *listenerMetrics
	pool    *pool
	http    *httptls.Server // nil in mode tcp
	queue   *queue          // of http

	// leaving says that connections of HTTP are to end with their next response.
	leaving atomic.Bool

	mu      sync.Mutex
	conns   map[*conn]struct{}
	open    int  // with those that have no conn yet
	ending  bool // when nothing is open, the end has come
	over    bool
	overCh  chan struct{} // closed when it is over
	cutting bool
	cut     context.CancelFunc // when connections are cut off
	uncut   context.Context    // ends then
	stopped sync.WaitGroup
	finOnce sync.Once
}

// tlsSettings are exchanged while connections live on.
type tlsSettings struct {
	provider tlsapi.Provider
	config   *tlsapi.ServerConfig
}

func newGeneration(l *Listener, options Options, access *atomic.Pointer[AccessLog]) (*generation, error) {
	g := &generation{
		config: l, serves: l.digest(), log: options.Log.With("listener", l.Name), access: access,
		metrics: options.Metrics.listener(l.Name), conns: make(map[*conn]struct{}),
		overCh: make(chan struct{}),
	}
	g.uncut, g.cut = context.WithCancel(context.Background())
	g.useTLS(l)
	var err error
	if g.pool, err = newPool(l, g.metrics); err != nil {
		return nil, err
	}
	if l.Mode == HTTP {
		if err := g.startHTTP(); err != nil {
			return nil, err
		}
	}
	g.stopped.Go(g.watchTimeouts)
	return g, nil
}

// servesAs reports whether a listener's connections are served in the same way
// after their handshakes.
func (g *generation) servesAs(l *Listener) bool { return g.serves == l.digest() }

// useTLS is for connections to come.
func (g *generation) useTLS(l *Listener) {
	config := *l.TLS
	if l.Mode == HTTP && config.ALPN == nil {
		config.ALPN = tlsapi.ALPNH2H1()
	}
	provider := g.metrics.provider(l.Provider)
	if old := g.tls.Load(); old != nil && old.provider.Name() == provider.Name() && old.config.Digest() == config.Digest() {
		// The same object: the provider need not check it again.
		return
	}
	g.tls.Store(&tlsSettings{provider: provider, config: &config})
}

// take serves an accepted connection, which it then owns with its place in the
// limit. It is false when the generation is over.
func (g *generation) take(accepted net.Conn) bool {
	g.mu.Lock()
	if g.over {
		g.mu.Unlock()
		return false
	}
	g.open++
	g.mu.Unlock()
	t := &transport{Conn: accepted, generation: g}
	if g.http == nil {
		go g.serveTCP(t)
		return true
	}
	select {
	case g.queue.accepted <- t:
	case <-g.uncut.Done():
		accepted.Close()
		g.release()
	}
	return true
}

// add makes a connection known to watchTimeouts and cutOff.
func (g *generation) add(c *conn) {
	g.mu.Lock()
	g.conns[c] = struct{}{}
	cutting := g.cutting
	g.mu.Unlock()
	g.metrics.open.Inc()
	if cutting {
		c.cut()
	}
}

// remove gives the place of a connection back.
func (g *generation) remove(c *conn) {
	g.mu.Lock()
	delete(g.conns, c)
	g.mu.Unlock()
	g.metrics.open.Dec()
	g.release()
}

// release gives the place of a connection back that was never added.
func (g *generation) release() {
	g.mu.Lock()
	g.open--
	g.endLocked()
	g.mu.Unlock()
	g.limit.release()
}

func (g *generation) endLocked() {
	if g.ending && g.open == 0 && !g.over {
		g.over = true
		close(g.overCh)
	}
}

// retire makes the connections of HTTP end with their next response.
func (g *generation) retire() { g.leaving.Store(true) }

// ended returns a channel that is closed when the last connection is gone; the
// generation takes none after that.
func (g *generation) ended() <-chan struct{} {
	g.mu.Lock()
	g.ending = true
	g.endLocked()
	g.mu.Unlock()
	return g.overCh
}

// drain waits for the end of a generation that is retired: connections of HTTP
// without a request are left open for the time of grace and then closed, and
// everything is cut off when ctx ends. It returns how many connections were in
// use then.
func (g *generation) drain(ctx context.Context, grace time.Duration) int {
	patience := time.NewTimer(grace)
	defer patience.Stop()
	select {
	case <-g.ended():
		return 0
	case <-ctx.Done():
	case <-patience.C:
		if g.http != nil {
			// It returns the context's error when that ends first.
			_ = g.http.Shutdown(ctx)
		}
		select {
		case <-g.ended():
			return 0
		case <-ctx.Done():
		}
	}
	n := g.cutOff()
	<-g.ended()
	return n
}

// cutOff closes all connections and returns how many of them were in use.
func (g *generation) cutOff() (n int) {
	g.mu.Lock()
	if !g.cutting {
		g.cutting = true
		g.cut()
	}
	conns := make([]*conn, 0, len(g.conns))
	for c := range g.conns {
		conns = append(conns, c)
	}
	g.mu.Unlock()
	for _, c := range conns {
		if c.inUse() {
			n++
		}
		c.cut()
	}
	return n
}

// finish releases what a generation without connections holds.
func (g *generation) finish() {
	g.finOnce.Do(func() {
		g.ended() // Nothing is open: it is over.
		if g.http != nil {
			g.http.Close()
		}
		g.pool.close()
		g.cut()
	})
	g.stopped.Wait()
}

// watchTimeouts closes connections that are past a limit. One look at all of
// them now and then is cheaper than a timer for each.
func (g *generation) watchTimeouts() {
	idle, stall := g.config.IdleTimeout, g.config.StallTimeout
	shortest := stall
	if shortest == 0 || idle > 0 && idle < stall {
		shortest = idle
	}
	if shortest == 0 {
		return
	}
	ticker := time.NewTicker(min(max(shortest/8, 5*time.Millisecond), time.Second))
	defer ticker.Stop()
	for {
		select {
		case <-g.overCh:
			return
		case <-ticker.C:
		}
		now := clock()
		var overdue []*conn
		g.mu.Lock()
		for c := range g.conns {
			if c.overdue(now, idle, stall) {
				overdue = append(overdue, c)
			}
		}
		g.mu.Unlock()
		for _, c := range overdue {
			g.metrics.timeouts.Inc()
			c.cut()
		}
	}
}

// startHTTP makes the server of net/http.
func (g *generation) startHTTP() error {
	l := g.config
	g.queue = &queue{accepted: make(chan *transport), closed: make(chan struct{})}
	settings := g.tls.Load()
	listener, err := httptls.NewListener(g.queue, terminator{settings.provider, g}, settings.config)
	if err != nil {
		return err
	}
	// The configuration's timeout and the limit of connections say enough.
	listener.HandshakeTimeout = -1
	listener.MaxPendingHandshakes = l.MaxConnections
	g.http = &httptls.Server{
		Provider: settings.provider,
		Server: http.Server{
			Handler:           g.handler(),
			ReadHeaderTimeout: l.HeaderTimeout,
			IdleTimeout:       l.IdleTimeout,
			MaxHeaderBytes:    l.MaxHeaderBytes,
			ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
			Protocols:         protocolsOf(settings.config.ALPN),
			// A request whose body nobody reads does not hear of its client.
			BaseContext: func(net.Listener) context.Context { return g.uncut },
		},
	}
	g.stopped.Go(func() {
		// It ends when finish closes it, with nothing to tell.
		_ = g.http.Serve(listener)
	})
	return nil
}

func protocolsOf(alpn []string) *http.Protocols {
	protocols := new(http.Protocols)
	for _, protocol := range alpn {
		switch protocol {
		case "h2":
			protocols.SetHTTP2(true)
		case "http/1.1":
			protocols.SetHTTP1(true)
		}
	}
	return protocols
}

// terminator is the provider of a generation: its connections are of the
// configuration that is current when a client comes.
type terminator struct {
	tlsapi.Provider
	generation *generation
}

func (t terminator) Server(accepted net.Conn, config *tlsapi.ServerConfig) (tlsapi.Conn, error) {
	if accepted, ok := accepted.(*transport); ok {
		return t.generation.serverConn(accepted)
	}
	// httptls tries a configuration before it listens.
	return t.Provider.Server(accepted, config)
}

// queue is the listener that httptls sees.
type queue struct {
	accepted chan *transport
	closed   chan struct{}
	closing  sync.Once
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case t := <-q.accepted:
		return t, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.closing.Do(func() { close(q.closed) })
	return nil
}

// Addr is what logs of net/http would show.
func (q *queue) Addr() net.Addr { return &net.TCPAddr{} }
