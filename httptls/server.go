package httptls

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/polytls/polytls/tlsapi"
)

// Server is an http.Server whose connections are those of a provider. Set the
// fields of http.Server as usual, all but TLSConfig, for which Config is there:
//
//	srv := &httptls.Server{
//		Server:   http.Server{Addr: ":8443", Handler: mux},
//		Provider: openssl.Provider,
//	}
//	err := srv.ListenAndServeTLS("server.pem", "server-key.pem")
//
// HTTP/1.1 and HTTP/2 are served as Protocols says (both by default). Handlers
// find the connection in Request.TLS, and what that has no field for with
// ConnFromContext. ConnContext and ConnState are called with the tlsapi.Conn.
//
// Serving changes Handler, ConnContext, ConnState, Protocols and ErrorLog of the
// embedded http.Server: they must not be set after that. The server serves TLS only; for
// plain HTTP use another http.Server.
type Server struct {
	http.Server

	// Provider makes the connections. It is required.
	Provider tlsapi.Provider
	// Config is the configuration. Nil is allowed where certificate files are
	// given. When its ALPN is nil, the protocols that are served are offered,
	// h2 before http/1.1; so are they when a configuration that its
	// GetConfigForClient returns has none.
	Config *tlsapi.ServerConfig
	// Log receives failed handshakes as Listener.Log does, and what http.Server
	// writes to its ErrorLog, at slog.LevelWarn, unless that is set. Nil, the
	// default, means that failed handshakes are not logged and that http.Server
	// does as it is used to.
	Log *slog.Logger

	prepared     sync.Once
	preparation  error
	http1, http2 bool
	arrivals     http2Arrivals
}

// ListenAndServeTLS listens on Addr (":https" when it is empty) and serves, as
// that of http.Server does. The files are PEM or DER; both empty means the
// certificates of Config.
func (s *Server) ListenAndServeTLS(certFile, keyFile string) error {
	addr := s.Addr
	if addr == "" {
		addr = ":https"
	}
	inner, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer inner.Close()
	return s.ServeTLS(inner, certFile, keyFile)
}

// ListenAndServe is ListenAndServeTLS with the certificates of Config. It does
// not serve plain HTTP.
func (s *Server) ListenAndServe() error { return s.ListenAndServeTLS("", "") }

// ServeTLS runs TLS over the connections of inner and serves them. The files
// are those of ListenAndServeTLS. It returns http.ErrServerClosed after
// Shutdown or Close, and closes inner in any case.
func (s *Server) ServeTLS(inner net.Listener, certFile, keyFile string) error {
	defer inner.Close()
	if err := s.prepare(); err != nil {
		return err
	}
	var config tlsapi.ServerConfig
	if s.Config != nil {
		config = *s.Config
	}
	if certFile != "" || keyFile != "" {
		cert, err := tlsapi.LoadCertificate(certFile, keyFile)
		if err != nil {
			return err
		}
		config.Certificates = []tls.Certificate{cert}
	}
	if config.ALPN == nil {
		config.ALPN = offeredProtocols(s.http1, s.http2)
		if hook := config.GetConfigForClient; hook != nil {
			config.GetConfigForClient = withProtocols(hook, config.ALPN)
		}
	}
	l, err := NewListener(inner, s.Provider, &config)
	if err != nil {
		return err
	}
	return s.Serve(l)
}

// Serve serves the connections of a *Listener, with its provider and
// configuration; over any other listener it is ServeTLS with the certificates
// of Config.
func (s *Server) Serve(l net.Listener) error {
	tlsListener, ok := l.(*Listener)
	if !ok {
		return s.ServeTLS(l, "", "")
	}
	defer l.Close()
	if err := s.prepare(); err != nil {
		return err
	}
	tlsListener.answering.Store(true)
	if tlsListener.Log == nil {
		tlsListener.Log = s.Log
	}
	return s.Server.Serve(&servedListener{Listener: tlsListener, server: s})
}

// Shutdown is that of http.Server: it stops listening, and waits for the requests
// that run and for the connections to become idle, or for ctx to end. Clients
// that have negotiated HTTP/2 and not begun with it are told at once that nothing
// of theirs is processed (GOAWAY, RFC 9113 section 6.8).
func (s *Server) Shutdown(ctx context.Context) error {
	s.arrivals.refuse(ctx)
	return s.Server.Shutdown(ctx)
}

// ConnFromContext returns the connection of a request, from the context of the
// http.Request that a handler of Server gets, or nil. Reading from it and
// writing to it would disturb the server.
func ConnFromContext(ctx context.Context) tlsapi.Conn {
	conn, _ := ctx.Value(connKey{}).(tlsapi.Conn)
	return conn
}

type connKey struct{}

func offeredProtocols(http1, http2 bool) []string {
	var alpn []string
	if http2 {
		alpn = append(alpn, "h2")
	}
	if http1 {
		alpn = append(alpn, "http/1.1")
	}
	return alpn
}

// withProtocols adds the protocols to what hook returns. The last result is kept,
// as hooks return the same one again and again, which providers recognize.
func withProtocols(hook func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error), alpn []string) func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
	type result struct{ of, config *tlsapi.ServerConfig }
	var last atomic.Pointer[result]
	return func(hello *tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
		chosen, err := hook(hello)
		if err != nil || chosen == nil || chosen.ALPN != nil {
			return chosen, err
		}
		if r := last.Load(); r != nil && r.of == chosen {
			return r.config, nil
		}
		config := *chosen
		config.ALPN = alpn
		last.Store(&result{of: chosen, config: &config})
		return &config, nil
	}
}

// prepare sets the embedded server up, before it serves for the first time.
//
// Up to Go 1.26 http.Server speaks HTTP/2 over *tls.Conn, and over connections
// that it takes for unencrypted: those without ConnectionState. So connections
// that have negotiated h2 come to it as an http2Conn, and Request.TLS is set
// here. Connections with HTTP/1.1 come as they are.
func (s *Server) prepare() error {
	s.prepared.Do(func() {
		if s.TLSConfig != nil {
			s.preparation = tlsapi.ConfigError("TLSConfig", "the http.Server's would have no effect; set Config")
			return
		}
		s.http1, s.http2 = true, true
		_, configured := s.TLSNextProto["h2"]
		switch {
		case s.Protocols != nil:
			s.http1, s.http2 = s.Protocols.HTTP1(), s.Protocols.HTTP2()
		case s.TLSNextProto != nil && !configured, http2SwitchedOff():
			s.http2 = false
		}
		if !s.http1 && !s.http2 {
			s.preparation = tlsapi.ConfigError("Protocols", "neither HTTP/1.1 nor HTTP/2 is in it; unencrypted HTTP/2 is not for this server")
			return
		}
		s.Protocols = new(http.Protocols)
		s.Protocols.SetHTTP1(s.http1)
		s.Protocols.SetUnencryptedHTTP2(s.http2)

		if s.Log != nil && s.ErrorLog == nil {
			s.ErrorLog = slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn)
		}
		handler := s.Handler
		s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.TLS == nil {
				if conn := ConnFromContext(r.Context()); conn != nil {
					state := conn.ConnectionState()
					r.TLS = &state
				}
			}
			if handler == nil {
				http.DefaultServeMux.ServeHTTP(w, r)
				return
			}
			handler.ServeHTTP(w, r)
		})
		connContext := s.ConnContext
		s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			c = revealed(c)
			ctx = context.WithValue(ctx, connKey{}, c)
			if connContext != nil {
				ctx = connContext(ctx, c)
			}
			return ctx
		}
		if connState := s.ConnState; connState != nil {
			s.ConnState = func(c net.Conn, state http.ConnState) { connState(revealed(c), state) }
		}
	})
	return s.preparation
}

// http2SwitchedOff follows net/http, which would not serve what we offer.
func http2SwitchedOff() bool {
	for setting := range strings.SplitSeq(os.Getenv("GODEBUG"), ",") {
		if setting == "http2server=0" {
			return true
		}
	}
	return false
}

// servedListener gives http.Server the connections in the form it needs.
type servedListener struct {
	*Listener
	server *Server
}

func (l *servedListener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		conn := accepted.(tlsapi.Conn)
		state := conn.ConnectionState()
		switch protocol := state.NegotiatedProtocol; {
		case protocol == "h2" && l.server.http2:
			if suiteForHTTP2(&state) {
				return l.server.arrivals.add(conn), nil
			}
			go rejectInsecure(conn)
		case (protocol == "" || protocol == "http/1.1" || protocol == "http/1.0") && l.server.http1:
			return conn, nil
		default:
			// Another protocol that the configuration offers; nobody is there
			// to speak it. net/http closes such connections, too.
			go conn.Close()
		}
	}
}
