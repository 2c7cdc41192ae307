// Reload is an HTTPS server whose certificate is replaced while it runs: write
// new files over the old ones, or turn a link around as Kubernetes does.
// Connections that are open stay.
//
//	reload -cert server.pem -key server-key.pem [-provider boringssl] [-addr localhost:8447]
//
// SIGHUP looks at the files at once.
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

	"github.com/polytls/polytls/certreload"
	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

func main() {
	addr := flag.String("addr", "localhost:8447", "address to listen on")
	cert := flag.String("cert", "server.pem", "certificate file")
	key := flag.String("key", "server-key.pem", "key file")
	name := flag.String("provider", "std", "TLS library")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *cert, *key, *name); err != nil {
		slog.Error("stopped", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, cert, key, name string) error {
	provider, err := providers.Lookup(name)
	if err != nil {
		return err
	}
	files, err := certreload.New(certreload.Options{
		Certificates: []certreload.KeyPair{{CertFile: cert, KeyFile: key}},
		Base:         &tlsapi.ServerConfig{Settings: tlsapi.Settings{SecurityPolicy: tlsapi.PolicyIntermediate}},
		Provider:     provider,
		Log:          slog.Default(), // what was taken over, and what could not be
	})
	if err != nil {
		return err
	}
	defer files.Close()

	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	srv := &httptls.Server{
		Server: http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, "hello")
		})},
		Provider: provider,
		Config:   files.ServerConfig(),
		Log:      slog.Default(),
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("listening on", listener.Addr())
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(listener, "", "") }()
	for {
		select {
		case err := <-ended:
			return err
		case <-hangups:
			// A mistake in the files leaves everything as it was.
			if err := files.Reload(); err != nil {
				slog.Error("the files cannot be used", "error", err)
			} else {
				slog.Info("read the files again")
			}
		case <-ctx.Done():
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
	}
}
