package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/polytls/polytls/httptls"
)

// handler forwards requests.
func (g *generation) handler() http.Handler {
	forward := &httputil.ReverseProxy{
		Rewrite:        g.rewrite,
		Transport:      g.pool,
		BufferPool:     bodyBuffers{},
		ModifyResponse: g.modifyResponse,
		ErrorHandler:   g.backendFailed,
		ErrorLog:       slog.NewLogLogger(g.log.Handler(), slog.LevelWarn),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		x := &exchange{ResponseWriter: w}
		if client, ok := httptls.ConnFromContext(r.Context()).(*conn); ok {
			client.requests.Add(1)
			defer client.requests.Add(-1)
			client.http1.Store(r.ProtoMajor == 1)
		}
		if g.access.Load() != nil {
			r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
		}
		if r.ProtoMajor == 2 {
			x.stall = g.config.StallTimeout
		}
		defer func() {
			// ReverseProxy panics when a backend ends in the middle of a
			// response, so that the client sees that it does.
			duration := time.Since(began)
			g.metrics.request(x.status, duration)
			// A reload has closed the one from before.
			if access := g.access.Load(); access != nil {
				access.request(g.config.Name, r, x, duration)
			}
		}()
		if r.Method == http.MethodConnect {
			// Nothing is tunnelled, also not by a backend.
			x.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE")
			http.Error(x, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		if g.config.StallTimeout > 0 && r.Body != http.NoBody {
			r.Body = &impatientBody{ReadCloser: r.Body, control: http.NewResponseController(w), limit: g.config.StallTimeout}
		}
		forward.ServeHTTP(x, r)
		if x.stall > 0 && x.sent > 0 {
			// What net/http has kept of the response goes out after this.
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(x.stall))
		}
	})
}

// rewrite makes the request that the backend gets: the client's, with what the
// backend should know of the client. ReverseProxy has taken out the headers that
// say so and the headers of the connection.
func (g *generation) rewrite(p *httputil.ProxyRequest) {
	// It is of the connection, and not every client says so.
	p.Out.Header.Del("Http2-Settings")
	if leavesHTTP1(p.Out.Header.Get("Upgrade")) {
		p.Out.Header.Del("Connection")
		p.Out.Header.Del("Upgrade")
	}
	// Verbatim, also what Go would not parse.
	p.Out.URL.RawQuery = p.In.URL.RawQuery
	client, _ := httptls.ConnFromContext(p.In.Context()).(*conn)
	if client == nil || len(g.config.TrustedProxies) == 0 || !trusted(g.config.TrustedProxies, client.remote) {
		p.Out.Header.Del("X-Real-Ip")
		p.SetXForwarded()
		return
	}
	p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
	p.SetXForwarded()
	for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
		if told := p.In.Header[name]; told != nil {
			p.Out.Header[name] = told
		}
	}
}

// leavesHTTP1 reports whether an upgrade leads to HTTP in another form: a tunnel
// for requests that rewrite would not see.
func leavesHTTP1(upgrade string) bool {
	for protocol := range strings.SplitSeq(strings.ToLower(upgrade), ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(protocol), "/")
		switch name {
		case "h2c", "h2", "http", "tls":
			return true
		}
	}
	return false
}

func (g *generation) modifyResponse(response *http.Response) error {
	if response.StatusCode == http.StatusSwitchingProtocols {
		if client, ok := httptls.ConnFromContext(response.Request.Context()).(*conn); ok {
			client.attach(response.Body)
		}
		return nil
	}
	if g.leaving.Load() {
		// Over HTTP/2 it makes net/http send GOAWAY.
		response.Header.Set("Connection", "close")
	}
	return nil
}

// backendFailed answers when no backend has.
func (g *generation) backendFailed(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusBadGateway
	var timeout net.Error
	var body *bodyError
	switch {
	case r.Context().Err() != nil:
		// The client has gone. 499 is what nginx logs.
		g.metrics.abandoned.Inc()
		w.WriteHeader(statusClientGone)
		// A client that has only ended its sending would get an empty 200.
		panic(http.ErrAbortHandler)
	case errors.As(err, &body):
		status = http.StatusBadRequest
		if errors.As(err, &timeout) && timeout.Timeout() {
			status = http.StatusRequestTimeout
		}
		g.log.Debug("a request's body did not come", "method", r.Method, "host", r.Host, "error", err)
		http.Error(w, http.StatusText(status), status)
		return
	case errors.As(err, &timeout) && timeout.Timeout():
		status = http.StatusGatewayTimeout
	}
	g.log.Warn("no response from a backend", "method", r.Method, "host", r.Host, "error", err)
	if g.leaving.Load() {
		w.Header().Set("Connection", "close")
	}
	http.Error(w, http.StatusText(status), status)
}

const statusClientGone = 499

// exchange is one request and its response.
type exchange struct {
	http.ResponseWriter
	status  int
	sent    int64
	backend string

	// stall is the longest time that the client may take nothing of a response
	// over HTTP/2; zero for no limit. A stream waits for the client's window
	// while its connection is not blocked at all.
	stall   time.Duration
	mu      sync.Mutex
	waiting time.Time // since when; zero when nothing waits
	overdue *time.Timer
}

type exchangeKey struct{}

// exchangeOf is nil where nobody wants to know.
func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// WriteHeader implements http.ResponseWriter.
func (x *exchange) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		x.status = status
	}
	if status != statusClientGone {
		x.ResponseWriter.WriteHeader(status)
	}
}

// Write implements http.ResponseWriter.
func (x *exchange) Write(p []byte) (int, error) {
	x.await()
	defer x.done()
	n, err := x.ResponseWriter.Write(p)
	x.sent += int64(n)
	return n, err
}

// FlushError is for http.ResponseController.
func (x *exchange) FlushError() error {
	x.await()
	defer x.done()
	return http.NewResponseController(x.ResponseWriter).Flush()
}

// await begins a time in which the client must take something.
func (x *exchange) await() {
	if x.stall <= 0 {
		return
	}
	x.mu.Lock()
	x.waiting = time.Now()
	x.mu.Unlock()
	if x.overdue == nil {
		x.overdue = time.AfterFunc(x.stall, x.reset)
	} else {
		x.overdue.Reset(x.stall)
	}
}

// done ends it.
func (x *exchange) done() {
	if x.stall <= 0 {
		return
	}
	x.overdue.Stop()
	x.mu.Lock()
	x.waiting = time.Time{}
	x.mu.Unlock()
}

// reset ends the stream. While the handler waits, its ResponseWriter is alive.
func (x *exchange) reset() {
	x.mu.Lock()
	defer x.mu.Unlock()
	// The timer may have run out for a wait before this one.
	if !x.waiting.IsZero() && time.Since(x.waiting) >= x.stall {
		// Where there are no deadlines, there is no limit.
		_ = http.NewResponseController(x.ResponseWriter).SetWriteDeadline(time.Unix(1, 0))
	}
}

// Unwrap is for http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// impatientBody is a request's body whose next part must come in time.
type impatientBody struct {
	io.ReadCloser
	control *http.ResponseController
	limit   time.Duration
}

func (b *impatientBody) Read(p []byte) (int, error) {
	// Where there are no deadlines, there is no limit.
	_ = b.control.SetReadDeadline(time.Now().Add(b.limit))
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		// From here on net/http reads to learn whether the client is there.
		// After a failure it reads what is left of the body, which the limit is
		// for as well.
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// attach ties what is at the other end to a connection that both ends use as
// they like: they end together.
func (c *conn) attach(other io.Closer) {
	c.other.Store(&other)
	c.streaming.Store(true)
}

// bodyBuffers are copyBuffers in the form that ReverseProxy wants.
type bodyBuffers struct{}

func (bodyBuffers) Get() []byte  { return copyBuffers.Get().(*copyBuffer)[:] }
func (bodyBuffers) Put(p []byte) { copyBuffers.Put((*copyBuffer)(p)) }

// pathOf is what the access log shows of a URL.
func pathOf(r *http.Request, queries bool) string {
	if queries {
		return r.RequestURI
	}
	path, _, _ := strings.Cut(r.RequestURI, "?")
	return path
}
