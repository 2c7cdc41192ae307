package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/tlsapi"
)

// AccessLog has a line for every request, and for every connection of mode tcp.
// It shows neither headers nor, unless told to, queries: both hold secrets.
type AccessLog struct {
	// Queries shows what follows the question mark of a URL, too.
	Queries bool

	log  *slog.Logger
	path string

	mu   sync.Mutex
	file io.WriteCloser
}

// NewAccessLog appends to the file at path, or to w when path is empty. format
// is "text" or "json".
func NewAccessLog(path string, w io.Writer, format string) (*AccessLog, error) {
	a := &AccessLog{path: path}
	var out io.Writer = a
	if path == "" {
		out = w
	} else if err := a.Reopen(); err != nil {
		return nil, err
	}
	switch format {
	case "text":
		a.log = slog.New(slog.NewTextHandler(out, nil))
	case "json":
		a.log = slog.New(slog.NewJSONHandler(out, nil))
	default:
		return nil, errors.Join(errors.New("the format of the access log is neither text nor json"), a.Close())
	}
	return a, nil
}

// Reopen opens the file again, for the rotation of logs. When that fails, the
// old one stays in use.
func (a *AccessLog) Reopen() error {
	if a.path == "" {
		return nil
	}
	file, err := os.OpenFile(a.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	a.mu.Lock()
	old := a.file
	a.file = file
	a.mu.Unlock()
	if old != nil {
		return old.Close()
	}
	return nil
}

// Close closes the file.
func (a *AccessLog) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	err := a.file.Close()
	a.file = nil
	return err
}

// Write implements io.Writer for the handler of slog.
func (a *AccessLog) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return 0, os.ErrClosed
	}
	return a.file.Write(line)
}

func (a *AccessLog) request(listener string, r *http.Request, x *exchange, duration time.Duration) {
	attributes := []slog.Attr{
		slog.String("listener", listener),
		slog.String("client", r.RemoteAddr),
		slog.String("method", r.Method),
		slog.String("host", r.Host),
		slog.String("path", pathOf(r, a.Queries)),
		slog.String("protocol", r.Proto),
		slog.Int("status", x.status),
		slog.Int64("sent", x.sent),
		slog.Duration("duration", duration),
		slog.String("backend", x.backend),
		slog.String("user_agent", r.UserAgent()),
	}
	if c := httptls.ConnFromContext(r.Context()); c != nil {
		attributes = append(attributes, tlsAttribute(c))
	}
	a.log.LogAttrs(context.Background(), slog.LevelInfo, "request", attributes...)
}

// connectionRecord is what became of a connection of mode tcp.
type connectionRecord struct {
	listener, backend string
	received, sent    int64
	duration          time.Duration
	err               error
}

func (a *AccessLog) connection(c *conn, record *connectionRecord) {
	attributes := []slog.Attr{
		slog.String("listener", record.listener),
		slog.String("client", c.remote.String()),
		slog.Int64("received", record.received),
		slog.Int64("sent", record.sent),
		slog.Duration("duration", record.duration),
		slog.String("backend", record.backend),
		tlsAttribute(c),
	}
	if record.err != nil {
		attributes = append(attributes, slog.String("error", record.err.Error()))
	}
	a.log.LogAttrs(context.Background(), slog.LevelInfo, "connection", attributes...)
}

func tlsAttribute(c tlsapi.Conn) slog.Attr {
	info := c.Info()
	attributes := []any{
		slog.String("provider", info.Provider),
		slog.String("version", tlsapi.VersionName(info.Version)),
		slog.String("suite", tlsapi.CipherSuiteName(info.CipherSuite)),
		slog.String("server_name", info.ServerName),
		slog.Bool("resumed", info.Resumed),
	}
	if info.PeerSHA256 != "" {
		attributes = append(attributes, slog.String("client_certificate", info.PeerSHA256))
	}
	return slog.Group("tls", attributes...)
}
