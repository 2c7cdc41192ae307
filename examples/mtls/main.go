// Mtls is a server, and with -call its client, that authenticate each other with
// certificates. The server answers with the name in the client's certificate.
//
//	mtls -cert server.pem -key server-key.pem -ca ca.pem [-provider openssl] [-addr localhost:8445]
//	mtls -call localhost:8445 -cert client.pem -key client-key.pem -ca ca.pem
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

func main() {
	addr := flag.String("addr", "localhost:8445", "address to listen on")
	target := flag.String("call", "", "be the client of this server")
	cert := flag.String("cert", "", "file with this end's certificate")
	key := flag.String("key", "", "file with its key")
	ca := flag.String("ca", "", "file with the CAs that the other end's certificate must come from")
	name := flag.String("provider", "std", "TLS library")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	provider, err := providers.Lookup(*name)
	if err == nil {
		if *target != "" {
			err = call(ctx, provider, *target, *cert, *key, *ca)
		} else {
			err = serve(ctx, provider, *addr, *cert, *key, *ca)
		}
	}
	if err != nil {
		slog.Error("failed", "error", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, provider tlsapi.Provider, addr, cert, key, ca string) error {
	config, err := tlsapi.ServerConfigFromFiles(cert, key)
	if err != nil {
		return err
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	if config.ClientCAs, err = tlsapi.CertPoolFromFiles(ca); err != nil { // the system's are never trusted for clients
		return err
	}
	listener, err := httptls.Listen("tcp", addr, provider, config)
	if err != nil {
		return err
	}
	listener.Log = slog.Default() // clients that were refused
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	fmt.Println("listening on", listener.Addr())
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go answer(conn.(tlsapi.Conn))
	}
}

// answer has a client whose certificate was verified in the handshake.
func answer(conn tlsapi.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	leaf := conn.ConnectionState().PeerCertificates[0]
	fmt.Fprintf(conn, "hello %s of %s\n", leaf.Subject.CommonName, conn.Info().PeerOrganization)
}

func call(ctx context.Context, provider tlsapi.Provider, target, cert, key, ca string) error {
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return err
	}
	config, err := tlsapi.MutualTLSClientConfig(host, cert, key, ca)
	if err != nil {
		return err
	}
	conn, err := httptls.DialContext(ctx, "tcp", target, provider, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	// In TLS 1.3 a client learns with its first Read that it was refused.
	_, err = io.Copy(os.Stdout, conn)
	return err
}
