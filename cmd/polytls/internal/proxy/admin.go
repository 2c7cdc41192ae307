package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// admin serves /metrics and /healthz over plain HTTP.
type admin struct {
	options  Options
	stopping atomic.Bool

	address  string // of the configuration
	listener net.Listener
	server   *http.Server
	next     *admin // between prepare and commit
}

func newAdmin(options Options) *admin { return &admin{options: options} }

// prepare listens on the address of a new configuration, if it is another.
func (a *admin) prepare(address string) error {
	a.next = nil
	if address == a.address {
		return nil
	}
	a.next = &admin{address: address}
	if address == "" {
		return nil
	}
	network, rest := networkOf(address)
	if network == "unix" {
		removeStale(rest)
	}
	var err error
	a.next.listener, err = net.Listen(network, rest)
	return err
}

// commit puts what was prepared in place.
func (a *admin) commit() {
	if a.next == nil {
		return
	}
	a.closeServer()
	a.address, a.listener = a.next.address, a.next.listener
	a.next = nil
	if a.listener == nil {
		return
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.options.Metrics.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", a.health)
	a.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(a.options.Log.Handler(), slog.LevelDebug),
	}
	server, listener := a.server, a.listener
	// It returns when it is closed.
	go func() { _ = server.Serve(listener) }()
}

func (a *admin) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if a.stopping.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, `{"status":"stopping"}`)
		return
	}
	fmt.Fprintln(w, `{"status":"ok"}`)
}

func (a *admin) close() {
	a.closeServer()
	a.server = nil
}

func (a *admin) closeServer() {
	if a.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if a.server.Shutdown(ctx) != nil {
		a.server.Close()
	}
}
