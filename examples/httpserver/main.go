// Httpserver serves HTTP/1.1 and HTTP/2 over the TLS library of your choice.
//
//	httpserver -cert server.pem -key server-key.pem [-provider boringssl] [-addr :8443]
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

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/providers"
)

func main() {
	addr := flag.String("addr", "localhost:8443", "address to listen on")
	cert := flag.String("cert", "server.pem", "certificate file")
	key := flag.String("key", "server-key.pem", "key file")
	provider := flag.String("provider", "std", "TLS library")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *cert, *key, *provider); err != nil {
		slog.Error("stopped", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, cert, key, name string) error {
	provider, err := providers.Lookup(name)
	if err != nil {
		return err
	}
	srv := &httptls.Server{
		Server:   http.Server{Handler: http.HandlerFunc(hello), ReadHeaderTimeout: 10 * time.Second},
		Provider: provider,
		Log:      slog.Default(), // failed handshakes; silent without it
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("listening on", listener.Addr())

	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(listener, cert, key) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	// Requests and HTTP/2 streams under way are finished.
	limited, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := srv.Shutdown(limited); err != nil {
		return err
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func hello(w http.ResponseWriter, r *http.Request) {
	// Request.TLS is that of net/http; the connection tells the rest.
	info := httptls.ConnFromContext(r.Context()).Info()
	fmt.Fprintf(w, "hello over %s, by %s %s\n", r.Proto, info.Provider, info.LibraryVersion)
}
