// Psk is two services of one owner, a ledger and its client, that know each
// other by a pre-shared key: no certificates, no authority, nothing that
// expires.
//
//	openssl rand -hex 32 >psk.hex
//	psk -secret psk.hex [-provider s2n] [-addr localhost:8446]
//	psk -call localhost:8446 -secret psk.hex [-provider openssl]
//
// Providers openssl and s2n have external keys (RFC 8446) and boringssl imported
// ones (RFC 9258, -imported at both ends); std has none and says so.
package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

func main() {
	addr := flag.String("addr", "localhost:8446", "address to listen on")
	target := flag.String("call", "", "be the client of this server")
	secret := flag.String("secret", "psk.hex", "file with the key in hexadecimal digits")
	imported := flag.Bool("imported", false, "use the key as RFC 9258 says")
	name := flag.String("provider", "openssl", "TLS library")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, *name, *addr, *target, *secret, *imported)
	if err != nil {
		slog.Error("failed", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, name, addr, target, secretFile string, imported bool) error {
	provider, err := providers.Lookup(name)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(secretFile)
	if err != nil {
		return err
	}
	key := tlsapi.PSK{Identity: []byte("ledger 1")} // it prints without its secret
	if key.Secret, err = hex.DecodeString(string(bytes.TrimSpace(text))); err != nil {
		return fmt.Errorf("%s: %w", secretFile, err)
	}
	if imported {
		key.Kind = tlsapi.PSKImported
	}
	// Without RequirePSK a client would fall back to certificates.
	settings := tlsapi.Settings{PSKs: []tlsapi.PSK{key}, RequirePSK: true}
	if target != "" {
		return call(ctx, provider, target, &tlsapi.ClientConfig{Settings: settings, ServerName: "ledger.internal"})
	}
	return serve(ctx, provider, addr, &tlsapi.ServerConfig{Settings: settings})
}

func serve(ctx context.Context, provider tlsapi.Provider, addr string, config *tlsapi.ServerConfig) error {
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
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprintf(conn, "balance for %s: 42\n", conn.(tlsapi.Conn).Info().PSKIdentity)
		}()
	}
}

func call(ctx context.Context, provider tlsapi.Provider, target string, config *tlsapi.ClientConfig) error {
	conn, err := httptls.DialContext(ctx, "tcp", target, provider, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.Copy(os.Stdout, conn)
	return err
}
