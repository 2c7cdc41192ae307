package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/polytls/polytls/internal/handshakelog"
	"github.com/polytls/polytls/tlsapi"
)

const serveHelp = `Listens on ADDR (default 127.0.0.1:4433; port 0 lets the system choose), runs
TLS handshakes and sends everything back that clients send.

With --root it serves the files of a folder over HTTP instead; nothing outside
of the folder, links that lead out of it neither. With --page it shows what was
negotiated to whom: a page for browsers, JSON where the client prefers it (Accept)
and at /json, with the keys
  {"provider","library_version","version","cipher_suite","group",
   "signature_scheme","alpn","protocol","resumed","server_name","verified",
   "hello_retry_request","key_shares","psk_identity","remote_address","ocsp",
   "peer":{"subject","organization","serial","sha256","not_after","dns_names",
   "ip_addresses"}}
where "peer" is the client's certificate. --page offers HTTP/2 and HTTP/1.1,
--root HTTP/1.1 alone; --alpn changes it, with both.

The address that it listens on is printed to stdout, with --json as one line
  {"provider","library_version","address"}
and one line per connection to stderr (see --log-level). A client that fails never
stops the server. SIGINT and SIGTERM stop it: requests and data under way are
finished within 5 s; a second signal ends it at once. SIGHUP reads the files of
the flags again (certificates, keys, revocation lists, OCSP responses, ticket
keys) for the connections to come; a mistake in them leaves everything as it was.

Without GOGC in the environment it is 400: memory of short connections is
collected seldom. On Linux it starts itself again, in the same process, with a
timer slack of 2 ms, unless it has as much.

An option that the provider does not support is refused at the start.`

const serveExample = `  polytls serve --cert server.pem --key server.key
  polytls serve 127.0.0.1:8443 --provider openssl --cert server.pem --key server.key --root ./public
  polytls serve --cert server.pem --key server.key --page --provider boringssl
  polytls serve --cert server.pem --key server.key --client-auth require-and-verify --client-ca ca.pem --alpn H2H1
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout server.key -out server.pem`

// stopTime is how long connections may go on after the signal to stop.
const stopTime = 5 * time.Second

type serveCommand struct {
	flags          serverFlags
	root           string
	page           bool
	once           bool
	maxConnections int
	idleTimeout    time.Duration
	logLevel       string
}

func newServeCommand() *cobra.Command {
	c := &serveCommand{}
	cmd := &cobra.Command{
		Use:     "serve [ADDR]",
		Short:   "Serve TLS: echo, the files of a folder, or a page that shows what was negotiated",
		Long:    serveHelp,
		Example: serveExample,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.run(cmd, append(args, "127.0.0.1:4433")[0])
		},
	}
	c.flags.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&c.root, "root", "", "serve the files of this `folder` over HTTP instead of echoing")
	flags.BoolVar(&c.page, "page", false, "show what was negotiated over HTTP instead of echoing, as HTML or JSON")
	flags.BoolVar(&c.once, "once", false, "serve one connection and exit; the exit status tells how it went")
	flags.IntVar(&c.maxConnections, "max-connections", 1000, "most connections at a time; more wait")
	flags.DurationVar(&c.idleTimeout, "idle-timeout", 5*time.Minute, "longest time without data on a connection; 0 for no limit")
	flags.StringVar(&c.logLevel, "log-level", "info", "`least` that is logged: info (every connection), warn (those that fail) or error")
	complete(cmd, "log-level", []string{"info", "warn", "error"})
	if err := cmd.MarkFlagDirname("root"); err != nil {
		panic(err) // The flag does not exist: a mistake in this package.
	}
	return cmd
}

func (c *serveCommand) run(cmd *cobra.Command, address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return usagef("%q is not of the form HOST:PORT; port 0 lets the system choose, :PORT is every address of this machine", address)
	}
	if c.maxConnections < 1 {
		return usagef("--max-connections: %d is less than 1", c.maxConnections)
	}
	if c.idleTimeout < 0 {
		return usagef("--idle-timeout: %v is negative", c.idleTimeout)
	}
	if c.root != "" && c.page {
		return usagef("--root and --page: give one of both")
	}
	if err := c.chooseHTTP(); err != nil {
		return err
	}
	level, ok := map[string]slog.Level{"info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}[c.logLevel]
	if !ok {
		return usagef("--log-level: %q is none of info, warn and error", c.logLevel)
	}
	config, err := c.flags.serverConfig(cmd)
	if err != nil {
		return err
	}
	if err := c.probe(config); err != nil {
		return err
	}
	collectSeldom()
	s := &tlsServer{
		provider:    c.flags.provider,
		idleTimeout: c.idleTimeout,
		log:         slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level})),
	}
	s.config.Store(config)
	defer c.reloadOnSignal(cmd, s)()
	var files *os.Root
	if c.root != "" {
		if files, err = os.OpenRoot(c.root); err != nil {
			return fmt.Errorf("--root: %w", err)
		}
		defer files.Close()
	}
	listener, err := c.listen(cmd.Context(), address)
	if err != nil {
		return err
	}
	mode := "echo"
	s.serve = s.echo
	var handler http.Handler
	switch {
	case files != nil:
		mode, handler = "files of "+c.root, http.FileServerFS(folder{files})
	case c.page:
		mode, handler = "page at https://"+listener.Addr().String()+"/", pageHandler(requestConn)
	}
	accept := s.acceptAll
	if handler != nil {
		web := s.newWebServer(handler)
		defer web.stop()
		// net/http has to be told which connections speak HTTP/2.
		if c.once || slices.Contains(config.ALPN, "h2") {
			web.serveQueue(listener.Addr())
			s.serve = web.serve
		} else {
			accept = web.acceptAll
		}
	}
	if err := c.announce(cmd, listener.Addr(), mode); err != nil {
		return errors.Join(err, listener.Close())
	}
	if c.once {
		return s.acceptOne(cmd.Context(), listener)
	}
	return accept(cmd.Context(), listener, c.maxConnections)
}

// listen listens without TCP keepalive where silent connections end anyway: it
// costs four system calls a connection.
func (c *serveCommand) listen(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	if c.idleTimeout > 0 {
		config.KeepAlive = -1
	}
	return config.Listen(ctx, "tcp", address)
}

// folder is the file system of a root.
type folder struct{ root *os.Root }

// Open opens without waiting, also for the other end of a pipe that lies in the
// folder. For Go such a file is ready to be polled, which saves four system calls.
func (f folder) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return f.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// chooseHTTP sets the protocols to offer where HTTP is served.
func (c *serveCommand) chooseHTTP() error {
	alpn := &c.flags.settings.ALPN
	switch {
	case c.root == "" && !c.page:
	case *alpn != nil:
		for _, protocol := range *alpn {
			if protocol != "h2" && protocol != "http/1.1" {
				return usagef("--alpn: --root and --page serve h2 and http/1.1, not %s", protocol)
			}
		}
	case c.page:
		*alpn = tlsapi.ALPNH2H1()
	default:
		*alpn = tlsapi.ALPNH1()
	}
	return nil
}

// reloadOnSignal replaces the configuration at every SIGHUP until the returned
// function is called. Connections keep what they began with.
func (c *serveCommand) reloadOnSignal(cmd *cobra.Command, s *tlsServer) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		for range signals {
			config, err := c.flags.serverConfig(cmd)
			if err == nil {
				err = c.probe(config)
			}
			if err != nil {
				s.log.Error("the files were not read again, the old configuration stays", "error", err)
				continue
			}
			s.config.Store(config)
			s.log.Info("read the files again")
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
	}
}

// probe makes a connection that is never used, so that what the provider
// refuses stops the command and not every client.
func (c *serveCommand) probe(config *tlsapi.ServerConfig) error {
	if err := c.flags.provider.Available(); err != nil {
		return err
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	conn, err := c.flags.provider.Server(near, config)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (c *serveCommand) announce(cmd *cobra.Command, address net.Addr, mode string) error {
	p := c.flags.provider
	if wantsJSON(cmd) {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
			Provider       string `json:"provider"`
			LibraryVersion string `json:"library_version"`
			Address        string `json:"address"`
		}{p.Name(), p.LibraryVersion(), address.String()})
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "listening on %s (%s %s, %s)\n", address, p.Name(), p.LibraryVersion(), mode)
	return err
}

// tlsServer runs the TLS connections of one listener.
type tlsServer struct {
	provider    tlsapi.Provider
	config      atomic.Pointer[tlsapi.ServerConfig]
	idleTimeout time.Duration
	log         *slog.Logger
	// serve uses a connection after its handshake; it returns at its end, and
	// soon after ctx has ended.
	serve func(ctx context.Context, conn tlsapi.Conn) error
}

func (s *tlsServer) acceptOne(ctx context.Context, listener net.Listener) error {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	transport, err := listener.Accept()
	if ctx.Err() != nil {
		return nil
	}
	if err := errors.Join(err, listener.Close()); err != nil {
		return err
	}
	return s.handle(ctx, transport)
}

func (s *tlsServer) acceptAll(ctx context.Context, listener net.Listener, maxConnections int) error {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	var connections errgroup.Group
	connections.SetLimit(maxConnections)
	for {
		transport, err := s.accept(ctx, listener)
		if err != nil && ctx.Err() != nil {
			s.log.Info("stopping")
			return connections.Wait()
		}
		if err != nil {
			return errors.Join(err, connections.Wait())
		}
		connections.Go(func() error {
			// It has been logged, and must not end the others.
			_ = s.handle(ctx, transport)
			return nil
		})
	}
}

// accept waits for a client. Its error is net.ErrClosed, at the end of ctx or of
// the listener.
func (s *tlsServer) accept(ctx context.Context, listener net.Listener) (net.Conn, error) {
	for {
		transport, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				transport.Close()
			}
			return nil, net.ErrClosed
		case err == nil || errors.Is(err, net.ErrClosed):
			return transport, err
		}
		// Too many open files, or a client that is already gone.
		s.log.Error("accept", "error", err)
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// handle runs one connection to its end and logs how it went.
func (s *tlsServer) handle(ctx context.Context, transport net.Conn) error {
	conn, err := s.newConn(transport)
	if err != nil {
		return err
	}
	defer conn.Close()
	attributes, err := s.handshake(ctx, conn)
	if err != nil {
		return err
	}
	if err := s.serve(ctx, conn); err != nil {
		if len(attributes) == 0 {
			attributes = []any{clientAttribute(conn)}
		}
		s.log.Warn("connection failed", append(attributes, "kind", tlsapi.KindOf(err).Name(), "error", handshakelog.Text(err.Error()))...)
		return err
	}
	s.log.Info("connection ended", attributes...)
	return nil
}

// newConn makes the connection of a client. Its error has been logged.
func (s *tlsServer) newConn(transport net.Conn) (tlsapi.Conn, error) {
	conn, err := s.provider.Server(transport, s.config.Load())
	if err != nil {
		s.log.Error("configuration refused", clientAttribute(transport), "error", handshakelog.Text(err.Error()))
		return nil, errors.Join(err, transport.Close())
	}
	return conn, nil
}

// handshake returns what the log says of the connection, nothing where it does not
// tell of all. Its error has been logged.
func (s *tlsServer) handshake(ctx context.Context, conn tlsapi.Conn) (attributes []any, err error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		s.log.Warn("handshake failed", clientAttribute(conn), "kind", tlsapi.KindOf(err).Name(), "error", handshakelog.Text(err.Error()))
		return nil, err
	}
	if s.log.Enabled(ctx, slog.LevelInfo) {
		attributes = append([]any{clientAttribute(conn)}, connectionAttributes(conn)...)
	}
	return attributes, nil
}

func clientAttribute(conn net.Conn) slog.Attr {
	return slog.String("client", conn.RemoteAddr().String())
}

func connectionAttributes(conn tlsapi.Conn) []any {
	r := describeConnection(conn)
	attributes := []any{"version", r.Version, "suite", r.CipherSuite}
	for _, a := range []struct{ key, value string }{
		{"group", r.Group}, {"alpn", r.ALPN}, {"server_name", r.ServerName}, {"psk", r.PSKIdentity},
	} {
		if a.value != "" {
			attributes = append(attributes, a.key, handshakelog.Text(a.value))
		}
	}
	if r.Resumed {
		attributes = append(attributes, "resumed", true)
	}
	if r.Peer != nil {
		attributes = append(attributes, "peer", handshakelog.Text(r.Peer.Subject), "verified", r.Verified)
	}
	return attributes
}

// echo sends back what comes until the client closes.
func (s *tlsServer) echo(ctx context.Context, conn tlsapi.Conn) error {
	stop := context.AfterFunc(ctx, func() {
		// What has been read is still written.
		_ = conn.SetReadDeadline(time.Now())
		time.AfterFunc(stopTime, func() { conn.Close() })
	})
	defer stop()
	buf := make([]byte, 32<<10)
	for {
		if s.idleTimeout > 0 {
			if err := conn.SetDeadline(time.Now().Add(s.idleTimeout)); err != nil {
				return err
			}
		}
		// Only after the deadline was set: it may have replaced the one above.
		if ctx.Err() != nil {
			return nil
		}
		n, err := conn.Read(buf)
		if n > 0 {
			if _, err := conn.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF || err != nil && ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
	}
}

// webServer hands connections to net/http: with HTTP/1.1 alone before their
// handshake (acceptAll), otherwise after it (serveQueue and serve).
type webServer struct {
	tls         *tlsServer
	http        *http.Server
	queue       *connQueue
	idleTimeout time.Duration
}

// requestConn is the connection of a request of a webServer.
func requestConn(r *http.Request) tlsapi.Conn {
	return r.Context().Value(requestConnKey{}).(tlsapi.Conn)
}

type requestConnKey struct{}

func (s *tlsServer) newWebServer(handler http.Handler) *webServer {
	w := &webServer{
		tls: s,
		http: &http.Server{
			Handler:           handler,
			Protocols:         new(http.Protocols),
			ReadHeaderTimeout: 10 * time.Second,
			ReadTimeout:       s.idleTimeout,
			IdleTimeout:       s.idleTimeout,
			ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
			ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
				if h, ok := conn.(http2Conn); ok {
					conn = h.Conn
				}
				return context.WithValue(ctx, requestConnKey{}, conn)
			},
		},
		idleTimeout: s.idleTimeout,
	}
	w.http.Protocols.SetHTTP1(true)
	w.http.Protocols.SetUnencryptedHTTP2(true)
	return w
}

// serveQueue serves the connections that serve gets.
func (w *webServer) serveQueue(address net.Addr) {
	w.queue = &connQueue{address: address, conns: make(chan net.Conn), done: make(chan struct{})}
	// It returns when the queue is closed, with nothing to tell.
	go func() { _ = w.http.Serve(w.queue) }()
}

// acceptAll is tlsServer.acceptAll for HTTP/1.1. A connection has one goroutine,
// that of net/http: two, and what they tell each other, cost a twentieth of a
// short connection more.
func (w *webServer) acceptAll(ctx context.Context, listener net.Listener, maxConnections int) error {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	l := &webListener{Listener: listener, ctx: ctx, tls: w.tls, slots: make(chan struct{}, maxConnections)}
	err := w.http.Serve(l)
	if ctx.Err() != nil {
		w.tls.log.Info("stopping")
		w.stop()
		err = nil
	}
	l.connections.Wait()
	return err
}

// http2Conn hides that a connection is TLS: an http.Server of Go 1.26 speaks
// HTTP/2 over *tls.Conn, and over what it takes for unencrypted.
type http2Conn struct{ net.Conn }

func (w *webServer) serve(ctx context.Context, conn tlsapi.Conn) error {
	watched := &watchedConn{idleConn: &idleConn{Conn: conn, limit: w.idleTimeout}, closed: make(chan struct{})}
	watched.watch()
	var served net.Conn = watched
	if conn.ConnectionState().NegotiatedProtocol == "h2" {
		served = http2Conn{watched}
	}
	select {
	case w.queue.conns <- served:
	case <-ctx.Done():
		return nil
	}
	select {
	case <-watched.closed:
	case <-ctx.Done():
		w.stop()
	}
	return nil
}

// stop finishes the requests under way.
func (w *webServer) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if w.http.Shutdown(ctx) != nil {
		w.http.Close()
	}
}

// connQueue is a listener of connections that come from elsewhere.
type connQueue struct {
	address net.Addr
	conns   chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func (q *connQueue) Accept() (net.Conn, error) {
	select {
	case conn := <-q.conns:
		return conn, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *connQueue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

func (q *connQueue) Addr() net.Addr { return q.address }

// watchedConn tells when net/http is done with a connection.
type watchedConn struct {
	*idleConn
	closed chan struct{}
	once   sync.Once
}

func (c *watchedConn) Close() error {
	err := c.idleConn.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}

// idleConn ends a connection on which nothing moves: a peer that takes no data
// keeps net/http in Write, for which it has no such limit.
type idleConn struct {
	tlsapi.Conn
	limit time.Duration // 0 for none
	idle  atomic.Pointer[time.Timer]
}

// watch begins to count.
func (c *idleConn) watch() {
	if c.limit > 0 {
		c.idle.Store(time.AfterFunc(c.limit, func() { c.Conn.Close() }))
	}
}

func (c *idleConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.moved(n)
	return n, err
}

func (c *idleConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.moved(n)
	return n, err
}

func (c *idleConn) moved(n int) {
	if idle := c.idle.Load(); n > 0 && idle != nil {
		idle.Reset(c.limit)
	}
}

func (c *idleConn) Close() error {
	if idle := c.idle.Load(); idle != nil {
		idle.Stop()
	}
	return c.Conn.Close()
}

// webListener gives net/http connections whose handshake is still to come.
type webListener struct {
	net.Listener
	ctx         context.Context
	tls         *tlsServer
	slots       chan struct{}
	connections sync.WaitGroup
}

func (l *webListener) Accept() (net.Conn, error) {
	for {
		transport, err := l.tls.accept(l.ctx, l.Listener)
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
		case <-l.ctx.Done():
			transport.Close()
			return nil, net.ErrClosed
		}
		conn, err := l.tls.newConn(transport)
		if err != nil {
			<-l.slots
			continue
		}
		l.connections.Add(1)
		return &webConn{idleConn: idleConn{Conn: conn, limit: l.tls.idleTimeout}, listener: l}, nil
	}
}

// webConn runs its handshake when it is used for the first time, and logs how the
// connection went. net/http asks for ConnectionState in the connection's goroutine
// before it does anything else.
type webConn struct {
	idleConn
	listener   *webListener
	begin, end sync.Once
	attributes atomic.Pointer[[]any] // nil without a handshake that succeeded
}

// handshake reports whether there is a connection. net/http closes it if not.
func (c *webConn) handshake() bool {
	c.begin.Do(func() {
		if attributes, err := c.listener.tls.handshake(c.listener.ctx, c.Conn); err == nil {
			c.attributes.Store(&attributes)
			c.watch()
		}
	})
	return c.attributes.Load() != nil
}

func (c *webConn) ConnectionState() tls.ConnectionState {
	c.handshake()
	return c.Conn.ConnectionState()
}

func (c *webConn) Read(p []byte) (int, error) {
	if !c.handshake() {
		// Which net/http says nothing of: the handshake's error is in the log.
		return 0, io.EOF
	}
	return c.idleConn.Read(p)
}

func (c *webConn) Close() error {
	err := c.idleConn.Close()
	c.end.Do(func() {
		if attributes := c.attributes.Load(); attributes != nil {
			c.listener.tls.log.Info("connection ended", *attributes...)
		}
		<-c.listener.slots
		c.listener.connections.Done()
	})
	return err
}
