// Metrics is an HTTPS server that logs its handshakes, and counts its connections
// for Prometheus at an address of its own.
//
//	metrics -cert server.pem -key server-key.pem [-provider s2n] [-addr localhost:8448] [-admin localhost:9090]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/metrics"
	"github.com/polytls/polytls/promtls"
	"github.com/polytls/polytls/providers"
)

func main() {
	addr := flag.String("addr", "localhost:8448", "address to listen on")
	admin := flag.String("admin", "localhost:9090", "address of /metrics")
	cert := flag.String("cert", "server.pem", "certificate file")
	key := flag.String("key", "server-key.pem", "key file")
	name := flag.String("provider", "std", "TLS library")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *admin, *cert, *key, *name); err != nil {
		slog.Error("stopped", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, admin, cert, key, name string) error {
	provider, err := providers.Lookup(name)
	if err != nil {
		return err
	}
	// Handshakes that succeed are logged at LevelDebug, others at LevelWarn.
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	meter := &metrics.Meter{Log: log}
	prometheus.MustRegister(promtls.NewCollector(meter))

	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	adminListener, err := net.Listen("tcp", admin)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	srv := &httptls.Server{
		Server: http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, "hello")
		})},
		Provider: meter.Provider(provider), // all that it takes
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.Handler())
	adminSrv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	fmt.Println("listening on", listener.Addr())
	fmt.Println("metrics on", adminListener.Addr())

	ended := make(chan error, 2)
	go func() { ended <- srv.ServeTLS(listener, cert, key) }()
	go func() { ended <- adminSrv.Serve(adminListener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	limited, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(srv.Shutdown(limited), adminSrv.Shutdown(limited))
}
