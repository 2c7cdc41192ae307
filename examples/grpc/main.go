// Grpc is a gRPC server, and with -call its client, over the TLS library of your
// choice. The service is that of gRPC's health checks.
//
//	grpc -cert server.pem -key server-key.pem [-provider s2n] [-addr localhost:8444]
//	grpc -call localhost:8444 -ca ca.pem [-provider boringssl]
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/polytls/polytls/grpctls"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

func main() {
	addr := flag.String("addr", "localhost:8444", "address to listen on")
	cert := flag.String("cert", "server.pem", "certificate file")
	key := flag.String("key", "server-key.pem", "key file")
	target := flag.String("call", "", "be the client of this server")
	ca := flag.String("ca", "ca.pem", "file with the CAs that the client trusts")
	name := flag.String("provider", "std", "TLS library")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	provider, err := providers.Lookup(*name)
	if err == nil {
		if *target != "" {
			err = call(ctx, provider, *target, *ca)
		} else {
			err = serve(ctx, provider, *addr, *cert, *key)
		}
	}
	if err != nil {
		slog.Error("failed", "error", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, provider tlsapi.Provider, addr, cert, key string) error {
	config, err := tlsapi.ServerConfigFromFiles(cert, key)
	if err != nil {
		return err
	}
	creds, err := grpctls.NewServer(provider, config, grpctls.WithLog(slog.Default()))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.Creds(creds))
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	fmt.Println("listening on", listener.Addr())
	defer context.AfterFunc(ctx, server.GracefulStop)()
	return server.Serve(listener)
}

func call(ctx context.Context, provider tlsapi.Provider, target, ca string) error {
	roots, err := tlsapi.CertPoolFromFiles(ca)
	if err != nil {
		return err
	}
	creds, err := grpctls.NewClient(provider, &tlsapi.ClientConfig{RootCAs: roots})
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var server peer.Peer
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, new(grpc_health_v1.HealthCheckRequest), grpc.Peer(&server))
	if err != nil {
		return err
	}
	state := server.AuthInfo.(credentials.TLSInfo).State
	fmt.Printf("%v over %s, %s\n", answer.Status, tlsapi.VersionName(state.Version), tlsapi.CipherSuiteName(state.CipherSuite))
	return nil
}
